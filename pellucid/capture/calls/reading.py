"""The readouts of one call of a watched model: fitted to the call, free of padding, and joined to earlier calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid import engines
from pellucid.capture.calls.call import Call
from pellucid.language import INPUTS, load, operation
from pellucid.language.shift import by_index
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout, LogSumExp, Readout
from pellucid.readouts.base import tensors_of
from pellucid.record.part import Part
from pellucid.record.record import Layer

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
    readings = result.readings
    if padded is not None and columns:
        readings |= run(replace(_without(call.problem, padded), readouts=columns)).readings
    own = {readout.name: _of_sequence(readout, readings[readout.name], call, padded) for readout in fitted}
    return result.output, {"lse": result.lse.detach()} | own


def _of_sequence(readout: Readout, reading: Any, call: Call, padded: Tensor | None) -> Any:
    """A call's reading without gradient, in positions of its sequence, padding blank."""
    reading = readout.map(reading, Tensor.detach)
    if call.k_start:
        reading = readout.in_positions(reading, call.k_start)
    if padded is not None:
        reading = readout.without_padding(reading, padded)
    if call.padded_keys is None:
        return reading
    return readout.without_padded_keys(reading, torch.nn.functional.pad(call.padded_keys, (call.k_start, 0)))


def _fitted(readout: Readout, call: Call, start: int) -> Readout:
    """The readout as it fits this call's length and counts its indices."""
    fitted = readout.for_keys(call.k_len)
    if not start and not call.k_start:
        return fitted
    return fitted.renumbered(lambda function: by_index(function, start, call.k_start, call.query.device))


def _without(problem: Problem, padded: Tensor) -> Problem:
    """The problem with no key allowed to queries of padding, for sums over queries; its output is not needed."""
    is_token = load(~padded, (INPUTS["b"], INPUTS["q"]))
    return replace(problem, value=problem.value[..., :1], mask=operation("and", problem.mask, is_token))


def of_parts(layer: Layer, readouts: Sequence[ColumnReadout]) -> Readings:
    """What sums over queries find in all of a layer's queries, from its kept query and key.

    Bins of queries need one part that has them all; where the layer has several, these sums are left out.

    Args:
        layer: the layer.
        readouts: sums over queries.

    """
    whole = [readout for readout in readouts if readout.adds_up]
    binned = [readout for readout in readouts if not readout.adds_up]
    found = {readout.name: _added(layer, readout) for readout in whole} if layer.parts else {}
    if binned and len(layer.parts) == 1:
        found |= _of_part(layer.parts[0], binned, layer.padding.queries)
    return found


def _added(layer: Layer, readout: ColumnReadout) -> Tensor:
    total = layer.readings["lse"].new_zeros(layer.batch, layer.heads, layer.k_len)
    padded = layer.padding.queries
    for part in layer.parts:
        first = part.start - layer.start
        own = None if padded is None else padded[:, first : first + part.q_len]
        total[..., part.k_start : part.k_start + part.k_len] += _of_part(part, [readout], own)[readout.name]
    return total if layer.padding.keys is None else readout.without_padded_keys(total, layer.padding.keys)


def _of_part(part: Part, readouts: Sequence[Readout], padded: Tensor | None) -> Readings:
    """The same of one part; `padded` says which of its queries are padding, bool [batch, q_len], or None."""
    problem = part.problem()
    device = part.query.device
    score, mask = (by_index(e, part.start, part.k_start, device) for e in (problem.score, problem.mask))
    problem = replace(problem, score=score, mask=mask, value=problem.key[..., :1], readouts=tuple(readouts))
    with torch.no_grad():
        found = run(problem if padded is None else _without(problem, padded)).readings
    return found if padded is None else {r.name: r.without_padding(found[r.name], padded) for r in readouts}


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
    tensors = [tensor for reading in readings.values() for tensor in tensors_of(reading)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
