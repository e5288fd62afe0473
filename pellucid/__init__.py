"""Exact softmax attention for PyTorch that can be seen through."""
