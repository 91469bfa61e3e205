"""Speed, measured: training beside its peers, and what the stage tree saves."""
