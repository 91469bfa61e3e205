"""Speed, measured: training beside its peers, features, growth, start-up, and what the stage tree saves."""
