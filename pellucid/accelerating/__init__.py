"""Pellucid's operator in place of a model's own, without observing: for speed."""
