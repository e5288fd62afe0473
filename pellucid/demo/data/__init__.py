"""Dates as people of twenty languages write them, without end: what the model is trained on and judged by."""
