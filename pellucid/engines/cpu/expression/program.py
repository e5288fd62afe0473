"""What a kernel computes of the user's functions: their expressions, with captured tensors numbered.

A captured tensor is a slot: its address, sizes and strides are read from the call's arguments, so one kernel serves all
tensors of a kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu.machine.builder import F16, F32, F64, I1, I8, I16, I32, I64, Value, vector
from pellucid.language import Expression, Interval, bounds, bounds_of_all, walk

MOST_FINITE = 1e30
STORED: dict[str, ir.Type] = {
    "bool": I8, "uint8": I8, "int8": I8, "int16": I16, "int32": I32, "int64": I64,
    "float16": F16, "bfloat16": I16, "float32": F32, "float64": F64,
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A captured tensor as a kernel knows it: which of the arguments describe it, and what is known of it."""

    number: int
    dtype: str
    ndim: int
    contiguous: bool  # neighbouring elements of the last dimension lie side by side
    whole: bool  # the last dimension is at least as long as the keys
    table: bool  # the arguments hold its block minima and maxima


@dataclass
class Program:
    """The expressions of one kernel, with their captured tensors numbered."""

    roots: dict[str, Expression]
    slots: dict[int, Slot]  # by the id of the load's tensor

    def description(self) -> str:
        """What the machine code depends on: the expressions, with slots in place of tensors."""
        names: dict[int, str] = {}
        lines = []
        for number, node in enumerate(walk(*self.roots.values())):
            names[id(node)] = f"%{number}"
            value = self.slots[id(node.value)] if node.op == "load" else node.value
            lines.append(f"%{number}={node.op}:{node.kind}({','.join(names[id(a)] for a in node.args)}){value!r}")
        roots = ",".join(f"{name}={names[id(root)]}" for name, root in self.roots.items())
        return f"{roots};{';'.join(lines)}"

    @cached_property
    def bounded(self) -> frozenset[int]:
        """Ids of the nodes whose ints never wrap around, whatever tensors hold."""
        found = bounds_of_all(*self.roots.values(), places=ANYWHERE, loaded=of_dtype)
        return frozenset(node for node, bounds in found.items() if bounds is not None)


@dataclass
class Numbers:
    """The machine types that stand for the language's int and float."""

    integer: ir.Type
    floating: ir.Type

    def of(self, kind: str, lanes: int) -> ir.Type:
        """The type of a kind."""
        return vector({"bool": I1, "int": self.integer, "float": self.floating}[kind], lanes)


@dataclass
class SlotArguments:
    """Where a captured tensor lies, as values in the kernel: addresses, and 64-bit integers. Strides count elements."""

    pointer: Value
    sizes: list[Value]
    strides: list[Value]
    table: Value | None  # minima and maxima of blocks of the last dimension, [2, rows, blocks], int64


# What is known of a function wherever it is evaluated, whatever tensors hold.
ANYWHERE = dict.fromkeys("bhqk", Interval(0, 1 << 40))


def condition_of(root: Expression) -> Expression | None:
    """The condition that a function is 1 or 0 for, if it is that."""
    return root.args[0] if root.op == "cast" and root.args[0].kind == "bool" else None


def always_finite(root: Expression) -> bool:
    """Whether a function of the place is never NaN or infinite."""
    if any(node.op == "load" for node in walk(root)):
        return False
    found = bounds(root, ANYWHERE)
    return found is not None and max(abs(found.low), abs(found.high)) < MOST_FINITE


def of_dtype(tensor: Tensor, indices: Sequence[Any]) -> Interval | None:
    """Bounds of a captured tensor's ints that hold whatever is written to it."""
    if tensor.dtype == torch.bool or tensor.is_floating_point():
        return None
    whole = torch.iinfo(tensor.dtype)
    return Interval(whole.min, whole.max)
