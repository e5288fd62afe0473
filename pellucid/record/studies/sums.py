"""Sums over queries, read once more from a layer's kept query and key: what cannot be joined from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid import engines
from pellucid.language import INPUTS, load, operation
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout, Readout
from pellucid.record.layer import Layer
from pellucid.record.part import Part


def run(problem: Problem) -> Any:
    """The engine's result, in the problem's own precision whatever autocast is on."""
    with problem.own_precision():
        return engines.run(problem)


def without_rows(problem: Problem, padded: Tensor) -> Problem:
    """The problem with no key allowed to queries of padding, for sums over queries; its output is not needed."""
    is_token = load(~padded, (INPUTS["b"], INPUTS["q"]))
    return replace(problem, value=problem.value[..., :1], mask=operation("and", problem.mask, is_token))


def of_parts(layer: Layer, readouts: Sequence[ColumnReadout]) -> dict[str, Any]:
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
        part = layer.parts[0]
        own = _of_part(part, binned, layer.padding.queries)
        found |= {readout.name: readout.in_positions(own[readout.name], part.k_start) for readout in binned}
    if layer.padding.keys is None:
        return found
    lookup = {readout.name: readout for readout in readouts}
    return {name: lookup[name].without_padded_keys(reading, layer.padding.keys) for name, reading in found.items()}


def _added(layer: Layer, readout: ColumnReadout) -> Tensor:
    total = layer.readings["lse"].new_zeros(layer.batch, layer.heads, layer.k_len)
    padded = layer.padding.queries
    for part in layer.parts:
        first = part.start - layer.start
        own = None if padded is None else padded[:, first : first + part.q_len]
        total[..., part.k_start : part.k_start + part.k_len] += _of_part(part, [readout], own)[readout.name]
    return total


def _of_part(part: Part, readouts: Sequence[Readout], padded: Tensor | None) -> dict[str, Any]:
    """The same of one part; `padded` says which of its queries are padding, bool [batch, q_len], or None."""
    problem = replace(part.indexed(), readouts=tuple(readouts))
    with torch.no_grad():
        found = run(problem if padded is None else without_rows(problem, padded)).readings
    return found if padded is None else {r.name: r.without_padding(found[r.name], padded) for r in readouts}
