"""A call on this engine: what it needs, and its kernel with its arguments.

plan.py finds the kernel, specify.py says what it is compiled for, arguments.py calls it. columns.py and weights.py are
the calls of the kernels of these names.
"""
