"""The CPU engine: attention compiled, through LLVM, for the very processor it runs on.

engine.py describes a call; kernel.py, forward.py, decode.py and columns.py are the algorithms, tiles.py and pairs.py
their matrix products, program.py the user's functions, vectormath.py the exponential and its kin; builder.py is a thin
layer over llvmlite, and compile.py and threads.py run what it builds.
"""

from pellucid.engines.cpu.engine import assembly_of, covers, ir_of, run

__all__ = ["assembly_of", "covers", "ir_of", "run"]
