"""Parts of one record as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pellucid.language.shift import with_tensors
from pellucid.record.layer import Layer, Padding
from pellucid.record.sharing import layers

if TYPE_CHECKING:
    from pellucid.record.layer import Span
    from pellucid.record.record import Record

T = TypeVar("T")


class Piece(NamedTuple):
    """A part of a record, with all of its layers or without."""

    record: Record
    batch: int  # sequences

    def outline(self) -> Piece:
        """The same without a number of its layers."""
        made = emptied(self.record)
        for layer in self.record.values():
            made.add(replace(layer, readings={}, parts=[], padding=Padding()))
        return Piece(made, self.batch)


def piece_of(record: Record) -> Piece:
    """A rank's record, to be joined with those of others."""
    known = record.token_ids if record.token_ids is not None else record.tokens
    batch = max((layer.batch for layer in record.values()), default=0) if known is None else len(known)
    made = emptied(record)
    for layer in record.values():
        made.add(on_cpu(layer))
    made.token_ids = None if record.token_ids is None else record.token_ids.cpu()
    return Piece(made, batch)


def on_cpu(layer: Layer) -> Layer:
    """A layer without gradients, whose tensors another rank can take."""
    change = Tensor.cpu
    return replace(
        layer.detached(),
        readings={name: _mapped(reading, lambda t: t.detach().cpu()) for name, reading in layer.readings.items()},
        padding=Padding(*(None if padded is None else padded.cpu() for padded in layer.padding)),
        parts=[
            replace(
                part,
                query=part.query.cpu(),
                key=part.key.cpu(),
                sinks=None if part.sinks is None else part.sinks.cpu(),
                score=with_tensors(part.score, change),
                mask=with_tensors(part.mask, change),
            )
            for part in layer.parts
        ],
    )


def _mapped(reading: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return change(reading) if isinstance(reading, Tensor) else type(reading)(*map(change, reading))


def joined(axis: str, pieces: Sequence[Piece]) -> Piece:
    """The record that several are.

    Args:
        axis: "positions", "heads", "sequences" or "layers": what of it each has a part of.
        pieces: in order.

    Raises:
        ValueError: they are not parts of one record.

    """
    parts = [piece.record for piece in pieces]
    made = _about(axis, pieces)
    for name in dict.fromkeys(name for part in parts for name in part.layers):
        made.add(layer_of(axis, name, [part.get(name) for part in parts], made.notes))
    return Piece(made, sum(piece.batch for piece in pieces) if axis == "sequences" else pieces[0].batch)


def layer_of(axis: str, name: str, parts: Sequence[Any], notes: list[str]) -> Any:
    """The layer that ranks' parts of it are.

    Args:
        axis: what of it each has a part of.
        name: the layer's.
        parts: in order; None of a rank that has none of it.
        notes: gets a sentence for what is left out.

    Raises:
        ValueError: they are not parts of one layer.

    """
    own = [part for part in parts if part is not None]
    if axis == "layers" and len(own) > 1:
        raise ValueError(f"ranks: {name} is on two ranks, which divide layers")
    if axis in ("positions", "sequences") and len(own) < len(parts):
        raise ValueError(f"ranks: {name} is not on all ranks, which divide {axis}")
    return own[0] if axis == "layers" else layers.joined(axis, own, notes)


def _about(axis: str, pieces: Sequence[Piece]) -> Record:
    """A record without layers of what the ranks know beside them."""
    parts = [piece.record for piece in pieces]
    made = emptied(parts[0])
    for part in parts:
        if (part.model, part.readouts) != (made.model, made.readouts):
            raise ValueError(f"ranks: they watch {made.model} by {made.readouts} and {part.model} by {part.readouts}")
    made.notes, made.missed = _once(part.notes for part in parts), _once(part.missed for part in parts)
    made.planned_bytes = sum(part.planned_bytes for part in parts)
    made.complete = all(part.complete for part in parts)
    if axis == "sequences":
        made.tokens, made.source_tokens = (_lists(getattr(part, name) for part in parts) for name in _TOKENS)
        made.token_ids = _ids([part.token_ids for part in parts])
        made.segments = _segments(pieces)
    made._images = _placed(axis, pieces, [part.images for part in parts])
    made._frames = _placed(axis, pieces, [part.frames for part in parts])
    return made


_TOKENS = ("tokens", "source_tokens")


def emptied(record: Record) -> Record:
    """What a record says beside its layers."""
    made = copy(record)
    made._layers, made.ranks = {}, None
    return made


def _once(lists: Iterable[Iterable[T]]) -> list[T]:
    return list(dict.fromkeys(one for each in lists for one in each))


def _lists(values: Iterable[list[list[str]] | None]) -> list[list[str]] | None:
    every = list(values)
    return None if any(each is None for each in every) else [one for each in every for one in each or ()]


def _ids(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The ids of all sequences; behind the end of a shorter one -1."""
    known = [ids for ids in parts if ids is not None]
    if len(known) < len(parts):
        return None
    length = max(ids.shape[1] for ids in known)
    return torch.cat([torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=-1) for ids in known])


def _segments(pieces: Sequence[Piece]) -> dict[str, Span]:
    """Named ranges of all sequences: one where all have the same, else one a sequence."""
    first = pieces[0].record.segments
    if all(piece.record.segments == first for piece in pieces) and not any(isinstance(s, list) for s in first.values()):
        return first
    if any(piece.record.segments.keys() != first.keys() for piece in pieces):
        raise ValueError("ranks: segments of the same names are needed on all ranks, which divide sequences")
    return {name: [span for piece in pieces for span in _spans(piece, name)] for name in first}


def _spans(piece: Piece, name: str) -> list[slice]:
    span = piece.record.segments[name]
    return span if isinstance(span, list) else [span] * piece.batch


def _placed(axis: str, pieces: Sequence[Piece], items: Sequence[list[Any]]) -> list[Any]:
    """Images or frames of all ranks, each in its sequence; what several ranks have of one is one."""
    found: list[Any] = []
    before = 0
    for piece, own in zip(pieces, items, strict=True):
        for item in own:
            moved = item if item.sequence is None else replace(item, sequence=item.sequence + before)
            if moved not in found:
                found.append(moved)
        before += piece.batch if axis == "sequences" else 0
    return found
