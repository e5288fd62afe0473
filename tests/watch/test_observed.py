"""An observation as a record: the same weights and readings, in one layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import pellucid
from pellucid.record.observed import record_of

SHAPES = (((5, 3), (5, 3)), ((2, 5, 3), (2, 5, 3)), ((2, 4, 5, 3), (2, 2, 7, 3)), ((3, 1, 4, 5, 3), (1, 2, 4, 7, 3)))


@pytest.mark.sampled
@pytest.mark.parametrize(("query", "key"), SHAPES)
def test_its_weights_and_readings_are_the_observation_s(query: tuple[int, ...], key: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    q, k = torch.randn(query), torch.randn(key)
    readouts = [pellucid.TopK(2), pellucid.Entropy(), pellucid.Pooled(2, 2), pellucid.Received()]
    _, seen = pellucid.observe(q, k, k, enable_gqa=len(query) > 2, readouts=readouts)
    layer = record_of(seen)[0]
    whole = (layer.batch, layer.heads, layer.q_len, layer.k_len)
    torch.testing.assert_close(layer.weights(), seen.weights().reshape(whole))
    assert torch.equal(layer.entropy, seen.entropy.reshape(whole[:3]))
    assert torch.equal(layer.topk.keys, seen.topk.keys.reshape(*whole[:3], 2))
    assert torch.equal(layer.received, seen.received.reshape(*whole[:2], whole[3]))
    assert layer.pooled.shape[:2] == whole[:2]


def test_what_is_of_all_heads_together_keeps_its_shape() -> None:
    q = torch.randn(3, 4, 5, 3)
    place = torch.zeros(3, 1, 5, 1, dtype=torch.int64)
    _, seen = pellucid.observe(q, q, q, readouts=[pellucid.At(place, sum_heads=True)])
    layer = record_of(seen)[0]
    assert layer.at.shape == seen.at.shape
    assert layer.over_heads == ["at"]


@pytest.mark.parametrize("masked", [None, torch.rand(2, 1, 5, 5) > 0.3, torch.randn(5, 5)])
def test_masks_come_along(masked: Tensor | None) -> None:
    q = torch.randn(2, 3, 5, 4)
    bias = torch.randn(3)
    _, seen = pellucid.observe(q, q, q, masked, score_mod=lambda score, b, h, q, k: score + bias[h] * (q - k))
    torch.testing.assert_close(record_of(seen)[0].weights(), seen.weights())


def test_the_role_is_seen() -> None:
    q, k = torch.randn(2, 5, 4), torch.randn(2, 7, 4)
    roles = []
    for call in ({"key": q, "is_causal": True}, {"key": q}, {"key": k}):
        key = call.pop("key")
        roles.append(record_of(pellucid.observe(q, key, key, **call)[1])[0].role)
    assert roles == ["causal self", "self", "cross"]


def test_it_has_every_number_of_a_summary() -> None:
    q = torch.randn(2, 6, 4)
    _, seen = pellucid.observe(q, q, q, is_causal=True, readouts=[])
    (row, _) = record_of(seen, list("abcabc")).summary()
    assert all(np.isfinite(value) for value in vars(row).values() if isinstance(value, float))


def test_tensors_that_were_changed_are_refused() -> None:
    q = torch.randn(2, 6, 4)
    _, seen = pellucid.observe(q, q, q)
    layer = record_of(seen)[0]
    q.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        layer.weights()
    with pytest.raises(RuntimeError, match="changed in place"):
        record_of(seen)
