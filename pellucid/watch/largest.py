"""The largest weight of each part of a layer's map, from the query and key that were kept.

What PooledMax reads in the pass, without taking the pass from the compiled engine, which has no such sum over queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.watch.record import Layer

_CHUNK = 1 << 24  # weights computed at once


def pooled_max(layer: Layer, rows: int, columns: int) -> Tensor:
    """The largest weight in each bin of queries by bin of keys, float32 [batch, heads, rows, columns].

    Args:
        layer: what was observed, query and key kept.
        rows: bins of queries, at most as many as there are.
        columns: bins of keys, the same way.

    Raises:
        ValueError: query and key were not kept.

    """
    rows, columns = min(rows, layer.q_len), min(columns, layer.k_len)
    row_of = torch.arange(layer.q_len) * rows // max(layer.q_len, 1)
    column_of = torch.arange(layer.k_len) * columns // max(layer.k_len, 1)
    found = torch.zeros(layer.batch, layer.heads, rows, columns)
    size = max(1, _CHUNK // max(1, layer.batch * layer.heads * layer.k_len))
    for start in range(0, layer.q_len, size):
        queries = slice(start, min(start + size, layer.q_len))
        weights = layer.weights(queries=queries).cpu().float()
        if layer.padding.queries is not None:
            weights = weights.masked_fill(layer.padding.queries.cpu()[:, None, queries, None], 0.0)
        by_key = weights.new_zeros(*weights.shape[:-1], columns)
        by_key.scatter_reduce_(-1, column_of.expand_as(weights), weights, "amax")
        found.scatter_reduce_(-2, row_of[queries, None].expand_as(by_key), by_key, "amax")
    return found
