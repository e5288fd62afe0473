"""Attention as pictures, drawn with matplotlib: every head of a reading, every head of a record."""
