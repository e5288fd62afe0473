"""Whole models observed: calls of attention, the sources that they come from, and the run that reads them."""
