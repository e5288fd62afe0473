"""What a summary needs, read from weights that are there as a matrix, by each readout's dense definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.readouts import Entropy, Readout, Received
from pellucid.readouts.base import ColumnReadout, Dense, Tile
from pellucid.record.layer import Layer
from pellucid.record.studies.beyond import summary_readouts
from pellucid.record.studies.repeats import repeats

_CHUNK = 1 << 23  # weights gone through at once


def dense_readings(layer: Layer, totals: Tensor, token_ids: Tensor | None, *, whole: bool) -> dict[str, Any]:
    """The readings of a layer that has its weights, by name.

    Args:
        layer: asked for weights alone.
        totals: what the rows sum to, [batch, heads, q_len]; NaN: padding.
        token_ids: of the positions, int64 [batch, length], where they are known.
        whole: whether no row sums to more than 1; else entropy, of the rows scaled to 1, and received are read alone.

    Returns:
        lse, the logarithm of `totals`, and what a summary needs.

    """
    wanted: list[Readout] = [Entropy(), Received()]
    if whole:
        wanted = [r for r in summary_readouts(token_ids, role=layer.role) if not r.is_lse]
    size = max(1, _CHUNK // max(1, layer.batch * layer.heads * layer.k_len))
    rows: dict[str, list[Tensor]] = {readout.name: [] for readout in wanted}
    for start in range(0, layer.q_len, size):
        dense = _dense(layer, totals, slice(start, min(start + size, layer.q_len)))
        for readout in wanted:
            rows[readout.name].append(readout.dense(dense).nan_to_num())
    found: dict[str, Any] = {"lse": totals.log()}
    for readout in wanted:
        parts = rows[readout.name]
        found[readout.name] = sum(parts[1:], parts[0]) if isinstance(readout, ColumnReadout) else torch.cat(parts, -1)
        if not isinstance(readout, ColumnReadout):
            found[readout.name].masked_fill_(totals.isnan(), torch.nan)
    if layer.has_sink:
        found["sink_mass"] = (1.0 - totals).clamp(min=0.0)
    if whole and token_ids is not None:
        found["repeats"] = repeats(token_ids, None, layer.role == "causal self", range(layer.q_len))
    return found


def _dense(layer: Layer, totals: Tensor, queries: slice) -> Dense:
    """Some rows as a readout defines itself by: scores are the weights' logarithms, the sink what is missing of 1."""
    weights = layer.weights(queries=queries).nan_to_num()
    scores, device = weights.log(), weights.device
    place = {
        "b": torch.arange(layer.batch, device=device)[:, None, None, None],
        "h": torch.arange(layer.heads, device=device)[:, None, None],
        "q": torch.arange(queries.start, queries.stop, device=device)[:, None],
        "k": torch.arange(layer.k_len, device=device),
    }
    own = totals[..., queries]
    sink = (1.0 - own).clamp(min=0.0).log() if layer.has_sink else None
    return Dense(scores, weights, own.log(), Tile(scores, place, weights.dtype), sink)
