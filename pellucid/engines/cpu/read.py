"""A call's kernels as text, for people who study them: LLVM's IR as it is written, and what the processor runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from pellucid.arguments import Arguments, asked, describe
from pellucid.engines.cpu.call.columns import for_columns
from pellucid.engines.cpu.call.plan import kernel_of
from pellucid.engines.cpu.call.specify import program_of, spec_of
from pellucid.engines.cpu.call.weights import for_weights
from pellucid.engines.cpu.coverage import why_not
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.columns import Columns
from pellucid.engines.cpu.kernels.decode import Decode
from pellucid.engines.cpu.kernels.emit import emit
from pellucid.engines.cpu.kernels.forward import Forward
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.kernels.one_tile import OneTile
from pellucid.engines.cpu.kernels.weights import Weights
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.target import Target, host
from pellucid.engines.cpu.stages.table import readings_of, stages_of
from pellucid.problem import Problem

NAMES: dict[type[Kernel], str] = {Forward: "forward", OneTile: "one_tile", Decode: "decode"}
Source = tuple[type[Kernel], Spec, Program]


def ir_of(
    query: Tensor, key: Tensor, value: Tensor, *, kernel: str | None = None, target: Target | None = None, **call: Any
) -> str:
    """The LLVM IR of a kernel that `pellucid.observe(query, key, value, **call)` runs, as it is written.

    Args:
        query: as in `attention`.
        key: see `attention`.
        value: see `attention`.
        kernel: "forward", "one_tile" or "decode", whichever makes the output of this call (it is the one if None);
            "columns", for the readouts that sum over queries; "weights", for `observation.weights`.
        target: the processor, from `target.describe`; this one (or the one that PELLUCID_CPU names) if None.
        call: the other arguments of `observe`, by name.

    Raises:
        TypeError: as `attention`.
        ValueError: as `attention`, or no kernel of that name serves the call.

    Example:
        >>> import torch
        >>> from pellucid.engines.cpu import ir_of
        >>> x = torch.rand(12, 2048, 64)
        >>> "llvm.fmuladd" in ir_of(x, x, x, is_causal=True)
        True

    """
    return str(_module(asked(query, key, value, **call), kernel, target))


def assembly_of(
    query: Tensor, key: Tensor, value: Tensor, *, kernel: str | None = None, target: Target | None = None, **call: Any
) -> str:
    """The machine code of a kernel as text.

    Args:
        query: as in `attention`.
        key: see `attention`.
        value: see `attention`.
        kernel: see `ir_of`.
        target: see `ir_of`.
        call: see `ir_of`.

    Raises:
        TypeError: see `ir_of`.
        ValueError: see `ir_of`.

    """
    return compiler.assembly(_module(asked(query, key, value, **call), kernel, target), target or host())


def _module(call: Arguments, kernel: str | None, target: Target | None) -> ir.Module:
    problem, _ = describe(call)
    with torch.no_grad():
        if why_not(problem) is not None:
            raise ValueError("query, key, value: this engine has no kernel for this call; the portable engine runs it")
    sources = _sources(problem, target or host())
    name = kernel or next(iter(sources))
    if name not in sources:
        raise ValueError(f"kernel: one that serves this call is needed, {' or '.join(sources)}; got {name!r}")
    chosen, spec, program = sources[name]
    module = ir.Module(name)
    module.triple = spec.target.triple
    emit(module, chosen, spec, program)
    return module


def _sources(problem: Problem, target: Target) -> dict[str, Source]:
    """What kernels of the call are compiled from, that of the output first."""
    readings, functions = readings_of(problem)
    program = program_of(problem, functions)
    spec = spec_of(problem, program, stages_of(readings), target)
    kernel, spec, _ = kernel_of(problem, spec)
    found: dict[str, Source] = {NAMES[kernel]: (kernel, spec, program)}
    if any(reading.second is not None for reading in readings):
        found["columns"] = (Columns, *for_columns(problem, readings, target))
    return found | {"weights": (Weights, *for_weights(replace(problem, readouts=()), target))}
