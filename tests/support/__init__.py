"""What several test files start from."""
