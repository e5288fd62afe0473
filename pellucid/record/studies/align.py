"""When each token was spoken, or where in the source it stands, from cross-attention: `record.align(...)`.

As Whisper's routine does it: each head's weights are made comparable over the tokens, smoothed along the keys,
averaged over heads, and the cheapest way through them is followed. The weights come from captured query and key, one
head and one stretch of keys at a time; what is stored is one matrix of tokens by keys, whatever the number of heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pellucid import legible
from pellucid.record.studies.warping import warp

if TYPE_CHECKING:
    from pellucid.record.layer import Layer
    from pellucid.record.record import Record

FILTER_WIDTH = 7  # keys, Whisper's median filter
_CHUNK = 512  # keys at a time

LayerHead = tuple[str | int, int]


class Word(NamedTuple):
    """A word, from the first key of its first token to where the next word begins."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Alignment:
    """Which keys each token stands at, in order: the tokens and keys never go back.

    Attributes:
        tokens: the tokens aligned, numbers of the queries where the tokens are not known.
        starts: the first key of each token, int64 [tokens].
        stops: the key after its last, int64 [tokens].
        rows: the tokens that the way visits, by their place in `tokens`, int64 [steps].
        keys: the keys that it visits, int64 [steps].

    """

    tokens: list[str]
    starts: Tensor
    stops: Tensor
    rows: Tensor
    keys: Tensor

    def seconds(self, per_key: float = 0.02) -> list[float]:
        """When each token begins, if a key is `per_key` seconds long: Whisper's frames are 0.02 s."""
        return [start * per_key for start in self.starts.tolist()]

    def words(self) -> list[Word]:
        """The tokens joined to words: one that begins with a space, or with a tokenizer's sign for it, begins a word.

        Tokens that are texts (`pellucid.token_texts`) make words as they read in any script.
        """
        found: list[Word] = []
        for token, start, stop in zip(self.tokens, self.starts.tolist(), self.stops.tolist(), strict=True):
            plain = f" {token[1:]}" if token.startswith(("Ġ", "▁")) else token
            if found and not plain.startswith(" "):
                found[-1] = Word(found[-1].text + plain, found[-1].start, stop)
            else:
                found.append(Word(plain.lstrip(), start, stop))
        return found


def align(
    record: Record,
    heads: Iterable[LayerHead] | None = None,
    *,
    sequence: int = 0,
    queries: slice = slice(None),
    keys: slice = slice(None),
    filter_width: int = FILTER_WIDTH,
) -> Alignment:
    """Which keys of the source each token stands at.

    Args:
        record: a run whose cross-attention kept query and key.
        heads: pairs of a layer, by name or by its number among the cross-attention layers, and a head; None for every
            head of the later half of the layers. Whisper's `generation_config.alignment_heads` is such a list.
        sequence: which of the batch.
        queries: which tokens; leave out the prompt's, as `slice(4, None)`.
        keys: which keys; `slice(0, frames // 2)` leaves out the silence that fills Whisper's window.
        filter_width: keys that the median is taken of, an odd number; 1 for no filter.

    Returns:
        The Alignment; keys are counted from the first key of the source.

    Raises:
        ValueError: there is no cross-attention, it kept no query and key, or `heads`, `queries` or `keys` fit nothing.
        IndexError: a layer or head beyond those there are.

    """
    if filter_width < 1 or filter_width % 2 != 1:
        raise ValueError(f"filter_width: an odd number of keys from 1 is needed, got {filter_width}")
    chosen = _chosen_heads(record, heads)
    layer = chosen[0][0]
    rows, columns = range(layer.q_len)[queries], range(layer.k_len)[keys]
    for name, given, found in (("queries", queries, rows), ("keys", keys, columns)):
        if not found or found.step != 1:
            raise ValueError(f"{name}: a slice of neighbours is needed, got {given} of {layer.q_len} x {layer.k_len}")
    if not 0 <= sequence < layer.batch:
        raise IndexError(f"sequence: the record has 0 to {layer.batch - 1}, got {sequence}")
    matrix = torch.zeros(len(rows), len(columns), device="cpu")
    for one, head in chosen:
        for place, part in _comparable(one, head, sequence, rows, columns, filter_width):
            matrix[:, place] += part
    path = warp(-matrix / len(chosen))
    starts, stops = _extents(path.rows, path.columns, len(rows))
    first = columns.start
    return Alignment(_tokens(record, sequence, rows), starts + first, stops + first, path.rows, path.columns + first)


