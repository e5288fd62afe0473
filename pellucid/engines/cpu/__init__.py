"""The CPU engine: attention compiled, through LLVM, for the very processor it runs on.

coverage.py says which problems it runs, specify.py what kernel a problem needs, engine.py which; call.py calls it,
state.py, sums.py and part.py make results of what it wrote. kernel.py, forward.py, decode.py, columns.py and weights.py
are the algorithms, tiles.py and pairs.py their matrix products, program.py the user's functions, vectormath.py the
exponential and its kin; builder.py is a thin layer over llvmlite, and emit.py, compile.py and threads.py run what it
builds. read.py shows it.
"""

from pellucid.engines.cpu.address import AddressError
from pellucid.engines.cpu.coverage import why_not
from pellucid.engines.cpu.engine import repeat, run
from pellucid.engines.cpu.part import weights
from pellucid.engines.cpu.read import assembly_of, ir_of

__all__ = ["AddressError", "assembly_of", "ir_of", "repeat", "run", "weights", "why_not"]
