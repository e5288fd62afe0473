"""A call on this engine: what it needs, its kernel with its arguments, and results of what that wrote.

plan.py finds the kernel, specify.py says what it is compiled for, arguments.py calls it. rows.py, received.py,
pooled.py and weights.py make results of rows, keys, bins and parts of the matrix; the kernel or stage of the same
name is the other half.
"""
