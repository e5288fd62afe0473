"""The rows of the sequences that a beam search returns: `record.of_beams(generated)`.

While the search runs, a sequence of the batch is a beam's place, and beams change places from step to step. The search
says for each token of what it returns in which place it was predicted: there is the row of that step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pellucid.language import INPUTS, Expression, constant, load, operation
from pellucid.language.shift import of_sequences
from pellucid.readouts import Received
from pellucid.record import runs
from pellucid.record.belonging import axes
from pellucid.record.frames import Frames
from pellucid.record.images import Image
from pellucid.record.layer import Layer, Padding
from pellucid.record.part import Part
from pellucid.record.studies import sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pellucid.record.record import Record

Item = TypeVar("Item", Image, Frames)

_SUMS = ("received", "pooled", "pooled_max")  # over queries, and so over all beams that had the place


@dataclass(frozen=True)
class Path:
    """In which place of the batch each row of each sequence is."""

    places: Tensor  # int64 [sequences, rows]; -1 where a sequence has ended
    start: int  # position of the first row

    @property
    def rows(self) -> int:
        """Rows of the longest sequence."""
        return self.places.shape[1]

    @property
    def ended(self) -> Tensor | None:
        """Which rows no sequence has, bool [sequences, rows]; None if each has all."""
        ended = self.places < 0
        return ended if bool(ended.any()) else None

    def of_rows(self, value: Tensor) -> Tensor:
        """What each row of the sequences has of [batch, heads, rows, ...]."""
        chosen = value[
            self.places.clamp_min(0), :, torch.arange(self.rows, device="cpu")
        ]  # [sequences, rows, heads, ...]
        return chosen.transpose(1, 2)

    def between(self, first: int, stop: int) -> Path:
        """The path of some rows."""
        return Path(self.places[:, first:stop], self.start + first)

    def last(self) -> Tensor:
        """The place of each sequence's last row, int64 [sequences]."""
        rows = torch.arange(self.rows, device="cpu").where(self.places >= 0, 0).amax(1)
        return self.places.gather(1, rows[:, None])[:, 0].clamp_min(0)


class Followed(NamedTuple):
    """What a beam search has returned of a record."""

    layers: list[Layer]
    tokens: list[list[str]] | None
    source_tokens: list[list[str]] | None
    token_ids: Tensor | None  # int64 [sequences, rows]
    images: list[Image]
    frames: list[Frames]


def followed(record: Record, generated: Any, prompt: int | None) -> Followed:
    """The layers and tokens of the sequences that a search has returned; `Record.of_beams` says more.

    Raises:
        ValueError: `generated` does not say which beams were taken, or the record is not of this generation.

    """
    beams = getattr(generated, "beam_indices", None)
    if not isinstance(beams, Tensor):
        raise ValueError(
            "generated: beam_indices are needed, got none; generate(num_beams=..., return_dict_in_generate=True) "
            "gives them"
        )
    beams, sequences = beams.cpu().long(), generated.sequences
    known = sequences.shape[1] - beams.shape[1]
    prompt = known if prompt is None else prompt
    apart = {layer.name for layer in record.values() if _is_apart(layer, record, prompt, beams.shape[1])}
    batch = max((layer.batch for layer in record.values() if layer.name not in apart), default=0)
    if int(beams.max()) >= batch:
        raise ValueError(f"generated: it is of {int(beams.max()) + 1} beams or more, the record of {batch} sequences")
    layers = [layer if layer.name in apart else _followed(layer, beams, prompt, batch) for layer in record.values()]
    tokens, source_tokens = (
        _of_sequences(tokens, beams[:, 0], batch) for tokens in (record.tokens, record.source_tokens)
    )
    known = sequences[:, :-1] if known == prompt else None
    of_each = partial(_of_each, record=record, places=beams[:, 0], batch=batch, apart=apart)
    return Followed(layers, tokens, source_tokens, known, of_each(record.images), of_each(record.frames))


def _is_apart(layer: Layer, record: Record, prompt: int, steps: int) -> bool:
    """Whether a layer is no part of the search, as a vision tower's, whose batch is one of pictures."""
    if layer.role != "self" or any(other.role == "cross" for other in record.values()):
        return False
    return layer.end < prompt - 1 + steps or (layer.calls == 1 and steps > 1)


def _of_each(items: list[Item], record: Record, places: Tensor, batch: int, apart: set[str]) -> list[Item]:
    """Images or frames of the search as those of each returned sequence that they are in.

    Args:
        items: of the record that was watched.
        record: that record.
        places: of each returned sequence at its start.
        batch: places that there were.
        apart: names of the layers that stay as they are.

    """
    outlines = record.outlines()
    found = []
    for item in items:
        if item.sequence is None:
            found.append(item)
            continue
        names = [outline.name for outline in outlines if axes(item, outline, outlines)]
        if stays := tuple(name for name in names if name in apart):
            found.append(replace(item, layers=stays))
        searched = [record[name] for name in names if name not in apart]
        for number, place in enumerate(places.tolist()):
            if those := tuple(one.name for one in searched if _sequence(one, place, batch) == item.sequence):
                found.append(replace(item, sequence=number, layers=those))
    return found