def _chosen_heads(record: Record, heads: Iterable[LayerHead] | None) -> list[tuple[Layer, int]]:
    cross = [name for name in record.layers if record[name].role == "cross"]
    if not cross:
        raise ValueError("align: the record has no cross-attention, which says where in the source a token stands")
    if heads is None:
        later = cross[len(cross) // 2 :]
        chosen = [(record[name], head) for name in later for head in range(record[name].heads)]
    else:
        chosen = [_layer_head(record, cross, *pair) for pair in heads]
    if not chosen:
        raise ValueError("heads: at least one pair of a layer and a head is needed, got none")
    for layer, _ in chosen:
        if not layer.parts:
            raise ValueError(
                f"align: {_name(layer)} kept no query and key; watch the model with keep=[{legible.quoted(layer.name)}]"
            )
        if (layer.q_len, layer.k_len) != (chosen[0][0].q_len, chosen[0][0].k_len):
            raise ValueError(f"heads: {_name(layer)} and {_name(chosen[0][0])} attend over different lengths")
    return chosen


def _name(layer: Layer) -> str:
    return legible.name(layer.name)


def _layer_head(record: Record, cross: Sequence[str], layer: str | int, head: int) -> tuple[Layer, int]:
    if isinstance(layer, int):
        if not -len(cross) <= layer < len(cross):
            raise IndexError(f"heads: cross-attention has layers 0 to {len(cross) - 1}, got {layer}")
        layer = cross[layer]
    found = record[layer]
    if not 0 <= head < found.heads:
        raise IndexError(f"heads: {_name(found)} has heads 0 to {found.heads - 1}, got {head}")
    return found, head


def _comparable(
    layer: Layer, head: int, sequence: int, rows: range, columns: range, filter_width: int
) -> Iterator[tuple[slice, Tensor]]:
    """A head's weights with mean 0 and variance 1 over the tokens for each key, smoothed along the keys, by stretches.

    A key that every token gives the same says nothing: it is 0.
    """
    reach = filter_width // 2
    for start in range(0, len(columns), _CHUNK):
        stop = min(start + _CHUNK, len(columns))
        seen = slice(max(0, start - reach), min(len(columns), stop + reach))
        own = slice(columns[seen.start], columns[seen.stop - 1] + 1)
        weights = layer.weights(queries=slice(rows.start, rows.stop), keys=own, heads=head)[sequence, 0].cpu().float()
        deviation, mean = torch.std_mean(weights, dim=0, correction=0)
        comparable = torch.where(deviation > 0, (weights - mean) / deviation, 0.0)
        smooth = _median(comparable, reach)
        yield slice(start, stop), smooth[:, start - seen.start : stop - seen.start]


def _median(values: Tensor, reach: int) -> Tensor:
    """The median of each entry and its `reach` neighbours on either side, mirrored at the ends.

    Where a stretch ends before the keys do, the entries closer than `reach` are not right and are not used.
    """
    if not reach or values.shape[-1] <= reach:
        return values
    mirrored = torch.nn.functional.pad(values[None], (reach, reach), mode="reflect")[0]
    return mirrored.unfold(-1, 2 * reach + 1, 1).sort(-1).values[..., reach]


def _extents(rows: Tensor, columns: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first column of each row of a path, and the one after its last."""
    starts = torch.full((count,), torch.iinfo(torch.int64).max, device="cpu").scatter_reduce(0, rows, columns, "amin")
    stops = torch.zeros(count, dtype=torch.int64, device="cpu").scatter_reduce(0, rows, columns + 1, "amax")
    return starts, stops


def _tokens(record: Record, sequence: int, rows: range) -> list[str]:
    known = record.tokens[sequence] if record.tokens is not None and sequence < len(record.tokens) else []
    return [known[row] if row < len(known) else str(row) for row in rows]
