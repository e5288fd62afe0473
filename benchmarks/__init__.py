"""Attention side by side: every contender on the same tensors, in one process, taking turns.

`python -m benchmarks` runs it all; docs/benchmarks.md says what the numbers show and what they do not.
"""
