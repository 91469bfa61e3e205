"""Images to normalised batches."""
