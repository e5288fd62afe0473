"""The compiled kernels against float64, for calls of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines
from tests.engines.cpu.calls import check, every_call, observed
from tests.thorough import thorough

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = {  # batch, heads, kv_heads, q_len, k_len, head_dim, value_dim
    "ragged": (2, 3, 3, 37, 53, 13, 21),
    "several tiles": (1, 4, 2, 101, 601, 64, 64),
    "wide": (1, 2, 1, 53, 270, 131, 83),
    "wide, more queries": (1, 2, 1, 85, 270, 131, 83),
    "many packed keys": (1, 1, 1, 50, 2311, 64, 64),
    "decode": (2, 8, 2, 1, 1153, 32, 32),
    "decode, ragged": (1, 6, 3, 3, 2309, 17, 29),
    "decode, many rows": (1, 8, 1, 2, 331, 80, 150),
}


FEW = ("plain", "causal", "documents", "bias", "sinks", "nested")
ALL_CALLS = [("ragged", dtype) for dtype in DTYPES] + [("several tiles", DTYPES[0]), ("decode, ragged", DTYPES[0])]
FEW_CALLS = [(shape, dtype) for shape in SHAPES for dtype in DTYPES[:3] if (shape, dtype) not in ALL_CALLS]


EVERY_DAY = [
    ("ragged", torch.bfloat16), ("ragged", torch.float64), ("several tiles", torch.float32), ("wide", torch.float16),
    ("wide, more queries", torch.bfloat16), ("many packed keys", torch.float32), ("many packed keys", torch.bfloat16),
    ("decode", torch.bfloat16), ("decode, ragged", torch.float16), ("decode, many rows", torch.float32),
]  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(("shape", "dtype"), thorough(ALL_CALLS + FEW_CALLS, EVERY_DAY), ids=str)
def test_every_call_and_readout(shape: str, dtype: torch.dtype) -> None:
    batch, heads, kv_heads, q_len, k_len, head_dim, value_dim = SHAPES[shape]

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64).to(dtype)

    tensors = [
        draw(batch, heads, q_len, head_dim),
        draw(batch, kv_heads, k_len, head_dim),
        draw(batch, kv_heads, k_len, value_dim),
    ]
    for name, call in every_call(SHAPES[shape], draw).items():
        if name in FEW or (shape, dtype) in ALL_CALLS:
            check(tensors, call, name)


def test_thread_counts_give_the_same_bits() -> None:
    tensors = [torch.randn(1, 3, length, 16) for length in (211, 307, 307)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(observed("cpu", tensors, {"is_causal": True}))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, numbers in found[0].items():
            assert torch.equal(other[name], numbers), name


@pytest.mark.sampled
@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "zero stride", "head_dim not contiguous"])
def test_strides_are_read_in_place(layout: str) -> None:
    views = {
        "transposed": lambda: torch.randn(2, 29, 3, 16).transpose(1, 2),
        "sliced": lambda: torch.randn(2, 3, 61, 40)[:, :, 1::2, 3:19][:, :, :29],
        "expanded": lambda: torch.randn(1, 1, 29, 16).expand(2, 3, 29, 16),
        "zero stride": lambda: torch.randn(2, 3, 1, 16).expand(2, 3, 29, 16),
        "head_dim not contiguous": lambda: torch.randn(2, 3, 16, 29).mT,
    }
    tensors = [views[layout]() for _ in range(3)]
    found = observed("cpu", tensors, {})
    for name, numbers in observed("cpu", [t.contiguous() for t in tensors], {}).items():
        assert torch.equal(found[name], numbers), name


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 1, 3)])
def test_batch_dimensions_broadcast(batch: tuple[int, ...]) -> None:
    query = torch.randn(*batch, 2, 19, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, 23, 8, dtype=torch.float64).unbind(0)
    call = {"score_mod": lambda s, b, h, q, k: s + b * 0.1 * k}
    found, exact = (observed(engine, [query, key, value], call) for engine in ("cpu", "reference"))
    for name, numbers in exact.items():
        torch.testing.assert_close(found[name], numbers, rtol=1e-10, atol=1e-10)


def test_nan_in_a_score_reaches_the_output_as_in_torch() -> None:
    query, key, value = torch.randn(3, 1, 1, 7, 16).unbind(0)
    key[..., 3, 0] = torch.nan
    with engines.using("cpu"):
        assert pellucid.attention(query, key, value).isnan().all()
        masked = pellucid.attention(query, key, value, mask_mod=lambda b, h, q, k: k != 3)
    assert masked.isfinite().all()
