"""Hydra: the command line, composition, multiruns. Nothing below knows it."""
