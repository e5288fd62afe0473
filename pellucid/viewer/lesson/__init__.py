"""Attention step by step, for `pellucid explain`: the numbers, and the words about them."""
