"""The strongest of a layer in one batch: documents, queries, keys and stretches of text, for each head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.profiles.entries import NONE, Entries, no_entries
from pellucid.profiles.layout import ROWS, SEQUENCES, TOP
from pellucid.profiles.measuring.layers import Measured
from pellucid.profiles.numbers import NUMBERS


class _Tops(NamedTuple):
    """The strongest keys of each row of a layer, [batch, heads, q_len, TOP], keys counted in their text."""

    keys: Tensor  # int64, NONE where there are fewer
    weights: Tensor


def strongest(found: Measured, examples: int) -> dict[str, Entries]:
    """The lists of a layer, whose document i is sequence i of the batch.

    Args:
        found: the layer.
        examples: how long the lists are.

    """
    tops = _tops(found)
    lists = _by_number(found, tops, examples)
    received = _received(found, examples)
    return {**lists, "keys": received, "sequences": _sequences(found, tops, SEQUENCES if examples else 0)}


def _tops(found: Measured) -> _Tops:
    layer = found.layer
    shape = layer.batch, layer.heads, layer.q_len
    if "topk" not in layer.readings:
        return _Tops(torch.full((*shape, TOP), NONE, device="cpu"), torch.zeros(*shape, TOP, device="cpu"))
    keys, weights = (part.detach().cpu()[..., :TOP] for part in (layer.topk.keys, layer.topk.weights))
    missing = TOP - keys.shape[-1]
    keys = torch.nn.functional.pad(keys.to(torch.int64), (0, missing), value=NONE)
    weights = torch.nn.functional.pad(weights.float(), (0, missing)).nan_to_num()
    own = keys - found.keys.first[:, None, None, None]
    return _Tops(torch.where(keys >= 0, own, NONE), torch.where(keys >= 0, weights, 0.0))


def _by_number(found: Measured, tops: _Tops, examples: int) -> dict[str, Entries]:
    """The lists of each number: documents by their own, queries by what a row has of it."""
    strongest_rows = [_rows_of(found, name).max(-1) for name in NUMBERS]
    most = torch.stack([one.values for one in strongest_rows], -1)  # [batch, heads, numbers]
    at = torch.stack([one.indices for one in strongest_rows], -1)
    queries = _entries(found, tops, most, torch.where(most > -torch.inf, at, NONE))
    documents = queries._replace(value=_or_least(found.values))
    received = _strongest_keys(found)
    for name in NUMBERS:
        if name.startswith("concentration"):  # of keys alone
            number = NUMBERS.index(name)
            documents.key[:, :, number] = received.key
    return {name: _listed(entries, examples) for name, entries in (("documents", documents), ("queries", queries))}


def _rows_of(found: Measured, name: str) -> Tensor:
    rows = found.ratios[name].rows
    layer = found.layer
    if rows is None:
        return torch.full((layer.batch, layer.heads, layer.q_len), -torch.inf, dtype=torch.float64, device="cpu")
    return _or_least(rows)


def _or_least(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, -torch.inf)


def _entries(found: Measured, tops: _Tops, value: Tensor, row: Tensor, start: Tensor | None = None) -> Entries:
    """Entries [batch, ...] of rows of heads, each with the keys that took most of it.

    Args:
        found: the layer.
        tops: those keys.
        value: what they are ordered by, [batch, heads, ...].
        row: numbers of rows among the layer's, NONE for none.
        start: of rows to be kept around it, the first; the row alone if None.

    """
    layer, taken = found.layer, row >= 0
    batch, head = (torch.arange(size, device="cpu") for size in (layer.batch, layer.heads))
    place = [batch.view(-1, *[1] * (row.ndim - 1)), head.view(1, -1, *[1] * (row.ndim - 2))]
    kept = row[..., None] if start is None else start[..., None] + torch.arange(ROWS, device="cpu")
    real = taken[..., None] & (kept < layer.q_len)
    own = [one[..., None] for one in place]
    rows = kept.clamp(0, layer.q_len - 1)
    keys = torch.where(real[..., None], tops.keys[own[0], own[1], rows], NONE)
    weights = torch.where(keys >= 0, tops.weights[own[0], own[1], rows], 0.0)
    best = [part[place[0], place[1], row.clamp(min=0), 0] for part in tops]
    to_text = layer.start - found.queries.first.view(-1, *[1] * (row.ndim - 1))
    first = (row if start is None else start) + to_text
    return Entries(
        value,
        batch.view(-1, *[1] * (row.ndim - 1)).expand(row.shape).clone(),
        torch.where(taken, row + to_text, NONE).to(torch.int32),
        torch.where(taken, best[0], NONE).to(torch.int32),
        torch.where(taken & (best[0] >= 0), best[1], 0.0),
        torch.where(taken, first, 0).to(torch.int32),
        keys.to(torch.int32),
        weights,
    )


def _strongest_keys(found: Measured) -> Entries:
    """The key of each sequence and head that received most, but for the first, [batch, heads]."""
    layer = found.layer
    received = layer.readings["received"].detach().cpu().double().nan_to_num()
    places = found.keys.places(layer.k_len)[:, None]
    others = torch.where((places > 0) & (places < found.keys.length[:, None, None]), received, -torch.inf)
    most, at = others.max(-1)
    shape = layer.batch, layer.heads, 1, TOP
    blank = _Tops(torch.full(shape, NONE, device="cpu"), torch.zeros(shape, device="cpu"))
    none = torch.full_like(at, NONE)
    key = torch.where(most > -torch.inf, at - found.keys.first[:, None], NONE)
    return _entries(found, blank, most, none)._replace(key=key.to(torch.int32))


def _received(found: Measured, examples: int) -> Entries:
    return _listed(_strongest_keys(found), examples)


def _sequences(found: Measured, tops: _Tops, size: int) -> Entries:
    """Of each sequence and head, the ROWS rows that put most beyond the sink; stretches begin at each ROWS-th row."""
    layer = found.layer
    sink = found.ratios["sink"].rows
    beyond = torch.zeros(layer.batch, layer.heads, layer.q_len, dtype=torch.float64, device="cpu")
    if sink is not None:
        beyond = torch.where(sink.isfinite(), 1.0 - sink, 0.0)
    stretches = torch.nn.functional.pad(beyond, (0, -layer.q_len % ROWS)).unflatten(-1, (-1, ROWS))
    most, at = stretches.sum(-1).max(-1)
    start = at * ROWS
    row = start + stretches.gather(-2, at[..., None, None].expand(*at.shape, 1, ROWS))[..., 0, :].argmax(-1)
    value = torch.where(most > 0, most, -torch.inf)
    return _listed(_entries(found, tops, value, torch.where(most > 0, row, NONE), start), size)


def _listed(entries: Entries, size: int) -> Entries:
    """Entries [batch, heads, ...] as lists [heads, ..., size]."""
    dim = entries.value.ndim - 1
    moved = Entries(*(part.movedim(0, dim) for part in entries))
    taken = moved.value > -torch.inf
    moved = moved._replace(
        document=torch.where(taken, moved.document, NONE),
        query=torch.where(taken, moved.query, NONE),
        key=torch.where(taken, moved.key, NONE),
        weight=torch.where(taken, moved.weight, 0.0),
        start=torch.where(taken, moved.start, 0),
        keys=torch.where(taken[..., None, None], moved.keys, NONE),
        weights=torch.where(taken[..., None, None], moved.weights, 0.0),
    )
    return padded(moved, size).best(size)


def padded(entries: Entries, size: int) -> Entries:
    """Lists that have at least `size` places."""
    shape = entries.value.shape[:-1]
    none = no_entries(*shape, size, rows=entries.keys.shape[-2], top=entries.keys.shape[-1])
    dim = len(shape)
    return Entries(*(torch.cat(parts, dim) for parts in zip(entries, none, strict=True)))
