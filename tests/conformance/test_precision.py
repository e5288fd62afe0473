"""The promise of docs/numerics.md: at most twice the error of torch's own kernel in the same precision.

Against a softmax in the next wider precision: float64, or for float64 the processor's long double. On the engine that a
call gets by default, which is "cpu" here, and on the portable one. Nothing is added to twice torch's error but two
units in the last place of the output, since torch itself is now and then right to the last bit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import pellucid
from tests.cases import DTYPES, Call, examples, normal, running

Exact = np.ndarray  # of doubles or long doubles, [1, heads, q_len, value_dim]
OUTPUTS = 8192  # the largest error of fewer numbers is a matter of luck, torch's as well as ours

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
engines = pytest.mark.parametrize("engine", ["cpu", "portable"])


def exact(call: Call) -> Exact:
    """The five lines in a wider precision, from the numbers that the call holds after rounding to its dtype."""
    wide = np.longdouble if call.query.dtype == torch.float64 else np.float64
    query, key, value = (tensor.double().numpy().astype(wide) for tensor in (call.query, call.key, call.value))
    key, value = (array.repeat(query.shape[1] // array.shape[1], axis=1) for array in (key, value))
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(wide(query.shape[-1]))
    if call.attn_mask is not None:
        scores = scores + call.attn_mask.double().numpy()
    if call.is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ value


def error(output: Tensor, expected: Exact) -> float:
    return float(np.abs(output.double().numpy() - expected).max())


def assert_within_twice_torchs_error(call: Call, engine: str) -> None:
    expected = exact(call)
    with running(engine):
        ours = error(call.by(pellucid.attention), expected)
    theirs = error(call.by(sdpa), expected)
    unit = torch.finfo(call.query.dtype).eps * float(np.abs(expected).max())
    assert ours <= 2 * theirs + 2 * unit, f"{ours / unit:.1f} units in the last place, torch {theirs / unit:.1f}"


@st.composite
def calls(draw: st.DrawFn, dtype: torch.dtype) -> Call:
    """Unit-normal calls with enough outputs, on either side of the sizes at which blocks end."""
    q_len, k_len = draw(st.sampled_from((1, 15, 49, 65, 131))), draw(st.sampled_from((1, 17, 64, 257, 300)))
    head_dim, value_dim = draw(st.sampled_from(((64, 64), (64, 64), (128, 128), (8, 8), (31, 100))))
    kv_heads = 1 + OUTPUTS // (2 * q_len * value_dim)
    heads, seed = 2 * kv_heads, draw(st.integers(0, 2**20))
    # Four dimensions: torch's fused kernel, the peer that is meant, takes no other number.
    shapes = (1, heads, q_len, head_dim), (1, kv_heads, k_len, head_dim), (1, kv_heads, k_len, value_dim)
    tensors = (normal(*shape, dtype=dtype, seed=seed + i) for i, shape in enumerate(shapes))
    bias = draw(st.none() | st.just(normal(q_len, k_len, dtype=dtype, seed=seed + 3)))
    return Call(*tensors, attn_mask=bias, is_causal=bias is None and draw(st.booleans()), enable_gqa=True)


@pytest.mark.sampled
@engines
@dtypes
def test_random_calls(dtype: torch.dtype, engine: str) -> None:
    @examples(24, engine)
    @given(call=calls(dtype))
    def holds(call: Call) -> None:
        assert_within_twice_torchs_error(call, engine)

    holds()


@pytest.mark.sampled
@engines
@dtypes
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_many_keys(causal: bool, dtype: torch.dtype, engine: str) -> None:
    """Where sums are long: over blocks of keys, and over the keys of a block."""
    q_len, k_len = (1024, 1024) if causal else (256, 4096)
    if dtype == torch.float64:  # long doubles are slow
        q_len, k_len = q_len // 4, k_len // 4
    tensors = (normal(1, 2, length, 64, dtype=dtype, seed=i) for i, length in enumerate((q_len, k_len, k_len)))
    assert_within_twice_torchs_error(Call(*tensors, is_causal=causal), engine)


@engines
@dtypes
def test_one_query(dtype: torch.dtype, engine: str) -> None:
    """A step of decoding."""
    tensors = (
        normal(1, heads, length, 64, dtype=dtype, seed=length) for heads, length in ((128, 1), (16, 777), (16, 777))
    )
    assert_within_twice_torchs_error(Call(*tensors, enable_gqa=True), engine)
