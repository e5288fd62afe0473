"""What calls of attention come from, a file each."""
