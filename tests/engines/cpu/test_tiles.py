"""What vectors are turned, laid end to end and sorted by, each compiled by itself."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable

import pytest
import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.builder import F32, F64, I64, POINTER, Code, Value, lanes_of, vector
from pellucid.engines.cpu.machine.target import host
from pellucid.engines.cpu.products import tiles

ELEMENTS = {torch.float32: F32, torch.float64: F64}
Made = Callable[[Code, ir.Type, Value], list[Value]]


def computed(name: str, source: Tensor, lanes: int, step: int, made: Made) -> Tensor:
    """The vectors that `made` gives of `source`, again and again `step` numbers further, [times, vectors, lanes]."""
    type_ = vector(ELEMENTS[source.dtype], lanes)
    vectors = 0

    def emit(module: ir.Module) -> None:
        nonlocal vectors
        code = Code(ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64]), "tested"))
        read, written, times = code.arguments

        def once(i: Value) -> None:
            nonlocal vectors
            found = made(code, type_, code.at(read, i * step, ELEMENTS[source.dtype]))
            vectors = len(found)
            for number, one in enumerate(found):
                code.store(written, one, (i * vectors + number) * lanes)

        code.loop(0, times, once)
        code.ir.ret_void()

    emit(ir.Module())  # for the number of vectors, also where the code is known
    kernel = compiler.function("tested", f"{name} {type_} {step}", emit, host())
    times = source.numel() // step
    found = torch.full((times, vectors, lanes), torch.nan, dtype=source.dtype)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(kernel.address)
    call(source.data_ptr(), found.data_ptr(), times)
    return found


def loaded(code: Code, type_: ir.Type, source: Value, count: int) -> list[Value]:
    lanes = lanes_of(type_)
    return [code.load(source, type_, i * lanes) for i in range(count)]


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 16])
def test_descending_sorts_every_zero_and_one(count: int, dtype: torch.dtype) -> None:
    """A network that sorts all of these sorts everything (Knuth, The Art of Computer Programming, 5.3.4)."""
    lanes = 4
    rows = torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=dtype)
    rows = torch.cat([rows, torch.randn(max(4, -len(rows) % lanes), count, dtype=dtype)])
    rows = rows[: len(rows) // lanes * lanes]
    columns = rows.view(-1, lanes, count).mT.contiguous()  # a row in each lane
    found = computed(
        f"descending {count}", columns, lanes, count * lanes,
        lambda code, type_, source: tiles.descending(code, loaded(code, type_, source, count)),
    )  # fmt: skip
    assert torch.equal(found.mT.reshape(rows.shape), rows.sort(-1, descending=True).values)


@pytest.mark.parametrize(
    ("dtype", "lanes"), [(d, n) for d in ELEMENTS for n in (2, 4, 8, 16) if n <= 64 // d.itemsize], ids=str
)
@pytest.mark.parametrize("stride", [0, 3, 257])
def test_squares_of_memory_are_turned(dtype: torch.dtype, lanes: int, stride: int) -> None:
    """Two of them, from rows that do not begin at whole vectors."""
    stride += lanes
    memory = torch.arange(2 * lanes * stride, dtype=dtype)
    squares = memory.view(2, lanes, stride)[..., :lanes]
    found = computed(
        f"load_transposed {stride}", memory, lanes, lanes * stride,
        lambda code, type_, source: tiles.load_transposed(code, type_, source, stride),
    )  # fmt: skip
    assert torch.equal(found, squares.mT)


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_vectors_are_turned_and_combined(lanes: int) -> None:
    memory = torch.randn(3, lanes, lanes)
    turned = computed(
        "transposed", memory, lanes, lanes * lanes,
        lambda code, type_, source: tiles.transposed(code, loaded(code, type_, source, lanes)),
    )  # fmt: skip
    assert torch.equal(turned, memory.mT)
    largest = computed(
        "across_rows", memory, lanes, lanes * lanes,
        lambda code, type_, source: [
            tiles.across_rows(code, loaded(code, type_, source, lanes), code.maximum)
        ],
    )  # fmt: skip
    assert torch.equal(largest[:, 0], memory.amax(-1))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_laid_end_to_end(parts: int) -> None:
    lanes, memory = 4 * parts, torch.arange(24.0 * parts)
    found = computed(
        f"joined {parts}", memory, lanes, lanes,
        lambda code, type_, source: [tiles.joined(code, loaded(code, vector(F32, 4), source, parts))],
    )  # fmt: skip
    assert torch.equal(found.flatten(), memory)
