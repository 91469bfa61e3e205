"""A laboratory for learning-rate schedules on image classifiers."""

__version__ = "0.1.0"
