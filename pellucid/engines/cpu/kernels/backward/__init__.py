"""The backward kernel: the gradients of query, key, value and what functions captured, keys outer and queries inner."""
