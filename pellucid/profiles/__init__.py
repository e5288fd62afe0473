"""Profiles: every head over a corpus, as sums that merge exactly, in one file."""
