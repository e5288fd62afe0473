"""A layer without its last rows: those that a cache has taken back are no rows of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from pellucid.capture.calls.keeping import before
from pellucid.capture.run.recent import Recent
from pellucid.readouts.base import ColumnReadout
from pellucid.record import runs
from pellucid.record.layer import Layer, Padding


def taken_back(layer: Layer, end: int, recent: Recent, sums: Mapping[str, ColumnReadout]) -> Layer:
    """A layer without its rows from position `end` on.

    What the keys received is corrected by the rows that are gone, where these are still held; other sums over queries
    are left out, as they are where calls are joined.

    Args:
        layer: whose rows begin before `end` and go further.
        end: position of the first query that was taken back.
        recent: its last queries.
        sums: the readouts that are sums over queries, by name.

    """
    rows = end - layer.start
    queries, keys = layer.padding
    k_len = layer.k_len if layer.role == "cross" else end
    readings = {
        name: _of_rows(value, rows, 1 if name in layer.over_heads else 2)
        for name, value in layer.readings.items()
        if name not in sums
    }
    received = _received(layer, end, k_len, recent, sums)
    return replace(
        layer,
        q_len=rows,
        call_rows=runs.first(layer.call_rows, rows),
        k_len=k_len,
        readings=readings if received is None else readings | {"received": received},
        padding=Padding(None if queries is None else queries[:, :rows], None if keys is None else keys[:, :k_len]),
        parts=before(layer.parts, end, layer.role),
    )


def _of_rows(reading: Any, rows: int, dimension: int) -> Any:
    if isinstance(reading, Tensor):
        if reading.ndim == 1:  # of each head, of all rows that were read
            return reading
        return reading.narrow(dimension, 0, rows)
    return type(reading)(*(tensor.narrow(dimension, 0, rows) for tensor in reading))


def _received(layer: Layer, end: int, k_len: int, recent: Recent, sums: Mapping[str, ColumnReadout]) -> Tensor | None:
    """What the keys received without the rows taken back; None where it was not read or is not known any more."""
    readout = sums.get("received")
    if readout is None or not readout.adds_up or "received" not in layer.readings:
        return None
    taken = recent.received(layer, end, k_len)
    return None if taken is None else (layer.readings["received"][..., :k_len] - taken).clamp_min(0.0)
