"""Whether two records of the same text say the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def assert_same(record: Any, expected: Any) -> None:
    """The same layers, rows, readings and exact weights, up to rounding, and the same tokens."""
    assert record.layers == expected.layers
    for name in expected.layers:
        assert_same_layer(record[name], expected[name])
    assert (record.token_ids is None) == (expected.token_ids is None)
    if expected.token_ids is not None:
        assert torch.equal(record.token_ids, expected.token_ids)


def assert_same_layer(layer: Any, expected: Any) -> None:
    assert (layer.start, layer.q_len, layer.k_len) == (expected.start, expected.q_len, expected.k_len)
    assert set(layer.readings) == set(expected.readings)
    for name, reading in expected.readings.items():
        assert_same_reading(layer.readings[name], reading)
    if expected.parts:
        torch.testing.assert_close(layer.weights(), expected.weights(), atol=2e-6, rtol=1e-5)


def assert_same_reading(reading: Any, expected: Any) -> None:
    for mine, its in zip(_tensors(reading), _tensors(expected), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5, equal_nan=True)


def _tensors(reading: Any) -> tuple[Tensor, ...]:
    return (reading,) if isinstance(reading, Tensor) else tuple(reading)
