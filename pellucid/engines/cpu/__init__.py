"""The CPU engine: attention compiled, through LLVM, for the very processor it runs on.

engine.py describes a call, forward.py is the algorithm, tiles.py its matrix products, program.py the user's functions,
vectormath.py the exponential and its kin, builder.py a thin layer over llvmlite, compile.py and threads.py what runs it.
"""

from pellucid.engines.cpu.engine import assembly_of, covers, ir_of, run

__all__ = ["assembly_of", "covers", "ir_of", "run"]
