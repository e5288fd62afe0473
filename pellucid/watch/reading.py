"""The readouts of one call of a watched model: fitted to the call, free of padding, and joined to earlier calls."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid import engines
from pellucid.language import INPUTS, load, operation
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout, Expect, LogSumExp, PooledMax, Readout, Received, TopK
from pellucid.readouts.topk import TopKeys
from pellucid.watch.call import Call
from pellucid.watch.part import Part
from pellucid.watch.record import Layer
from pellucid.watch.shift import by_index

Readings = dict[str, Any]


def run(problem: Problem) -> Any:
    """The engine's result, in the problem's own precision whatever autocast is on."""
    with problem.own_precision():
        return engines.run(problem)


def read(call: Call, readouts: Sequence[Readout], start: int, padded: Tensor | None) -> tuple[Tensor, Readings]:
    """The call's output, and what its readouts found, in positions of the sequence.

    Args:
        call: what is asked for.
        readouts: what to read, as the user gave it.
        start: position of the first query.
        padded: which queries are padding, bool [batch, q_len], or None.

    Returns:
        The output [batch, heads, q_len, value_dim], and the readings without gradient, padding as NaN.

    """
    fitted = tuple(_fitted(readout, call, start) for readout in readouts) or (LogSumExp(),)
    columns = tuple(r for r in fitted if isinstance(r, ColumnReadout)) if padded is not None else ()
    rows = tuple(r for r in fitted if r not in columns) or (LogSumExp(),)
    result = run(replace(call.problem, readouts=rows))
    readings = {"lse": result.lse} | result.readings
    if padded is not None and columns:
        readings |= run(replace(_without(call.problem, padded), readouts=columns)).readings
    lookup = {readout.name: readout for readout in fitted}
    for name, reading in readings.items():
        plain = lookup[name].map(reading, Tensor.detach) if name in lookup else reading.detach()
        readings[name] = _in_positions(lookup.get(name), plain, call)
    if padded is not None:
        readings |= {name: _blank(lookup[name], readings[name], padded) for name in readings if name in lookup}
    if call.padded_keys is not None and "received" in readings:
        keys = torch.nn.functional.pad(call.padded_keys, (call.k_start, 0))
        readings["received"] = readings["received"].masked_fill(keys[:, None], torch.nan)
    return result.output, readings


def _fitted(readout: Readout, call: Call, start: int) -> Readout:
    """The readout as it fits this call's length and counts its indices."""
    if isinstance(readout, TopK) and readout.k > call.k_len:
        return TopK(call.k_len)
    if isinstance(readout, Expect) and (start or call.k_start):
        moved = copy.copy(readout)
        moved.expression = by_index(readout.expression, start, call.k_start, call.query.device)
        return moved
    return readout


def _without(problem: Problem, padded: Tensor) -> Problem:
    """The problem with no key allowed to queries of padding, for sums over queries; its output is not needed."""
    is_token = load(~padded, (INPUTS["b"], INPUTS["q"]))
    return replace(problem, value=problem.value[..., :1], mask=operation("and", problem.mask, is_token))


def _in_positions(readout: Readout | None, reading: Any, call: Call) -> Any:
    """Keys counted from the sequence's first, where the call's own first key is a later one."""
    if not call.k_start:
        return reading
    if isinstance(readout, TopK):
        return TopKeys(reading.weights, torch.where(reading.keys < 0, -1, reading.keys + call.k_start))
    if isinstance(readout, Received):
        return torch.nn.functional.pad(reading, (call.k_start, 0))
    return reading


def _blank(readout: Readout, reading: Any, padded: Tensor) -> Any:
    """A reading without its rows of padding. Sums over queries have none; a pooled bin's mean is over the others."""
    if isinstance(readout, LogSumExp | Received | PooledMax):
        return reading
    if isinstance(readout, ColumnReadout):
        return _of_tokens(reading, padded)

    def blank(tensor: Tensor) -> Tensor:
        rows = padded[:, None].reshape(len(padded), 1, -1, *(1,) * (tensor.ndim - 3))
        return tensor.masked_fill(rows, torch.nan if tensor.is_floating_point() else -1)

    return readout.map(reading, blank)


