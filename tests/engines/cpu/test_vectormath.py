"""The vector functions against float64, in units of the last place, and at the values where they could break."""

import ctypes
import math
from functools import partial

import pytest
import torch
from llvmlite import ir

from pellucid.engines.cpu.expression import by_lane, circular, vectormath
from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine.builder import F32, F64, I64, POINTER, Code, vector
from pellucid.engines.cpu.machine.target import host

LANES = 8
RANGES = {
    "exp2": [(-126, 1), (-1, 0)],
    "exp": [(-87, 88), (-1, 1)],
    "tanh": [(-30, 30), (-0.01, 0.01)],
    "sigmoid": [(-80, 80), (-1, 1)],
    "log": [(1e-30, 1e30), (2, 5), (0.999, 1.001)],
    "log2": [(1e-30, 1e30), (2, 5), (0.999, 1.001)],
    "expm1": [(-80, 80), (-1.5, 1.5), (-1e-6, 1e-6)],
    "log10": [(1e-30, 1e30), (2, 5), (0.999, 1.001)],
    "log1p": [(-0.999, 1e6), (-0.5, 0.5), (-1e-9, 1e-9)],
    "erf": [(-7, 7), (-1.1, 1.1), (-1e-9, 1e-9)],
    "erfc": [(-3, 9)],
    **{name: [(-10, 10), (-1e-3, 1e-3), (-2e6, 2e6), (1e20, 1e38)] for name in ("sin", "cos", "tan")},
    "asin": [(-1, 1), (-1e-3, 1e-3)],
    "acos": [(-1, 1), (0.999, 1)],
    "atan": [(-9, 9), (-1e-3, 1e-3), (-1e30, 1e30)],
    **{name: [(-80, 80), (-1e-3, 1e-3)] for name in ("sinh", "cosh", "asinh")},
    "acosh": [(1, 1.01), (1, 1e30)],
    "atanh": [(-0.999, 0.999), (-1e-3, 1e-3)],
}
FUNCTIONS = vectormath.FUNCTIONS | circular.FUNCTIONS | by_lane.FUNCTIONS

# exp2_of_distance with each degree that kernels use, and each of its forms.
DISTANCES = {
    f"{degree}{scaling}": partial(vectormath.exp2_of_distance, degree=degree, scaling=scaling)
    for degree in (5, 11)
    for scaling in (False, True)
}


def computed(name: str, x: torch.Tensor, lanes: int = LANES) -> torch.Tensor:
    element = F32 if x.dtype == torch.float32 else F64
    function = (FUNCTIONS | DISTANCES)[name]
    symbol = f"test_{name}"  # not the C library's

    def emit(module: ir.Module) -> None:
        code = Code(ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64]), symbol))
        source, target, count = code.arguments
        type_ = vector(element, lanes)
        code.loop(0, count, lambda i: code.store(target, function(code, code.load(source, type_, i)), i), step=lanes)
        code.ir.ret_void()

    kernel = compiler.function(symbol, f"test {element} {lanes}", emit, host())
    y = torch.full_like(x, math.nan)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(kernel.address)
    call(x.data_ptr(), y.data_ptr(), x.numel())
    return y


@pytest.mark.parametrize("name", RANGES)
def test_error_in_units_of_the_last_place(name: str) -> None:
    for low, high in RANGES[name]:
        x = torch.linspace(low, high, 80_000)
        exact = getattr(torch, name)(x.double())
        units = (computed(name, x).double() - exact).abs() / (exact.abs() * torch.finfo(torch.float32).eps)
        assert units[exact != 0].max() < 3, (low, high)


@pytest.mark.parametrize("name", RANGES)
def test_error_in_float64(name: str) -> None:
    for low, high in RANGES[name]:
        x = torch.linspace(low, high, 80_000, dtype=torch.float64)
        exact = getattr(torch, name)(x)
        units = (computed(name, x) - exact).abs() / (exact.abs() * torch.finfo(torch.float64).eps)
        assert units[exact != 0].max() < 8, (low, high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RANGES)
def test_special_values(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, -1e30], dtype=dtype)
    if name == "exp2":
        x[1] = 1.0  # its range ends at the largest exponent: softmax never asks for more
    torch.testing.assert_close(computed(name, x), getattr(torch, name)(x), equal_nan=True)


@pytest.mark.parametrize("scaling", [False, True], ids=["", "scaling"])
@pytest.mark.parametrize(("degree", "dtype", "most"), [(5, torch.float32, 3e-7), (11, torch.float64, 3e-16)])
def test_weights_from_distances(degree: int, dtype: torch.dtype, most: float, scaling: bool) -> None:
    if scaling and not host().scaling:
        pytest.skip("only where the processor scales by powers of two")
    name, lanes = f"{degree}{scaling}", host().lanes(dtype.itemsize)
    lowest = math.log2(torch.finfo(dtype).tiny)
    for low in (lowest, -1.0, -1e-6):
        x = torch.linspace(low, 0, 80_000, dtype=dtype)
        exact = x.double().exp2()
        assert ((computed(name, x, lanes).double() - exact).abs() / exact).max() < most, low
    special = torch.tensor([0.0, -0.0, lowest, lowest - 1.5, lowest * 2, -1e30, -math.inf, math.nan], dtype=dtype)
    exact = torch.tensor([1.0, 1.0, torch.finfo(dtype).tiny, 0.0, 0.0, 0.0, 0.0, math.nan], dtype=dtype)
    assert torch.equal(computed(name, special.repeat(2), lanes).nan_to_num(2.0), exact.repeat(2).nan_to_num(2.0))
