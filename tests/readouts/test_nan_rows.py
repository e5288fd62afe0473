"""A row that is NaN says so in every readout, whatever makes it NaN, and on every engine the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import masks, readouts
from tests.cases import ENGINES, normal, running

READOUTS = [readouts.MaxScore(), readouts.TopK(3), readouts.Entropy(), readouts.LogSumExp()]
MAXIMUM = {
    "query": math.nan,
    "key": math.nan,
    "mask": math.nan,
    "score_mod": math.nan,
    "inf": math.inf,
    "both": math.nan,
}
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def nan_in(where: str, dtype: torch.dtype) -> dict[str, Any]:
    """A call whose row 1 is NaN, by its key 2 or wholly."""
    query, key, value = torch.randn(3, 1, 2, 83, 8).to(dtype).unbind(0)
    call: dict[str, Any] = {"query": query, "key": key, "value": value}
    bias = torch.zeros(83, 83, dtype=dtype)
    if where == "query":
        query[..., 1, 2] = math.nan
    elif where == "key":
        key[..., 2, 2] = math.nan
    elif where == "score_mod":
        call["score_mod"] = lambda score, b, h, q, k: torch.where((q == 1) & (k == 2), math.nan, score)
    else:
        bias[1, 2] = math.nan if where == "mask" else math.inf
        bias[1, 71] = math.nan if where == "both" else 0.0
        call["attn_mask"] = bias
    return call


@pytest.mark.sampled
@pytest.mark.parametrize("where", MAXIMUM)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_readout_tells_of_it(where: str, dtype: torch.dtype) -> None:
    call = nan_in(where, dtype)
    for engine in ENGINES:
        with running(engine):
            output, seen = pellucid.observe(**call, readouts=READOUTS)
        assert output[0, :, 1].isnan().all(), engine
        for found in (seen.lse, seen.entropy, seen.topk.weights, seen.weights(queries=1)):
            row = found[:, :, 1] if found.shape[2] > 1 else found
            assert row.isnan().all(), engine
        assert (seen.topk.keys[0, :, 1] == -1).all(), engine
        expected = torch.full((2,), MAXIMUM[where], dtype=seen.lse.dtype)
        torch.testing.assert_close(seen.max_scores[0, :, 1], expected, equal_nan=True)
        whole = seen.lse.isnan()
        assert bool(whole.all()) == (where == "key"), engine  # the other rows are numbers
        assert not seen.max_scores[~whole].isnan().any(), engine
        assert (seen.topk.keys[~whole] >= 0).all(), engine


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sink_that_is_nan_leaves_the_scores_their_maximum(engine: str) -> None:
    query, key, value = torch.randn(3, 2, 13, 8).unbind(0)
    with running(engine):
        _, seen = pellucid.observe(query, key, value, sinks=torch.tensor([0.5, math.nan]), readouts=READOUTS)
    assert not seen.max_scores.isnan().any()
    assert seen.topk.weights[1].isnan().all()
    assert not seen.topk.weights[0].isnan().any()
    assert (seen.topk.keys[1] == -1).all()
    assert (seen.topk.keys[0] >= 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_entropy_of_scores_farther_apart_than_the_largest_number(engine: str) -> None:
    query, key = torch.zeros(1, 1), torch.zeros(2, 1)
    bias = torch.tensor([[2e38, -2e38]], requires_grad=engine != "cpu")
    with running(engine):
        _, seen = pellucid.observe(query, key, key, bias, readouts=[readouts.Entropy()])
    assert seen.entropy.tolist() == [0.0]
    if bias.requires_grad:
        assert torch.autograd.grad(seen.entropy.sum(), bias)[0].tolist() == [[0.0, 0.0]]


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sink", [torch.nan, torch.inf, -torch.inf, 2.0])
def test_a_row_with_no_key_beside_any_sink(engine: str, sink: float) -> None:
    expected = 0.0 if sink in (-torch.inf, 2.0) else torch.nan
    for q_len, k_len, dim in ((2, 2, 16), (3, 5, 4), (61, 307, 16), (1, 101, 16)):
        query, key = torch.ones(1, 2, q_len, dim), torch.ones(1, 2, k_len, dim)
        with running(engine, (64, 64)):
            output = pellucid.attention(
                query, key, key, mask_mod=lambda b, h, q, k: (q > 0) & (k >= 0), sinks=torch.tensor([1.0, sink])
            )
        assert not output[:, 0, 0].any()
        torch.testing.assert_close(output[:, 1, 0], torch.full((1, dim), expected), equal_nan=True, rtol=0, atol=0)


@pytest.mark.sampled
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "reference"])
@pytest.mark.parametrize("mask", [masks.causal(), masks.sliding_window(3, 2), masks.documents(torch.arange(700) // 90)])
def test_also_for_keys_that_no_query_of_a_tile_may_look_at(engine: str, mask: Any) -> None:
    """Whole tiles are skipped there; what is read of a NaN row is NaN as if they were not."""
    query, key = normal(2, 300, 16).float(), normal(2, 700, 16, seed=1).float()
    query[0, 5] = math.nan

    def read(name: str) -> list[Tensor]:
        with running(name):
            asked = [readouts.Received(), readouts.Pooled(7, 9), readouts.PooledMax(7, 9)]
            seen = pellucid.observe(query, key, key, mask_mod=mask, readouts=asked)[1]
            later = pellucid.observe(query, key, key, mask_mod=mask, readouts=[readouts.Received(slice(6, None))])[1]
            some = seen.weights(queries=slice(3, 8), keys=[1, 650, 699])
            return [seen.received, seen.pooled, seen.pooled_max, later.received, seen.weights(), some]

    for found, wanted in zip(read(engine), read("reference"), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
