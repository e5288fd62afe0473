"""How many keys each query may look at: what the entropy of a row is compared with.

Counted from the mask's expression in tiles: its bounds settle the tiles that are all allowed or all masked, so only
those that the mask's edge goes through are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pellucid.language import TRUE, Expression, Interval, bounds, evaluate, walk
from pellucid.watch.record import Layer

ROWS, KEYS = 256, 512  # of a tile


def allowed_keys(layer: Layer, first: Tensor) -> tuple[Tensor, Tensor]:
    """The number of keys that each query may look at, and whether `first` is one of them.

    Counted from the mask where the layer kept it, else from the layer's role and padding: then a window or packed
    sequences are not known of, and the number is an upper limit.

    Args:
        layer: what was observed.
        first: position of each sequence's first key that is no padding, int64 [batch].

    Returns:
        int64 and bool, both [batch, heads or 1, q_len].

    """
    known = [(part.start, part.q_len, part.k_start, part.k_len, part.mask) for part in layer.parts]
    if not known:
        known = [(layer.start, layer.q_len, 0, layer.k_len, TRUE)]
    pieces = [_of_part(layer, first, *part, from_role=not layer.parts) for part in known]
    counts, firsts = zip(*pieces, strict=True)
    return torch.cat(counts, -1), torch.cat(firsts, -1)


def _of_part(
    layer: Layer, first: Tensor, start: int, q_len: int, k_start: int, k_len: int, mask: Expression, from_role: bool
) -> tuple[Tensor, Tensor]:
    heads = layer.heads if any(node.op == "input" and node.value == "h" for node in walk(mask)) else 1
    counts = torch.zeros(layer.batch, heads, q_len, dtype=torch.int64)
    queries = torch.arange(start, start + q_len)
    for rows, keys, full in _tiles(layer, heads, range(start, start + q_len), range(k_start, k_start + k_len), mask):
        counts[..., rows.start - start : rows.stop - start] += _count(layer, heads, rows, keys, TRUE if full else mask)
    place = _place(layer.batch, heads, queries, first[:, None, None, None])
    allows_first = _evaluated(mask, place, (*counts.shape, 1))[..., 0]
    if from_role and layer.role == "causal self":
        later = _later_keys(layer, queries)
        counts, allows_first = counts - later, allows_first & (first[:, None, None] <= queries)
    return counts.clamp(min=0), allows_first


def _tiles(
    layer: Layer, heads: int, queries: range, keys: range, mask: Expression
) -> Iterator[tuple[range, range, bool]]:
    """The tiles that may hold an allowed key, and whether all of the tile's keys are allowed."""
    for q in range(queries.start, queries.stop, ROWS):
        rows = range(q, min(q + ROWS, queries.stop))
        for k in range(keys.start, keys.stop, KEYS):
            columns = range(k, min(k + KEYS, keys.stop))
            places = {
                "b": Interval(0, layer.batch - 1),
                "h": Interval(0, heads - 1),
                "q": Interval(rows.start, rows.stop - 1),
                "k": Interval(columns.start, columns.stop - 1),
            }
            found = bounds(mask, places)
            if found is None or found.high:
                yield rows, columns, bool(found is not None and found.low)


def _count(layer: Layer, heads: int, rows: range, keys: range, mask: Expression) -> Tensor:
    """The allowed keys of one tile that are no padding, int64 [batch, heads, rows]."""
    shape = (layer.batch, heads, len(rows), len(keys))
    real = _real_keys(layer, keys)[:, None, None, :]
    if mask is TRUE:
        return real.sum(-1).expand(shape[:-1])
    allowed = _evaluated(
        mask,
        _place(layer.batch, heads, torch.arange(rows.start, rows.stop), torch.arange(keys.start, keys.stop)),
        shape,
    )
    return (allowed & real).sum(-1)


def _evaluated(mask: Expression, place: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    return evaluate(mask, inputs=place, dtype=torch.float32)[0].expand(shape)


def _place(batch: int, heads: int, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    return {
        "b": torch.arange(batch)[:, None, None, None],
        "h": torch.arange(heads)[:, None, None],
        "q": queries[:, None],
        "k": keys,
    }


def _real_keys(layer: Layer, keys: range) -> Tensor:
    """Which keys are no padding, bool [batch, keys]."""
    if layer.padding.keys is None:
        return torch.ones(layer.batch, len(keys), dtype=torch.bool)
    return ~layer.padding.keys[:, keys.start : keys.stop]


def _later_keys(layer: Layer, queries: Tensor) -> Tensor:
    """How many keys that are no padding come after each query, int64 [batch, 1, q_len]."""
    real = _real_keys(layer, range(layer.k_len)).to(torch.int64)
    until = torch.cat([real.new_zeros(layer.batch, 1), real.cumsum(-1)], -1)  # [batch, k_len + 1]
    seen = until[:, (queries + 1).clamp(max=layer.k_len)]
    return (until[:, -1:] - seen)[:, None]
