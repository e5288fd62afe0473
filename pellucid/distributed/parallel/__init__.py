"""What attends inside of a context over a sequence that lies on all ranks."""
