"""How many keys each query may look at: what the entropy of a row is compared with.

Counted from the mask's expression in tiles: its bounds settle the tiles that are all allowed or all masked, so only
those that the mask's edge goes through are cut smaller, and the smallest evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pellucid.language import INPUTS, TRUE, Expression, Interval, bounds, evaluate, operation, walk
from pellucid.record.layer import Layer

_CAUSAL = operation("ge", INPUTS["q"], INPUTS["k"])
T = TypeVar("T")
SMALLEST = 256  # queries and keys of a tile that is evaluated


class Allowed(NamedTuple):
    """How many keys each query may look at, int32 [batch, heads or 1, q_len]: no padding is counted."""

    keys: Tensor
    beyond_first: Tensor  # the same without the sequence's first key


@dataclass(frozen=True)
class Field:
    """The queries and keys that a mask is about, by their positions.

    Attributes:
        batch: sequences.
        heads: query heads.
        queries: positions.
        keys: positions.
        padding: which keys are padding, bool [batch, all positions], or None.
        mask: which keys are allowed, by position.

    """

    batch: int
    heads: int
    queries: range
    keys: range
    padding: Tensor | None
    mask: Expression

    def count(self) -> Allowed:
        """The keys of each query."""
        of_heads = any(node.op == "input" and node.value == "h" for node in walk(self.mask))
        heads = self.heads if of_heads else 1
        counts = torch.zeros(self.batch, heads, len(self.queries), dtype=torch.int32, device=self._device)
        if self.batch and counts.numel() and self.keys:
            self._add(counts, self.queries, self.keys)
        first = self._first()
        own = first.clamp(
            self.keys.start, max(self.keys.start, self.keys.stop - 1)
        )  # a mask may have no numbers before
        one = self._evaluated(self.mask, heads, self.queries, own[:, None, None, None])
        inside = ((first >= self.keys.start) & (first < self.keys.stop))[:, None, None]
        allows_first = one.expand(*counts.shape, 1)[..., 0] & inside
        return Allowed(counts, counts - allows_first.to(torch.int32))

    def pairs(self) -> Tensor:
        """Each query's keys one by one, bool [batch, heads or 1, queries, keys]: a tensor as large as it says."""
        heads = self.heads if any(node.op == "input" and node.value == "h" for node in walk(self.mask)) else 1
        keys = torch.arange(self.keys.start, self.keys.stop, device=self._device)
        found = self._evaluated(self.mask, heads, self.queries, keys) & self._real(self.keys)
        return found.expand(self.batch, heads, len(self.queries), len(self.keys))

    @property
    def _device(self) -> torch.device:
        """Where the tensors that the mask reads are."""
        return next((node.value.device for node in walk(self.mask) if node.op == "load"), torch.device("cpu"))

    def _add(self, counts: Tensor, rows: range, columns: range) -> None:
        """Add a tile's keys, cutting it where the mask is mixed."""
        places = {
            "b": Interval(0, self.batch - 1),
            "h": Interval(0, self.heads - 1),
            "q": Interval(rows[0], rows[-1]),
            "k": Interval(columns[0], columns[-1]),
        }
        found = bounds(self.mask, places)
        if found is not None and not found.high:
            return
        if found is not None and found.low:
            self._place(counts, rows).add_(self._real(columns).sum(-1, dtype=torch.int32))
        elif max(len(rows), len(columns)) <= SMALLEST:
            keys = torch.arange(columns.start, columns.stop, device=self._device)
            allowed = self._evaluated(self.mask, counts.shape[1], rows, keys) & self._real(columns)
            self._place(counts, rows).add_(allowed.sum(-1, dtype=torch.int32))
        else:
            for half_of_rows in _halves(rows):
                for half_of_columns in _halves(columns):
                    self._add(counts, half_of_rows, half_of_columns)

    def _place(self, counts: Tensor, rows: range) -> Tensor:
        return counts[..., rows.start - self.queries.start : rows.stop - self.queries.start]

    def _evaluated(self, mask: Expression, heads: int, rows: range, keys: Tensor) -> Tensor:
        """The mask, broadcasting to [batch, heads, rows, keys]."""
        place = {
            "b": torch.arange(self.batch, device=self._device)[:, None, None, None],
            "h": torch.arange(heads, device=self._device)[:, None, None],
            "q": torch.arange(rows.start, rows.stop, device=self._device)[:, None],
            "k": keys,
        }
        found = evaluate(mask, inputs=place, dtype=torch.float32)[0]
        return found.expand(*found.shape[:-1], keys.shape[-1]) if found.ndim else found.expand(1, keys.shape[-1])

    def _real(self, columns: range) -> Tensor:
        """Which keys are no padding, bool [batch or 1, 1, 1, keys]."""
        if self.padding is None:
            return torch.ones(1, 1, 1, len(columns), dtype=torch.bool, device=self._device)
        return ~self.padding[:, None, None, columns.start : columns.stop].to(self._device)

    def _first(self) -> Tensor:
        """The position of each sequence's first key that is no padding, int64 [batch]."""
        if self.padding is None:
            return torch.zeros(self.batch, dtype=torch.int64, device=self._device)
        return (~self.padding).to(torch.uint8).argmax(-1).to(self._device)


def allowed_of(layer: Layer) -> Allowed:
    """How many keys each query of a layer may look at.

    As it was read, or counted from the masks that were kept; else from the layer's role and padding alone: then a
    window or packed sequences are not known of, and the numbers are upper limits.
    """
    if "allowed" in layer.readings:
        return Allowed(*layer.readings["allowed"])
    counts = list(_found(layer, range(layer.start, layer.end), Field.count))
    return Allowed(*(torch.cat(joined, -1) for joined in zip(*counts, strict=True)))


def allowed_pairs(layer: Layer, rows: range) -> Tensor:
    """Which keys some queries of a layer may look at, bool [batch, heads or 1, rows, k_len], known as `allowed_of` is.

    Args:
        layer: the layer.
        rows: its queries, counted from its first.

    """
    found = []
    for field, own in _found(layer, range(layer.start + rows.start, layer.start + rows.stop), lambda f: (f, f.pairs())):
        found.append(torch.nn.functional.pad(own.cpu(), (field.keys.start, layer.k_len - field.keys.stop)))
    heads = max(one.shape[1] for one in found)
    return torch.cat([one.expand(-1, heads, -1, -1) for one in found], -2)


def _found(layer: Layer, queries: range, asked: Callable[[Field], T]) -> Iterator[T]:
    """What is asked of the masks of a layer about queries, by position, one part after another."""
    padding = layer.padding.keys
    for part in layer.parts:
        own = range(max(queries.start, part.start), min(queries.stop, part.start + part.q_len))
        if own:
            with part.computing():
                keys = range(part.k_start, part.k_start + part.k_len)
                found = asked(Field(layer.batch, layer.heads, own, keys, padding, part.mask))
            yield found
    if not layer.parts:
        mask = _CAUSAL if layer.role == "causal self" else TRUE
        yield asked(Field(layer.batch, layer.heads, queries, range(layer.k_len), padding, mask))


def _halves(whole: range) -> list[range]:
    if len(whole) <= SMALLEST:
        return [whole]
    middle = whole.start + len(whole) // 2
    return [range(whole.start, middle), range(middle, whole.stop)]
