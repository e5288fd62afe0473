"""The CPU engine: attention compiled, through LLVM, for the very processor it runs on.

coverage.py says which problems it runs, engine.py runs one, layout.py holds what a kernel is told, read.py shows it. A
call goes down through the folders: call/ finds and calls a kernel of kernels/, which is made of products/, the user's
functions in expression/ and what is read on the way in stages/; machine/ is a builder over llvmlite, compiles and runs.
"""

from pellucid.engines.cpu.call.weights import weights
from pellucid.engines.cpu.coverage import undifferentiated, why_not
from pellucid.engines.cpu.engine import gradients, joined, run
from pellucid.engines.cpu.machine.address import AddressError
from pellucid.engines.cpu.read import assembly_of, ir_of

__all__ = [
    "AddressError",
    "assembly_of",
    "gradients",
    "ir_of",
    "joined",
    "run",
    "undifferentiated",
    "weights",
    "why_not",
]