def _sequence(layer: Layer, place: int, batch: int) -> int:
    """The sequence of a layer's batch that a place of the search is; an encoder ran before there were beams."""
    return place * layer.batch // batch


def _of_sequences(values: Sequence[Any] | None, beams: Tensor, batch: int) -> Any:
    """What each sequence has of a list of one a beam, or one for all beams of an input."""
    return None if values is None else [values[int(place) * len(values) // batch] for place in beams]


def _followed(layer: Layer, beams: Tensor, prompt: int, batch: int) -> Layer:
    if layer.batch < batch:  # an encoder's, which ran before there were beams
        return _through(layer, Path((beams[:, :1] * layer.batch // batch).expand(-1, layer.q_len), layer.start))
    rows = prompt - 1 + beams.shape[1] - layer.start
    if not 0 < rows <= layer.q_len:
        raise ValueError(
            f"generated: it has rows up to position {prompt + beams.shape[1] - 1}, {layer.name} from {layer.start} to "
            f"{layer.end}; was another generation watched with it, or is prompt={prompt} not its length?"
        )
    steps = (torch.arange(rows, device="cpu") + layer.start - (prompt - 1)).clamp_min(0)
    return _through(layer, Path(beams[:, steps], layer.start))


def _through(layer: Layer, path: Path) -> Layer:
    """The layer that a path through a layer's places is."""
    k_len = layer.k_len if layer.role != "causal self" else path.start + path.rows
    summed = {*_SUMS, *layer.sums}
    followed = replace(
        layer,
        batch=len(path.places),
        q_len=path.rows,
        call_rows=runs.first(layer.call_rows, path.rows),
        k_len=k_len,
        readings={name: _of_layer(layer, name, path) for name in layer.readings if name not in summed},
        padding=_padding(layer, path, k_len),
        parts=[_part(part, layer, path, k_len) for part in layer.parts if part.start < path.start + path.rows],
    )
    if "received" in layer.readings:
        followed.readings |= sums.of_parts(followed, [Received()])
    return followed


def _of_layer(layer: Layer, name: str, path: Path) -> Any:
    value = layer.readings[name]
    if isinstance(value, Tensor) and value.ndim == 1:  # of each head, of all rows that were read
        return value
    return _reading(name, value[:, None], path)[:, 0] if name in layer.over_heads else _reading(name, value, path)


def _reading(name: str, value: Any, path: Path) -> Any:
    if not isinstance(value, Tensor):
        return type(value)(*(_reading(name, tensor, path) for tensor in value))
    found = path.of_rows(value)
    if path.ended is None:
        return found
    ended = path.ended[:, None].reshape(len(found), 1, path.rows, *(1,) * (found.ndim - 3))
    if found.is_floating_point():
        return found.masked_fill(ended, -torch.inf if name == "lse" else torch.nan)
    return found.masked_fill(ended, -1 if name == "topk" else 0)


def _padding(layer: Layer, path: Path, k_len: int) -> Padding:
    queries, keys = layer.padding
    if queries is not None:
        queries = path.of_rows(queries[:, None])[:, 0]
    if keys is not None:
        keys = keys[path.places[:, 0].clamp_min(0), :k_len]
    if path.ended is not None:
        queries = path.ended if queries is None else queries | path.ended
        if layer.role == "causal self":
            behind = torch.nn.functional.pad(path.ended, (path.start, 0))
            keys = behind if keys is None else keys | behind
    return Padding(queries, keys)


def _part(part: Part, layer: Layer, path: Path, k_len: int) -> Part:
    """The part of the sequences: its keys are those of the place in which each of them is at its last row there.

    A search may go on after all that it returns has ended: keys from position `k_len` on are of no returned sequence.
    """
    first = part.start - layer.start
    own = path.between(first, first + part.q_len)
    last = own.last()
    mask = of_sequences(part.mask, last)
    return replace(
        part,
        query=own.of_rows(part.query[:, :, : own.rows]),
        key=part.key[last, :, : k_len - part.k_start],
        score=of_sequences(part.score, last),
        mask=mask if own.ended is None else operation("and", mask, _alive(own)),
    )


def _alive(path: Path) -> Expression:
    """Whether a sequence has a row, by its position."""
    assert path.ended is not None
    return load(~path.ended, (INPUTS["b"], operation("sub", INPUTS["q"], constant(path.start))))
