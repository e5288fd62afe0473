"""A kernel's code as an LLVM module: to be compiled, or to be read."""

from __future__ import annotations

from llvmlite import ir

from pellucid.engines.cpu import compile as compiler
from pellucid.engines.cpu.builder import I64, POINTER, Code
from pellucid.engines.cpu.forward import Forward
from pellucid.engines.cpu.kernel import Kernel
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.program import Program
from pellucid.engines.cpu.specify import program_of, spec_of
from pellucid.engines.cpu.target import Target, host
from pellucid.problem import Problem


def emit(module: ir.Module, kernel: type[Kernel], spec: Spec, program: Program) -> None:
    """Write a kernel, `void name(int64 begin, int64 end, int64 *arguments)`, into a module."""
    signature = ir.FunctionType(ir.VoidType(), [I64, I64, POINTER])
    kernel(Code(ir.Function(module, signature, kernel.__name__.lower())), spec, program).run()


def ir_of(problem: Problem, target: Target | None = None) -> str:
    """The LLVM IR of the forward kernel that would run `problem`, for reading."""
    return str(_module(problem, target))


def assembly_of(problem: Problem, target: Target | None = None) -> str:
    """The machine code of the forward kernel that would run `problem`, as text, for reading."""
    return compiler.assembly(_module(problem, target), target or host())


def _module(problem: Problem, target: Target | None) -> ir.Module:
    program = program_of(problem)
    spec = spec_of(problem, program, target)
    module = ir.Module(Forward.__name__)
    module.triple = spec.target.triple
    emit(module, Forward, spec, program)
    return module
