"""One row through a linear layer: its weights are read once from memory, which is the whole cost.

A step of a generation takes one row through every layer. Torch's kernels for bfloat16 and float32 read their weights at
half of the memory's speed on some processors, and then take more time than all attention to a long context.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu.expression.values import bfloat16_to_float
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import threads
from pellucid.engines.cpu.machine.address import address_of, address_of_own
from pellucid.engines.cpu.machine.builder import F32, I16, I32, I64, POINTER, Code, Value, bytes_of, vector
from pellucid.engines.cpu.machine.target import Target, host
from pellucid.engines.cpu.products.tiles import float_to_bfloat16
from pellucid.tensors.storage import reach

ARGUMENTS = ("row", "weight", "bias", "output", "columns", "outputs", "stride", "share")
DTYPES = {torch.bfloat16: I16, torch.float32: F32}  # and how an element lies in memory
AT_ONCE = 4  # vectors, each with a sum of its own: so many hide how long an addition takes
WORK_A_THREAD = 1 << 17  # weights that are worth another thread


def row_through(row: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """row @ weight.T + bias, without gradient.

    Args:
        row: [..., columns], contiguous, of one row in all; of DTYPES, as all of these.
        weight: [outputs, columns], each of its rows contiguous.
        bias: [outputs], contiguous.

    Returns:
        [..., outputs], summed up in float32.

    """
    outputs, columns = weight.shape
    output = torch.empty(*row.shape[:-1], outputs, dtype=row.dtype, device="cpu")
    shares = max(1, min(torch.get_num_threads(), outputs, weight.numel() // WORK_A_THREAD))
    arguments = (ctypes.c_int64 * len(ARGUMENTS))(
        address_of(row), address_of(weight, reach(weight)), 0 if bias is None else address_of(bias),
        address_of_own(output), columns, outputs, weight.stride(0), -(-outputs // shares),
    )  # fmt: skip
    kernel = _kernel(DTYPES[row.dtype], bias is not None, host())
    threads.run(kernel.address, ctypes.addressof(arguments), shares)
    return output


@cache
def _kernel(element: ir.Type, has_bias: bool, target: Target) -> compiler.Loaded:
    def emit(module: ir.Module) -> None:
        signature = ir.FunctionType(ir.VoidType(), [I64, I64, POINTER])
        Row(Code(ir.Function(module, signature, "row")), element, has_bias, target).run()

    return compiler.function("row", f"{element} {has_bias}", emit, target)


class Row:
    """The kernel being written, `void row(int64 begin, int64 end, int64 *arguments)`: some shares of the outputs.

    Args:
        code: the body of the function.
        element: how an element of row, weight, bias and output lies in memory, one of the values of DTYPES.
        has_bias: whether there is a bias.
        target: the processor.

    """

    def __init__(self, code: Code, element: ir.Type, has_bias: bool, target: Target) -> None:
        self.code, self.element, self.has_bias, self.target = code, element, has_bias, target
        self.begin, self.end, arguments = code.arguments
        self.number = {name: code.load(arguments, I64, place, align=8) for place, name in enumerate(ARGUMENTS)}
        pointers = ("row", "weight", "bias", "output")
        self.at = {name: Value(code, code.ir.inttoptr(self.number[name].raw, POINTER)) for name in pointers}
        self.lanes = target.lanes(4)
        self.elements = self.lanes * 4 // bytes_of(element)  # of a vector

    def run(self) -> None:
        """Each output of these shares."""
        first = self.begin * self.number["share"]
        stop = self.code.minimum(self.end * self.number["share"], self.number["outputs"])
        self.code.loop(first, stop, self.output)
        self.code.ir.ret_void()

    def output(self, j: Value) -> None:
        """The product of the row and a row of weights."""
        code, columns = self.code, self.number["columns"]
        weights = code.at(self.at["weight"], j * self.number["stride"], self.element)
        step = AT_ONCE * self.elements
        whole = columns / step * step

        def some(i: Value, *sums: Value) -> list[Value]:
            return [self.add(i + u * self.elements, weights, sum_, None) for u, sum_ in enumerate(sums)]

        def rest(i: Value, sum_: Value) -> list[Value]:
            valid = code.ramp(I32, self.elements) < code.spread((columns - i).to(I32), self.elements)
            return [self.add(i, weights, sum_, valid)]

        sums = code.loop(0, whole, some, [code.constant(vector(F32, self.lanes), 0.0)] * AT_ONCE, step=step)
        sums[:1] = code.loop(whole, columns, rest, sums[:1], step=self.elements)
        total = code.reduce("add", (sums[0] + sums[1]) + (sums[2] + sums[3]))
        if self.has_bias:
            bias = code.load(self.at["bias"], self.element, j)
            total = total + (bfloat16_to_float(bias) if self.element is I16 else bias)
        code.store(self.at["output"], float_to_bfloat16(code, total) if self.element is I16 else total, j)

    def add(self, i: Value, weights: Value, total: Value, valid: Value | None) -> Value:
        """total + row * weights, for a vector from a column on; where not `valid`, nothing is read.

        Args:
            i: the vector's first column, a 64-bit integer of the kernel.
            weights: the address of a row of weights.
            total: the sums so far, a vector of float32.
            valid: which of the vector's elements exist, a bit each; None if all do, and then memory ahead is asked for.

        """
        code, requests = self.code, self.target.requests
        if valid is None:
            code.prefetch(weights, self.element, i + requests.ahead // bytes_of(self.element), requests.cache)
        for factors in zip(self.numbers(self.at["row"], i, valid), self.numbers(weights, i, valid), strict=True):
            total = code.fma(*factors, total)
        return total

    def numbers(self, source: Value, i: Value, valid: Value | None) -> list[Value]:
        """A vector of elements as numbers: of pairs of bfloat16 the lower ones, then the upper."""
        code, type_ = self.code, vector(self.element, self.elements)
        raw = code.load(source, type_, i) if valid is None else code.masked_load(source, type_, valid, i)
        if self.element is F32:
            return [raw]
        words, floats = raw.bits(vector(I32, self.lanes)), vector(F32, self.lanes)
        return [(words << 16).bits(floats), (words & -0x10000).bits(floats)]
