"""The readouts of one call of a watched model: fitted to the call, free of padding, and joined to earlier calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.capture.calls.call import Call
from pellucid.language.shift import by_index
from pellucid.problem import Result
from pellucid.readouts import ColumnReadout, LogSumExp, Readout
from pellucid.readouts.base import tensors_of
from pellucid.record.studies.sums import run, without_rows

Readings = dict[str, Any]


def read(
    call: Call, readouts: Sequence[Readout], start: int, padded: Tensor | None, gradients: bool = False
) -> tuple[Tensor, Readings]:
    """The call's output, and what its readouts found, in positions of the sequence.

    Args:
        call: what is asked for.
        readouts: what to read, as the user gave it.
        start: position of the first query.
        padded: which queries are padding, bool [batch, q_len], or None.
        gradients: whether the readings carry gradients.

    Returns:
        The output [batch, heads, q_len, value_dim], and the readings, padding as NaN.

    """
    fitted = tuple(_fitted(readout, call, start) for readout in readouts) or (LogSumExp(),)
    apart = call.stretch is not None or padded is not None
    columns = tuple(r for r in fitted if isinstance(r, ColumnReadout)) if apart else ()
    rows = tuple(r for r in fitted if r not in columns) or (LogSumExp(),)
    result, every = _run(call, rows, columns, padded), padded
    readings = result.readings
    if columns and call.stretch is not None:
        every = None if padded is None else call.stretch.padding_of_all(padded)
        readings |= {readout.name: call.stretch.of_all(readout, readings.get(readout.name)) for readout in columns}
    if not gradients:
        readings = {r.name: r.map(readings[r.name], Tensor.detach) for r in fitted}
    padding = {readout.name: every if readout in columns else padded for readout in fitted}
    own = {r.name: _of_sequence(r, readings[r.name], call, padding[r.name]) for r in fitted}
    return result.output, {"lse": result.lse if gradients else result.lse.detach()} | own


def _run(call: Call, rows: Sequence[Readout], columns: Sequence[ColumnReadout], padded: Tensor | None) -> Result:
    """What an engine gives; sums over queries are without rows of padding, and of a stretch those of its own queries.

    Args:
        call: what is asked for.
        rows: what describes rows.
        columns: sums over queries that need more than the call itself.
        padded: see `read`.

    """
    sums: Sequence[Readout] = columns
    if call.stretch is not None:
        call.stretch.check_numbers(call.problem, (*rows, *columns))
        sums = call.stretch.parts(columns)
    if padded is None or not sums:
        return run(replace(call.problem, readouts=(*rows, *sums)))
    result = run(replace(call.problem, readouts=tuple(rows)))
    readings = run(replace(without_rows(call.problem, padded), readouts=tuple(sums))).readings
    return result._replace(readings=result.readings | readings)


def _of_sequence(readout: Readout, reading: Any, call: Call, padded: Tensor | None) -> Any:
    """A call's reading in positions of its sequence, padding blank."""
    if call.k_start:
        reading = readout.in_positions(reading, call.k_start)
    if padded is not None:
        reading = readout.without_padding(reading, padded)
    if readout.joins_rows:
        return readout.joined_rows(reading)
    if call.padded_keys is None:
        return reading
    return readout.without_padded_keys(reading, torch.nn.functional.pad(call.padded_keys, (call.k_start, 0)))


def _fitted(readout: Readout, call: Call, start: int) -> Readout:
    """The readout as it fits this call's length and counts its indices."""
    if start or call.k_start:
        readout = readout.renumbered(lambda function: by_index(function, start, call.k_start, call.query.device))
    return readout.for_keys(call.k_len)


def of_heads(readings: Readings, lookup: dict[str, Readout], heads: Tensor) -> Readings:
    """The readings of some heads."""
    return {
        name: lookup[name].of_heads(reading, heads) if name in lookup else reading[:, heads]
        for name, reading in readings.items()
    }


def size(readings: Readings) -> int:
    """Bytes that readings take."""
    tensors = [tensor for reading in readings.values() for tensor in tensors_of(reading)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
