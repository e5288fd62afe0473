"""float32 and float16 in parts of bfloat16: what parts cannot hold, and how near the rest comes to float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import pellucid
from pellucid import engines
from pellucid.arguments import Arguments, describe
from pellucid.engines.cpu.call import specify
from pellucid.engines.cpu.call.plan import plan_of
from tests.engines.cpu.soft_tiles import needs_tiles

pytestmark = [needs_tiles, pytest.mark.usefixtures("tiles")]
DTYPES = {torch.float32: 3, torch.float16: 2}
SHAPE = (1, 2, 300, 40)
SHAPES = [
    (1, 2, 90, 333, 45, 37),
    (2, 1, 130, 700, 160, 48),
    (1, 1, 81, 2600, 64, 16),
]  # batch, heads, q_len, k_len, head_dim, value_dim


def drawn(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(SHAPE, dtype=torch.float64).to(dtype) for _ in range(3)]


def computed(engine: str, tensors: list[Tensor]) -> Tensor:
    with engines.using(engine):
        return pellucid.attention(*tensors)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_less_exact_than_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, heads, q_len, k_len, head_dim, value_dim = shape
    sizes = (q_len, head_dim), (k_len, head_dim), (k_len, value_dim)
    tensors = [torch.randn(batch, heads, *size, dtype=torch.float64).to(dtype) for size in sizes]
    exact = scaled_dot_product_attention(*(t.double() for t in tensors))

    def error(found: Tensor) -> float:
        return float((found.double() - exact).square().mean().sqrt())

    assert error(computed("cpu", tensors)) <= 1.5 * error(scaled_dot_product_attention(*tensors))


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, "largest", "smallest"], ids=str)
def test_numbers_that_have_no_parts(number: float | str, which: int, dtype: torch.dtype) -> None:
    """One among others: the result is the dense one, also where that is infinite or NaN."""
    limits = torch.finfo(dtype)
    largest = limits.max if which == 2 else limits.max / 64  # scores are finite
    chosen = {"largest": largest, "smallest": limits.smallest_normal / 8}.get(str(number), number)
    tensors = drawn(dtype)
    tensors[which][0, 1, 77, 5] = chosen
    found, dense = (computed(engine, tensors) for engine in ("cpu", "reference"))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(found, dense, equal_nan=True, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-20, 1e30, 1e37])
def test_values_of_any_size(size: float) -> None:
    query, key, value = drawn(torch.float32)
    exact = scaled_dot_product_attention(query.double(), key.double(), value.double() * size)
    found = computed("cpu", [query, key, (value.double() * size).float()]).double()
    assert float((found - exact).abs().max()) <= 4e-6 * size + 2.0**-131


def test_small_queries_times_large_keys() -> None:
    query, key, value = drawn(torch.float32)
    exact = scaled_dot_product_attention(query.double(), key.double(), value.double())
    found = computed("cpu", [query * 2.0**-115, key * 2.0**115, value]).double()
    assert float((found - exact).abs().max()) <= 4e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_split(dtype: torch.dtype) -> None:
    """Few keys or dimensions are faster as numbers."""

    def parts(length: int, dim: int) -> int:
        x = torch.zeros(1, 1, length, dim, dtype=dtype)
        return plan_of(describe(Arguments(x, x, x))[0])[0].spec.split

    assert parts(300, 64) == DTYPES[dtype]
    assert parts(specify.LEAST_SPLIT[1] - 1, 64) == parts(300, specify.LEAST_SPLIT[0] - 1) == 1
