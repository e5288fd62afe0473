"""An expression's values as compiled code computes them: without attention around, so that each number can be seen."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping

import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu.call.specify import dtype_name
from pellucid.engines.cpu.expression.program import Numbers, Program, Slot, SlotArguments
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.builder import F32, F64, I8, I32, I64, POINTER, Code, Value, vector
from pellucid.engines.cpu.machine.target import host
from pellucid.language import Expression, walk

MOST_DIMS = 4
STORED = {"bool": torch.bool, "int": torch.int64}
_serial = itertools.count()


def computed(
    *roots: Expression, inputs: Mapping[str, Tensor], dtype: torch.dtype, narrow: bool = False
) -> list[Tensor]:
    """What compiled code gives for each of `roots`, in the shape to which the inputs broadcast.

    Args:
        roots: expressions.
        inputs: a tensor for each of "score", "b", "h", "q" and "k".
        dtype: the precision of floats.
        narrow: whether ints are of 32 bits.

    """
    shape = torch.broadcast_shapes(*(t.shape for t in inputs.values()))
    lanes = host().lanes(dtype.itemsize)
    width = -(-shape[-1] // lanes) * lanes
    columns = torch.arange(width).clamp(max=shape[-1] - 1)  # the last key again, where lanes are left over
    given = {n: t.expand(shape)[..., columns].flatten(0, -2).contiguous() for n, t in inputs.items()}
    given = {n: t.to(dtype) if n == "score" else t.long() for n, t in given.items()}
    results = [torch.empty(given["k"].shape, dtype=STORED.get(root.kind, dtype)) for root in roots]
    loads = {id(n.value): n.value for n in walk(*roots) if n.op == "load"}
    slots = {key: Slot(i, dtype_name(t), t.ndim, False, False, False) for i, (key, t) in enumerate(loads.items())}
    program = Program({f"r{i}": root for i, root in enumerate(roots)}, slots)
    fixed = [len(given["k"]), width, *(t.data_ptr() for t in (*given.values(), *results))]
    numbers = fixed + [number for tensor in loads.values() for number in _described(tensor)]
    kernel = _Kernel(program, dtype, narrow, list(given), len(fixed), lanes)
    compiled = compiler.function("lowered", f"{next(_serial)} {id(program)}", kernel.emit, host())
    array = (ctypes.c_int64 * len(numbers))(*numbers)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)(array)
    return [result[:, : shape[-1]].reshape(shape) for result in results]


def _described(tensor: Tensor) -> list[int]:
    rest = [0] * (MOST_DIMS - tensor.ndim)
    return [tensor.data_ptr(), *tensor.shape, *rest, *tensor.stride(), *rest]


class _Kernel:
    """The loop over rows, and over the vectors of each."""

    def __init__(
        self, program: Program, dtype: torch.dtype, narrow: bool, names: list[str], first: int, lanes: int
    ) -> None:
        self.program, self.names, self.first, self.lanes = program, names, first, lanes
        self.numbers = Numbers(I32 if narrow else I64, F32 if dtype == torch.float32 else F64)

    def emit(self, module: ir.Module) -> None:
        """Write the function."""
        code = self.code = Code(ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "lowered"))
        slots = {slot.number: self._slot(slot) for slot in self.program.slots.values()}
        self.values = Values(code, self.program, self.numbers, slots)
        width = self._at(1)
        code.loop(
            0, self._at(0), lambda row: code.loop(0, width, lambda i: self._vector(row * width, i), step=self.lanes)
        )
        code.ir.ret_void()

    def _at(self, place: int) -> Value:
        return self.code.load(self.code.arguments[0], I64, place)

    def _pointer(self, place: int) -> Value:
        return Value(self.code, self.code.ir.inttoptr(self._at(place).raw, POINTER))

    def _slot(self, slot: Slot) -> SlotArguments:
        start = self.first + slot.number * (1 + 2 * MOST_DIMS)
        sizes, strides = ([self._at(start + 1 + MOST_DIMS * j + i) for i in range(slot.ndim)] for j in range(2))
        return SlotArguments(self._pointer(start), sizes, strides, None)

    def _vector(self, row: Value, column: Value) -> None:
        """One vector of neighbouring keys; b, h and q are scalars, as in an engine."""
        code, values = self.code, self.values
        for i, name in enumerate(self.names):
            element = self.numbers.floating if name == "score" else I64
            lanes = self.lanes if name in ("score", "k") else 1
            given = code.load(self._pointer(2 + i), vector(element, lanes), row + column)
            values = values.bind(name, given if name == "score" else given.to(self.numbers.integer))
        for i, root in enumerate(self.program.roots.values()):
            found = code.spread(values.value(root), self.lanes)
            stored = {"bool": I8, "int": I64}.get(root.kind)
            found = found if stored is None else found.unsigned(I8) if root.kind == "bool" else found.to(stored)
            code.store(self._pointer(2 + len(self.names) + i), found, row + column)
