"""Readouts in words: what a record says of what was read, and by which a run that resumes it knows its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import torch

from pellucid.language import Expression
from pellucid.readouts import Readout
from pellucid.record.disk.expression_json import Captured, to_json


def told(readouts: Iterable[Readout]) -> list[str]:
    """Each readout's name and what it was made with: `topk 8`, `received 0:40`, `mean_distance 5f0c2b1e`."""
    return [" ".join([readout.name, *_words(readout)]) for readout in readouts]


def _words(readout: Readout) -> list[str]:
    return [word for value in vars(readout).values() if (word := _word(value))]


def _word(value: Any) -> str:
    if isinstance(value, Expression):
        return f"{_checksum(value):08x}"
    if isinstance(value, slice):
        ends = ("" if end is None else str(end) for end in (value.start, value.stop))
        return "" if value == slice(None) else ":".join(ends)
    return str(value) if isinstance(value, int | float) else ""


def _checksum(function: Expression) -> int:
    """A number that is another for another function, or the same on other numbers."""
    captured = Captured()
    found = crc32(json.dumps(to_json(function, captured)).encode())
    for tensor in captured.tensors.values():
        found = crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data, found)
    return found
