"""A row's bits do not depend on what else is in the batch, nor on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines

BATCHES = (1, 2, 3, 7, 13)
ROW_READOUTS = [pellucid.Entropy(), pellucid.TopK(5), pellucid.MaxScore(), pellucid.LogSumExp()]


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def results(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> dict[str, Tensor]:
    """All that is computed of the last in the batch."""
    expect = pellucid.Expect(lambda b, h, q, k: (q - k).abs(), "distance")
    readouts = [*ROW_READOUTS, expect, pellucid.Received()]
    pools = [pellucid.Pooled(3, 5), pellucid.PooledMax(3, 5)]
    call = {"is_causal": causal, "enable_gqa": True}
    with engines.using("cpu"):
        output = pellucid.attention(query, key, value, **call)
        seen, rows = pellucid.observe(query, key, value, readouts=readouts, **call)
        _, bins = pellucid.observe(query, key, value, readouts=pools, **call)
        part = rows.weights(queries=slice(0, 3))
    found = {"output": output, "seen": seen, "lse": rows.lse, "entropy": rows.entropy, "max": rows.max_scores}
    found |= {"top": rows.topk.weights, "keys": rows.topk.keys, "distance": rows["distance"]}
    found |= {"received": rows.received, "pooled": bins.pooled, "pooled_max": bins.pooled_max, "weights": part}
    return {name: tensor[-1].clone() for name, tensor in found.items()}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("q_len", "k_len", "dtype"),
    [
        (1, 8209, torch.float32),  # decode, its keys in eight ranges
        (2, 1031, torch.bfloat16),  # in two
        (1, 67, torch.float32),  # in one
        (61, 67, torch.float32),  # one tile
        (1031, 521, torch.float32),  # forward, in several chunks
        (271, 263, torch.float16),
    ],
)
def test_what_else_is_in_the_batch_changes_no_bit(q_len: int, k_len: int, dtype: torch.dtype) -> None:
    heads, kv_heads, dim, most = 2, 1, 16, max(BATCHES)
    query, key, value = (
        torch.randn(most, number, length, dim).to(dtype)
        for number, length in ((heads, q_len), (kv_heads, k_len), (kv_heads, k_len))
    )
    with threads(1):
        alone = results(query[-1:], key[-1:], value[-1:], causal=q_len > 2)
    for batch in BATCHES:
        with threads(1 + batch % 3):
            found = results(query[-batch:], key[-batch:], value[-batch:], causal=q_len > 2)
        for name, tensor in alone.items():
            assert torch.equal(found[name], tensor), (batch, name)
