"""A kernel written into an LLVM module."""

from __future__ import annotations

from llvmlite import ir

from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import I64, POINTER, Code


def emit(module: ir.Module, kernel: type[Kernel], spec: Spec, program: Program) -> None:
    """Write a kernel, `void name(int64 begin, int64 end, int64 *arguments)`, into a module.

    Args:
        module: where; the function has the kernel's name in lower case.
        kernel: which.
        spec: what it is compiled for.
        program: the user's functions.

    """
    signature = ir.FunctionType(ir.VoidType(), [I64, I64, POINTER])
    kernel(Code(ir.Function(module, signature, kernel.__name__.lower())), spec, program).run()
