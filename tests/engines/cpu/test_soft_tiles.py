"""Soft tiles multiply as a processor's own: both pass the same tests."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from llvmlite import ir
from torch import Tensor

from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.builder import F32, POINTER, Code
from pellucid.engines.cpu.machine.target import host
from pellucid.engines.cpu.products.amx import SIDE, Matrix
from tests.engines.cpu.soft_tiles import SoftCode, needs_tiles, with_tiles

pytestmark = needs_tiles
STRIDE = 19  # words from one row on the left to the next
Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]


def written(kind: type[Code]) -> Multiply:
    """What gives sums + left @ right."""
    target = host() if kind is Code else with_tiles(host())
    spec = Spec(target, "bfloat16", 2 * SIDE, SIDE, vectors=2, dots=True, matrix=True)

    def emit(module: ir.Module) -> None:
        code = kind(ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 3), "multiply"))
        left, right, sums = code.arguments
        products = Matrix(code, spec, {}, code.constant(F32, 1.0))
        products.begin()
        products.add_product(left, STRIDE, right, sums, 1)
        products.end()
        code.ir.ret_void()

    kernel = compiler.function("multiply", f"a test's, {kind.__name__}", emit, target)

    def multiply(left: Tensor, right: Tensor, sums: Tensor) -> Tensor:
        rows = torch.full((SIDE, 2 * STRIDE), torch.nan).bfloat16()
        rows[:, : 2 * SIDE] = left
        words, result = right.unflatten(0, (SIDE, 2)).transpose(1, 2).contiguous(), sums.clone()
        ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(kernel.address)(
            rows.data_ptr(), words.data_ptr(), result.data_ptr()
        )
        return result

    return multiply


@pytest.fixture(scope="module", params=["soft", "the processor's"])
def multiply(request: pytest.FixtureRequest) -> Multiply:
    if request.param != "soft" and not host().bf16_tiles:
        pytest.skip("only where the processor has matrix tiles of bfloat16")
    return written(SoftCode if request.param == "soft" else Code)


def drawn(exponents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left, right and sums, of magnitudes up to two to the power of so much, and as much below."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape) * 2.0 ** torch.randint(-exponents, exponents + 1, shape)

    return draw(SIDE, 2 * SIDE).bfloat16(), draw(2 * SIDE, SIDE).bfloat16(), draw(SIDE, SIDE)


@pytest.mark.parametrize("exponents", [0, 5])
def test_products(multiply: Multiply, exponents: int) -> None:
    left, right, sums = drawn(exponents)
    magnitude = left.double().abs() @ right.double().abs() + sums.abs()
    exact = left.double() @ right.double() + sums
    assert ((multiply(left, right, sums) - exact).abs() <= 18 * 2.0**-24 * magnitude).all()  # 16 sums, and two


def test_denormal_numbers_count_as_nothing(multiply: Multiply) -> None:
    nothing, ones = torch.zeros(SIDE, SIDE), torch.ones(2 * SIDE, SIDE).bfloat16()
    for left, right, sums in ((2.0**-127, 2.0**100, 0.0), (2.0**-70, 2.0**-70, 0.0), (0.0, 1.0, 2.0**-130)):
        assert torch.equal(multiply(ones.T * left, ones * right, nothing + sums), nothing)
    least = torch.full((SIDE, SIDE), 32 * 2.0**-126)
    assert torch.equal(multiply(ones.T * 2.0**-126, ones, nothing), least)
