"""What one watched run adds to a profile."""
