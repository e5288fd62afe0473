"""Matrix tiles in plain code: kernels written for a processor that has them run on any other with AVX-512, slowly.

The tile registers are memory of the kernel's own, and an instruction is a function beside it. Everything else is the
engine as it is. All tiles are taken to be configured whole, 16 rows of 64 bytes. What a processor does to numbers is
done here too: sums of a word's lower and upper halves are apart until the end, denormal numbers count as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llvmlite import ir

from pellucid.engines.cpu.kernels import emit
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.builder import BF16, F32, I8, I32, POINTER, Code, Value, vector
from pellucid.engines.cpu.machine.target import Target, host
from pellucid.engines.cpu.products.amx import SIDE
from pellucid.engines.cpu.products.dots import ROUND_TWO
from pellucid.engines.cpu.products.tiles import float_to_bfloat16
from tests.engines.cpu.emulated import compiling_for

REGISTERS, WORDS = 8, SIDE * SIDE
SMALLEST = 2.0**-126  # that is no denormal number

# On vectors of less than that LLVM 22 also goes wrong: it reads what the masks of loads leave out.
needs_tiles = pytest.mark.skipif(host().vector_bytes < 64, reason="only where the processor has AVX-512")


@contextmanager
def matrix_tiles(folder: Path) -> Iterator[None]:
    """Inside it, kernels use matrix tiles: the processor's own if it has some, else soft ones, compiled to `folder`."""
    if host().bf16_tiles:
        yield
        return
    with compiling_for(with_tiles(host())), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PELLUCID_CACHE", str(folder))
        patch.setattr(compiler, "_loaded", {})
        patch.setattr(emit, "Code", SoftCode)
        yield


def with_tiles(own: Target) -> Target:
    """The same processor with matrix tiles."""
    return replace(own, bf16_tiles=True)


class SoftCode(Code):
    """Code that calls functions where there would be instructions on tiles."""

    def __init__(self, function: ir.Function) -> None:
        super().__init__(function)
        self.tiles = Value(self, self.ir.alloca(ir.ArrayType(F32, REGISTERS * WORDS), name="soft_tiles"))
        self.configured = False  # where the code is written that comes next

    def intrinsic(self, name: str, result: ir.Type, *args: Value) -> Value:
        """A call of an intrinsic, or of what stands for it."""
        instruction = name.removeprefix("llvm.x86.")
        if instruction in INSTRUCTIONS:
            self._on_tiles(instruction, *args)
            return self.tiles  # these give nothing
        if name == ROUND_TWO and not host().bf16_dot:
            return _rounded(self, *args)
        return super().intrinsic(name, result, *args)

    def _on_tiles(self, name: str, *args: Value) -> None:
        assert self.configured == (name != "ldtilecfg"), "a processor refuses"
        self.configured = name != "tilerelease"
        if not self.configured:
            return
        numbers = [arg.raw.constant for arg in args if arg.type == I8]
        assert len(set(numbers)) == len(numbers), "a processor multiplies no tile with itself"
        assert all(0 <= number < REGISTERS for number in numbers)
        registers = [self.at(self.tiles, number * WORDS, F32) for number in numbers]
        self._function(name, *(registers or [self.tiles]), *args[len(numbers) :])

    def _function(self, name: str, *args: Value) -> None:
        function = self.module.globals.get(name)
        if function is None:
            types = [arg.type if isinstance(arg.type, ir.IntType) else POINTER for arg in args]
            function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            code = Code(function)
            INSTRUCTIONS[name](code, *code.arguments)
            code.ir.ret_void()
        self.ir.call(function, [arg.raw for arg in args])


def _configure(code: Code, tiles: Value, configuration: Value) -> None:
    """Nothing in any tile."""
    code.loop(0, REGISTERS, lambda i: _clear(code, code.at(tiles, i * WORDS, F32)))


def _clear(code: Code, tile: Value) -> None:
    _each_row(code, lambda row: code.store(tile, code.constant(vector(F32, SIDE), 0.0), row * SIDE))


def _load(code: Code, tile: Value, source: Value, stride: Value) -> None:
    """Rows that lie `stride` bytes apart."""

    def copy(row: Value) -> None:
        code.store(tile, code.load(code.at(source, row * stride), vector(F32, SIDE)), row * SIDE)

    _each_row(code, copy)


def _store(code: Code, tile: Value, target: Value, stride: Value) -> None:
    def copy(row: Value) -> None:
        code.store(code.at(target, row * stride), code.load(tile, vector(F32, SIDE), row * SIDE))

    _each_row(code, copy)


def _multiply(code: Code, sums: Value, left: Value, right: Value) -> None:
    """sums + left @ right, of rows of `left` and columns of `right` that are pairs of bfloat16."""

    def word(row: Value, k: Value, totals: tuple[Value, ...]) -> list[Value]:
        factors = _halves(code, code.load(left, I32, row * SIDE + k))
        operands = _halves(code, code.load(right, vector(I32, SIDE), k * SIDE))
        return [_flushed(code, code.fma(*three)) for three in zip(factors, operands, totals, strict=True)]

    def add(row: Value) -> None:
        zero = code.constant(vector(F32, SIDE), 0.0)
        low, high = code.loop(0, SIDE, lambda k, *totals: word(row, k, totals), [zero, zero])
        before = _flushed(code, code.load(sums, vector(F32, SIDE), row * SIDE))
        code.store(sums, _flushed(code, before + _flushed(code, low + high)), row * SIDE)

    _each_row(code, add)


def _each_row(code: Code, body: Callable[[Value], None]) -> None:
    code.loop(0, SIDE, body)


def _halves(code: Code, words: Value) -> list[Value]:
    """The lower and the upper bfloat16 of each word."""
    return [_flushed(code, half.bits(vector(F32, words.lanes))) for half in (words << 16, words & -0x10000)]


def _flushed(code: Code, numbers: Value) -> Value:
    return code.select(code.unary("fabs", numbers) < SMALLEST, 0.0, numbers)


def _rounded(code: Code, high: Value, low: Value) -> Value:
    """Two vectors as one of bfloat16, the second one's numbers first."""
    both = (float_to_bfloat16(code, half) for half in (low, high))
    return code.shuffle(*both, range(2 * low.lanes)).bits(vector(BF16, 2 * low.lanes))


INSTRUCTIONS: dict[str, Callable[..., Any]] = {
    "ldtilecfg": _configure,
    "tilerelease": lambda code: None,
    "tilezero": _clear,
    "tileloadd64": _load,
    "tilestored64": _store,
    "tdpbf16ps": _multiply,
}
