"""Training the model: its batches, its steps."""
