"""Profiles in a file: tensors in the manner of safetensors, and what they are of as JSON among them."""
