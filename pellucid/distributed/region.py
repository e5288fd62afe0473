"""The part of a call that one rank computes, posed as a problem of its own.

Positions, heads and sequences stay those of the whole call: what a function reads of them is renumbered, or the tensor
that it indexes by them is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.language import INPUTS, Expression, load, operation, walk
from pellucid.language.shift import offset
from pellucid.problem import Problem
from pellucid.readouts import Readout
from pellucid.readouts.base import ColumnReadout

# A captured tensor as a rank has it, and which of its dimensions hold the rank's own part alone.
Own = Callable[[Tensor, Sequence[Expression]], tuple[Tensor, frozenset[int]]]
MIXER = 0x2545F4914F6CDD1D  # odd: distinct places of one call give distinct seeds


def as_it_is(tensor: Tensor, indices: Sequence[Expression]) -> tuple[Tensor, frozenset[int]]:
    """A captured tensor that every rank has whole."""
    return tensor, frozenset()


@dataclass(frozen=True)
class Region:
    """The queries, heads and sequences of a call that are computed in one place, with all keys or some.

    Attributes:
        whole: the call of all ranks; of its query, key and value nothing but sizes is looked at.
        batch: the indices along each batch dimension.
        heads: the query heads.
        queries: the positions of the queries.
        keys: those of the keys; all if None. Where they are some, nothing is read but what `of_ranges` joins.

    """

    whole: Problem
    batch: tuple[range, ...]
    heads: range
    queries: range
    keys: range | None = None

    @staticmethod
    def of_queries(whole: Problem, queries: range) -> Region:
        """Of some queries of all heads and sequences."""
        return Region(whole, tuple(map(range, whole.batch)), range(whole.heads), queries)

    def problem(self, query: Tensor, key: Tensor, value: Tensor, own: Own = as_it_is) -> Problem:
        """The problem that is posed here.

        Args:
            query: of these queries, heads and sequences, [..., heads or 1, queries, head_dim].
            key: all keys of these heads and sequences.
            value: their values.
            own: gives each captured tensor as this rank has it.

        """
        whole = self.whole
        change = self._change(own)
        return replace(
            whole,
            query=query,
            key=key,
            value=value,
            batch=tuple(map(len, self.batch)),
            heads=len(self.heads),
            score=change(whole.score),
            mask=change(whole.mask),
            sinks=None if self.keys is not None else self.sinks(own),
            dropout_seed=self._seed(),
            readouts=self._readouts(change),
        )

    def sinks(self, own: Own) -> Tensor | None:
        """Those of the region's heads, if the call has any; `own` as in `problem`."""
        if self.whole.sinks is None:
            return None
        sinks, parts = own(self.whole.sinks, (INPUTS["h"],))
        return sinks if parts else _cut(sinks, 0, self.heads)

    def _readouts(self, change: Callable[[Expression], Expression]) -> tuple[Readout, ...]:
        """What is read of these queries; a sum over others alone is not."""
        found = []
        for readout in self.whole.readouts:
            part: Readout | None = readout
            if isinstance(readout, ColumnReadout) and len(self.queries) < self.whole.q_len:
                part = readout.of_queries(self.queries, self.whole)
            if part is not None and self.keys is not None:
                part = part.for_keys(len(self.keys))
            if part is not None:
                found.append(_changed(part, readout.name, change))
        return tuple(found)

    def _seed(self) -> int | Tensor:
        """Dropout's: each region another, for it numbers its rows from 0."""
        firsts = (*(own.start for own in self.batch), self.heads.start, self.queries.start)
        place = 0
        for size, first in zip((*self.whole.batch, self.whole.heads, self.whole.q_len), firsts, strict=True):
            place = place * max(size, 1) + first
        return self.whole.dropout_seed ^ (place * MIXER % 2**62)

    def _change(self, own: Own) -> Callable[[Expression], Expression]:
        """What makes of a function of the whole call's indices one of this region's."""
        device, lengths = self.whole.query.device, self._lengths
        inputs = {
            "b": self._sequences(device),
            "h": _moved(INPUTS["h"], self.heads.start, device),
            "q": _moved(INPUTS["q"], self.queries.start, device),
            "k": _moved(INPUTS["k"], self.keys.start if self.keys else 0, device),
        }

        def loaded(node: Expression, args: tuple[Expression, ...]) -> Expression:
            tensor, parts = own(node.value, node.args)
            indices = list(args)
            for dim, index in enumerate(node.args):
                if dim in parts:
                    indices[dim] = index
                elif index.op == "input" and index.value in lengths and tensor.shape[dim] == lengths[index.value][0]:
                    tensor = _cut(tensor, dim, lengths[index.value][1])
                    indices[dim] = index
            return load(tensor, tuple(indices))

        def change(root: Expression) -> Expression:
            made: dict[int, Expression] = {}
            for node in walk(root):
                args = tuple(made[id(arg)] for arg in node.args)
                if node.op == "input":
                    made[id(node)] = inputs.get(node.value, node)
                elif node.op == "load":
                    made[id(node)] = loaded(node, args)
                else:
                    made[id(node)] = Expression(node.op, node.kind, args, node.value) if args else node
            return made[id(root)]

        return change

    @property
    def _lengths(self) -> dict[str, tuple[int, range]]:
        """The inputs that stand for one whole dimension of the call: how long that is, and what of it is here."""
        lengths = {"h": (self.whole.heads, self.heads), "q": (self.whole.q_len, self.queries)}
        if self.keys is not None:
            lengths["k"] = (self.whole.k_len, self.keys)
        return lengths | ({"b": (self.whole.batch[0], self.batch[0])} if len(self.batch) == 1 else {})

    def _sequences(self, device: torch.device) -> Expression:
        """The number of a sequence among all, where they are counted as one dimension."""
        if all(len(own) == size for own, size in zip(self.batch, self.whole.batch, strict=True)):
            return INPUTS["b"]
        if len(self.batch) == 1:
            return _moved(INPUTS["b"], self.batch[0].start, device)
        numbers = torch.arange(torch.Size(self.whole.batch).numel(), device=device).view(self.whole.batch)
        for dim, own in enumerate(self.batch):
            numbers = _cut(numbers, dim, own)
        return load(numbers.flatten(), (INPUTS["b"],))


def _moved(index: Expression, start: int, device: torch.device) -> Expression:
    """An index from another first one on; the number is read from a tensor, for a constant would be compiled anew."""
    return operation("add", index, load(offset(start, device), ())) if start else index


def _cut(tensor: Tensor, dim: int, own: range) -> Tensor:
    return tensor if len(own) == tensor.shape[dim] else tensor.narrow(dim, own.start, len(own))


def _changed(readout: Readout, name: str, change: Callable[[Expression], Expression]) -> Readout:
    """A readout with its functions changed, under its name."""
    made = readout
    if readout.expressions:
        made = readout.again(readout.numbers, iter([change(own) for own in readout.expressions]), name)
    if made.name != name:
        made.name = name
    return made
