"""What a person sees of one run."""
