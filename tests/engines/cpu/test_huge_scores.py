"""Rows whose scores are all huge, as padding masks of the lowest number make them: right on every kernel.

Queries are zeros where a mask or score_mod says the scores: these are exact, and their softmax in float64 the judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import pellucid
from pellucid import readouts
from pellucid.engines.cpu.machine.target import Target, host, lesser
from tests.engines.cpu.emulated import compiling_for
from tests.engines.cpu.soft_tiles import matrix_tiles, needs_tiles

HUGE = (-3.38e38, -1e12, -4e10, -4e4, 3e5, 7e8, 2.2e9, 1e13, 3e38)
SHAPES = {"one tile": (11, 89), "forward": (61, 331), "decode": (3, 331)}  # queries and keys
READOUTS = [readouts.Entropy(), readouts.MaxScore(), readouts.Received(), readouts.TopK(3), readouts.LogSumExp()]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def ids(parameter: Any) -> str:
    return str(parameter).removeprefix("torch.")


def exact_scores(q_len: int, k_len: int) -> Tensor:
    """Rows of one huge number and its neighbour, in float32 [queries, keys]; the last key of two is not huge."""
    rows = torch.tensor([HUGE[i % len(HUGE)] for i in range(q_len)])[:, None].expand(q_len, k_len)
    up = rows.nextafter(torch.tensor(torch.inf))
    scores = torch.where(torch.rand(q_len, k_len) < 0.5, rows, up)
    scores[1, -1], scores[2, -1] = 0.0, 5.0
    return scores


def tensors(shape: str, dtype: torch.dtype) -> list[Tensor]:
    q_len, k_len = SHAPES[shape]
    return [torch.zeros(2, q_len, 16, dtype=dtype), *torch.randn(2, 2, k_len, 16).to(dtype).unbind(0)]


def assert_right(query: Tensor, key: Tensor, value: Tensor, scores: Tensor, **call: Any) -> None:
    """The output as good as torch's, everything read as in float64; `scores` are exact."""
    with torch.no_grad():
        output, seen = pellucid.observe(query, key, value, readouts=READOUTS, **call)
        plain = pellucid.attention(query, key, value, **call)
    exact = scores.double()
    weights = exact.softmax(-1)
    expected = weights @ value.double()
    unit = torch.finfo(query.dtype).eps * expected.abs().max()
    theirs = (sdpa(query, key, value, attn_mask=scores.to(query.dtype)).double() - expected).abs().max()
    for found in (output, plain):
        allowed = 2 * unit + (2 * theirs if torch.equal(scores.to(query.dtype).float(), scores) else unit)
        assert (found.double() - expected).abs().max() <= allowed
    close = {"atol": 2e-5, "rtol": 2e-5}
    entropy = torch.special.entr(weights).sum(-1).expand(2, -1)
    torch.testing.assert_close(seen.entropy.double(), entropy, **close)
    torch.testing.assert_close(seen.max_scores.float(), scores.amax(-1).expand(2, -1), atol=0, rtol=2e-7)
    torch.testing.assert_close(seen.lse.double(), exact.logsumexp(-1).expand(2, -1), atol=1e-5, rtol=2e-7)
    torch.testing.assert_close(seen.received.double(), weights.sum(-2).expand(2, -1), **close)
    torch.testing.assert_close(seen.topk.weights.double(), weights.topk(3).values.expand(2, -1, -1), **close)
    torch.testing.assert_close(seen.weights().double(), weights.expand(2, -1, -1), **close)
    part = seen.weights(queries=slice(1, None), keys=[7, 3], heads=1)
    torch.testing.assert_close(part.double(), weights[None, 1:, [7, 3]], **close)


@contextmanager
def compiled_for(processor: str, folder: Path) -> Iterator[None]:
    if processor == "matrix tiles":
        with matrix_tiles(folder):
            yield
        return
    with compiling_for(lesser(host(), processor)) if processor else nullcontext():
        yield


@pytest.mark.sampled
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_rows_of_huge_scores_of_a_mask(dtype: torch.dtype, shape: str) -> None:
    scores = exact_scores(*SHAPES[shape])
    # A mask's dtype is its own: here one that has all the scores' digits.
    call = {"score_mod": lambda score, b, h, q, k: scores[q, k]} if dtype == torch.bfloat16 else {}
    assert_right(*tensors(shape, dtype), scores, **(call or {"attn_mask": scores.to(dtype)}))


@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_rows_of_huge_scores_on_lesser_processors(processor: str, tmp_path: Path) -> None:
    if not _is_lesser(host(), processor):
        pytest.skip("this processor is no more than that")
    scores = exact_scores(*SHAPES["forward"])
    with compiled_for(processor, tmp_path):
        assert_right(*tensors("forward", torch.float32), scores, attn_mask=scores)


def _is_lesser(own: Target, processor: str) -> bool:
    try:
        lesser(own, processor)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "processor", ["", pytest.param("matrix tiles", marks=needs_tiles), "haswell"], ids=lambda name: name or "own"
)
def test_rows_of_one_huge_product(processor: str, tmp_path: Path) -> None:
    if processor == "haswell" and not _is_lesser(host(), processor):
        pytest.skip("this processor is no more than that")
    with compiled_for(processor, tmp_path):
        for huge in (-3e37, -1e12, 2e9, -1e8, 3e5):
            assert_products_right(huge)


def assert_products_right(huge: float) -> None:
    """Rows of one product: of powers of two, which bfloat16 has, times a scale that is none."""
    query, key, value = (torch.zeros(2, length, 16, dtype=torch.bfloat16) for length in (37, 331, 331))
    value.normal_()
    size = 2.0 ** round(math.log2(abs(huge)) / 2)
    query[..., 0], key[..., 0] = size, size if huge > 0 else -size
    key[:, 5, 0] *= 2  # which all look at, or none
    masked = torch.arange(331) < 300
    for call in ({}, {"attn_mask": masked}, {"is_causal": True}):
        call |= {"scale": 0.3}
        found, seen = pellucid.observe(query, key, value, readouts=READOUTS[2:3], **call)
        expected = sdpa(query.double(), key.double(), value.double(), **call)
        unit = torch.finfo(torch.bfloat16).eps * expected.abs().max()
        for output in (found, pellucid.attention(query, key, value, **call)):
            assert (output.double() - expected).abs().max() <= 2 * unit, (huge, call)
        torch.testing.assert_close(seen.received.sum(-1), torch.full((2,), 37.0))
        torch.testing.assert_close(seen.weights(heads=0).sum(-1), torch.ones(1, 37))


def test_a_scale_of_zero_leaves_masked_keys_out() -> None:
    query, key, value = torch.randn(3, 2, 89, 16).to(torch.bfloat16).unbind(0)
    found = pellucid.attention(query, key, value, scale=0.0, is_causal=True)
    expected = value.double().cumsum(1) / torch.arange(1, 90)[:, None]  # equal weights; SDPA of torch 2.14 gives NaN
    assert (found.double() - expected).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


@pytest.mark.parametrize("sink", [3.3e38, -3.3e38])
def test_a_sink_beyond_all_scores(sink: float) -> None:
    query, key, value = torch.randn(3, 2, 13, 16).unbind(0)
    found = pellucid.attention(query, key, value, sinks=torch.tensor([sink, sink]))
    expected = torch.zeros_like(value) if sink > 0 else sdpa(query, key, value)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