def _of_tokens(pooled: Tensor, padded: Tensor) -> Tensor:
    """Means over bins of queries, [batch, heads, bins, ...], as means over each bin's tokens; NaN where it has none."""
    bins, q_len = pooled.shape[2], padded.shape[1]
    own = torch.arange(q_len, device=padded.device) * bins // q_len
    tokens = torch.zeros(len(padded), bins, device=padded.device).index_add_(1, own, (~padded).float())
    counts = torch.bincount(own, minlength=bins)
    return pooled * (counts / tokens).masked_fill(tokens == 0, torch.nan)[:, None, :, None].to(pooled)


def joined(name: str, readout: Readout | None, earlier: Any, later: Any, k_len: int) -> Any:
    """A reading of earlier queries and of later ones of the same sequence as one; None where two do not make one.

    Args:
        name: the reading's name.
        readout: what it was read by; None for lse.
        earlier: its value over the earlier queries.
        later: its value over the queries after them.
        k_len: keys of the longer of both.

    """
    if isinstance(readout, Received):
        both = [torch.nn.functional.pad(reading, (0, k_len - reading.shape[-1])) for reading in (earlier, later)]
        padding = both[0].isnan() | both[1].isnan()
        return (both[0].nan_to_num() + both[1].nan_to_num()).masked_fill(padding, torch.nan)
    if isinstance(readout, ColumnReadout):
        return None
    if isinstance(readout, TopK):
        k = max(earlier.keys.shape[-1], later.keys.shape[-1])
        earlier, later = (_widened(reading, k) for reading in (earlier, later))
        return TopKeys(*(torch.cat(pair, 2) for pair in zip(earlier, later, strict=True)))
    if isinstance(earlier, Tensor):
        return torch.cat((earlier, later), 2)
    return type(earlier)(*(torch.cat(pair, 2) for pair in zip(earlier, later, strict=True)))


def of_parts(layer: Layer, readouts: Sequence[ColumnReadout]) -> Readings:
    """What sums over queries find in all of a layer's queries, from its kept query and key.

    Bins of queries need one part that has them all; where the layer has several, these sums are left out.

    Args:
        layer: the layer.
        readouts: sums over queries.

    """
    whole = [r for r in readouts if isinstance(r, Received) and r.queries == slice(None)]
    binned = [r for r in readouts if r not in whole]
    found = {r.name: _received(layer, r) for r in whole} if layer.parts else {}
    if binned and len(layer.parts) == 1:
        found |= _of_part(layer.parts[0], binned, layer.padding.queries)
    return found


def _received(layer: Layer, readout: Received) -> Tensor:
    total = layer.readings["lse"].new_zeros(layer.batch, layer.heads, layer.k_len)
    padded = layer.padding.queries
    for part in layer.parts:
        first = part.start - layer.start
        own = None if padded is None else padded[:, first : first + part.q_len]
        received = _of_part(part, [readout], own)[readout.name]
        total[..., part.k_start : part.k_start + part.k_len] += received
    return total if layer.padding.keys is None else total.masked_fill(layer.padding.keys[:, None], torch.nan)


def _of_part(part: Part, readouts: Sequence[Readout], padded: Tensor | None) -> Readings:
    """The same of one part; `padded` says which of its queries are padding, bool [batch, q_len], or None."""
    problem = part.problem()
    device = part.query.device
    score, mask = (by_index(e, part.start, part.k_start, device) for e in (problem.score, problem.mask))
    problem = replace(problem, score=score, mask=mask, value=problem.key[..., :1], readouts=tuple(readouts))
    with torch.no_grad():
        found = run(problem if padded is None else _without(problem, padded)).readings
    return found if padded is None else {r.name: _blank(r, found[r.name], padded) for r in readouts}


def _widened(reading: TopKeys, k: int) -> TopKeys:
    missing = k - reading.keys.shape[-1]
    pad = torch.nn.functional.pad
    return TopKeys(pad(reading.weights, (0, missing)), pad(reading.keys, (0, missing), value=-1))


def of_heads(readings: Readings, lookup: dict[str, Readout], heads: Tensor) -> Readings:
    """The readings of some heads."""

    def chosen(tensor: Tensor) -> Tensor:
        return tensor[:, heads]

    return {
        name: lookup[name].map(reading, chosen) if name in lookup else chosen(reading)
        for name, reading in readings.items()
    }


def size(readings: Readings) -> int:
    """Bytes that readings take."""
    tensors = [t for reading in readings.values() for t in ((reading,) if isinstance(reading, Tensor) else reading)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
