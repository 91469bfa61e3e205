"""A laboratory for learning-rate schedules on image classifiers."""
