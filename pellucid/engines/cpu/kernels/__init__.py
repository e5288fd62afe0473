"""The algorithms, one kernel a file; kernel.py is what they share, emit.py writes one into a module of LLVM."""
