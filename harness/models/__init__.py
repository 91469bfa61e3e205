"""Networks, fitted to images."""
