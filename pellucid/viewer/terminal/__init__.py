"""Attention in a terminal: the map of one text, the pages that `pellucid show` prints."""
