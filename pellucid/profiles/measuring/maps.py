"""Where a layer's weight goes, from its exact weights: by distance, and by the part of the document."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.profiles.measuring.batch import Side
from pellucid.profiles.sums import BANDS, POSITIONS
from pellucid.record.layer import Layer

_CHUNK = 1 << 20  # weights at a time
_EDGES = torch.tensor([band.least for band in BANDS[1:]], device="cpu")


class Maps(NamedTuple):
    """Of each sequence and head, sums over its rows; float64, counts int64."""

    rows: Tensor  # [batch, heads]
    distance: Tensor  # [batch, heads, bands]
    position: Tensor  # [batch, heads, positions, positions]
    position_rows: Tensor  # [batch, heads, positions]


def maps_of(layer: Layer, counted: Tensor, queries: Side, keys: Side) -> Maps:
    """The maps of a layer that has its weights.

    Args:
        layer: the layer.
        counted: its rows that count, bool [batch, heads, q_len].
        queries: where its queries stand.
        keys: where its keys stand.

    """
    key_bins = keys.bins(layer.k_len, POSITIONS)
    query_bins = queries.bins(layer.q_len, POSITIONS, layer.start)
    shape = layer.batch, layer.heads
    distance = torch.zeros(*shape, len(BANDS), dtype=torch.float64, device="cpu")
    position = torch.zeros(*shape, POSITIONS, POSITIONS, dtype=torch.float64, device="cpu")
    size = max(1, _CHUNK // max(1, layer.batch * layer.heads * layer.k_len))
    for start in range(0, layer.q_len, size):
        rows = slice(start, min(start + size, layer.q_len))
        weights = layer.weights(queries=rows).cpu().double()
        if not bool(counted[:, :, rows].all()):
            weights = torch.where(counted[:, :, rows, None], weights, 0.0)
        if layer.role != "cross":
            distance += by_band(weights, layer.start + start)
        position += query_bins[:, None, rows].mT @ (weights @ key_bins[:, None])
    own_rows = counted.to(torch.float64) @ query_bins
    return Maps(counted.sum(-1), distance, position, own_rows.round().to(torch.int64))


def by_band(weights: Tensor, start: int) -> Tensor:
    """The weight in each band of distances, [batch, heads, bands], of rows whose first query is at `start`."""
    rows, keys = weights.shape[-2:]
    # Row by row from the last, each one place further: what is equally far from its query stands in one column.
    wide = torch.zeros(*weights.shape[:-1], keys + rows, dtype=torch.float64, device="cpu")
    wide[..., :keys] = weights.flip(-2)
    further = wide.flatten(-2)[..., : rows * (keys + rows - 1)]
    diagonals = further.unflatten(-1, (rows, keys + rows - 1)).sum(-2)
    distances = start + torch.arange(rows - 1, -keys, -1, device="cpu")
    band = torch.bucketize(distances, _EDGES, right=True)
    found = torch.zeros(*diagonals.shape[:-1], len(BANDS), dtype=torch.float64, device="cpu")
    return found.index_add_(-1, band, diagonals)
