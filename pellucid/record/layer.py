"""What a watched run leaves of one attention module: a Layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid import legible
from pellucid.language import Expression
from pellucid.record.part import Part
from pellucid.record.runs import Runs
from pellucid.tensors.chosen import Chosen, positions

Span = slice | list[slice]


class Padding(NamedTuple):
    """Which queries and keys are padding, True where they are; None where nothing says so."""

    queries: Tensor | None = None  # bool [batch, q_len]
    keys: Tensor | None = None  # bool [batch, k_len]


class Missed(NamedTuple):
    """An attention module that ran and was not observed."""

    name: str
    reason: str


@dataclass
class Layer:
    """What one attention module did, joined over all its calls that continue one another.

    A readout's result is an attribute by its name (`layer.entropy`) and an item of `readings`: [batch, heads, q_len]
    and as pellucid.Observation gives it. Rows of padding are NaN (keys of `topk`: -1) and count in no statistic; padded
    keys are NaN in `received`. `lse` alone stays as it is, for exact weights come from it. `head_max_scores` is
    [heads], of all rows and sequences. Readings carry gradients where `watch` was asked for them. Queries are counted
    from the first that was seen: row i is the query at position `start + i` of its sequence. Keys are counted from
    position 0.

    Attributes:
        name: dotted name of the module that attends, "encoder.layer.3.attention.self"; "#2" after it marks a second
            call that does not continue the first, such as another input or a layer that is run twice.
        role: "self", "causal self" or "cross".
        batch: sequences.
        heads: query heads observed.
        head_numbers: their numbers in the model.
        kv_heads: key heads that they share.
        q_len: queries, of all calls.
        k_len: keys, of the longest call.
        head_dim: width of a query and key.
        value_dim: width of a value.
        calls: how many calls of the module were joined.
        call_rows: how many rows each call has, as runs: [[30, 1], [1, 24]] is one call of 30 rows, then 24 of one row;
            empty where that is not known.
        complete: whether all of its calls came to an end; not where a generation was interrupted.
        start: position of the first query; above 0 where a cache was filled before watching.
        scale: what query · key is multiplied by.
        has_sink: whether a learned sink takes weight.
        by_hand: whether the model computes its weights itself, by a softmax that it writes out. Its scores are then all
            that is known: head_dim is 1, `query` and `key` are zeros, and where they are kept the scores are kept too.
        readings: what was read, by name; `lse` is always there.
        sums: the names of those that are sums over queries.
        over_heads: the names of those that are of all heads together, [batch, q_len, ...].
        padding: which queries and keys are padding.
        parts: what exact weights are computed from, empty unless kept: one a call, or one for all calls where one
            key tensor and one pair of functions serve them.

    """

    name: str
    role: str
    batch: int
    heads: int
    kv_heads: int
    q_len: int
    k_len: int
    head_dim: int
    value_dim: int
    scale: float
    has_sink: bool = False
    by_hand: bool = False
    calls: int = 1
    call_rows: Runs = field(default_factory=list)
    complete: bool = True
    start: int = 0
    head_numbers: list[int] = field(default_factory=list)
    readings: dict[str, Any] = field(default_factory=dict)
    sums: list[str] = field(default_factory=list)
    over_heads: list[str] = field(default_factory=list)
    padding: Padding = field(default_factory=Padding)
    parts: list[Part] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        readings = self.__dict__.get("readings", {})
        if name.startswith("_") or name not in readings:
            raise AttributeError(name if name.startswith("_") else self._missing(name))
        return readings[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.readings]

    def __contains__(self, name: str) -> bool:
        return name in self.readings

    def __repr__(self) -> str:
        kept = f", {'scores' if self.by_hand else 'query and key'} kept" if self.parts else ""
        lengths = f"{self.batch} x {self.heads} heads, {self.q_len} queries x {self.k_len} keys"
        own = ", a softmax of the model's own" if self.by_hand else ""
        read = ", ".join(self.readings)
        return legible.message(f"Layer({self.name!r}, {self.role}{own}, {lengths}: {read}{kept})")

    def _missing(self, name: str) -> str:
        read = ", ".join(self.readings)
        return legible.message(f"{name!r} was not read; pass its readout to watch(readouts=[...]). Read were: {read}")

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles have: readings without their gradients."""
        return self.detached().__dict__

    @property
    def requires_grad(self) -> bool:
        """Whether a reading carries a gradient."""
        return any(map(_requires_grad, self.readings.values()))

    def detached(self) -> Layer:
        """The same with readings that carry no gradient."""
        if not self.requires_grad:
            return self
        return replace(self, readings={name: _detached(reading) for name, reading in self.readings.items()})

    @property
    def has_weights(self) -> bool:
        """Whether `weights` can be asked for."""
        return bool(self.parts)

    @property
    def end(self) -> int:
        """The position after its last query."""
        return self.start + self.q_len

    @property
    def query(self) -> Tensor | None:
        """The queries, [batch, heads, q_len, head_dim], or None where not kept."""
        return torch.cat([part.query for part in self.parts], -2) if self.parts else None

    @property
    def key(self) -> Tensor | None:
        """The keys of the last call, [batch, kv_heads, keys, head_dim], or None where not kept."""
        return self.parts[-1].key if self.parts else None

    @property
    def score(self) -> Expression | None:
        """The function of each score, or None where not kept or different from call to call (see `parts`)."""
        return self.parts[0].score if len(self.parts) == 1 else None

    @property
    def mask(self) -> Expression | None:
        """The function that says which keys are allowed, or None like `score`."""
        return self.parts[0].mask if len(self.parts) == 1 else None

    @property
    def sinks(self) -> Tensor | None:
        """The sinks' logits, [heads], or None where there are none or not kept."""
        return self.parts[-1].sinks if self.parts else None

    def of_sequence(self, number: int) -> Layer:
        """The layer of one sequence of the batch alone, with lse and padding and no other reading.

        Raises:
            IndexError: there is no such sequence.

        """
        if not 0 <= number < self.batch:
            raise IndexError(f"sequence: {legible.name(self.name)} has {self.batch}, counted from 0, got {number}")
        own = slice(number, number + 1)
        padding = Padding(*(None if padded is None else padded[own] for padded in self.padding))
        parts = [part.of_sequence(number) for part in self.parts]
        lse = {name: reading[own] for name, reading in self.readings.items() if name == "lse"}
        return replace(self, batch=1, readings=lse, sums=[], over_heads=[], padding=padding, parts=parts)

    def weights(self, queries: Chosen = None, keys: Chosen = None, heads: Chosen = None) -> Tensor:
        """An exact part of the attention weights, [batch, heads, queries, keys], computed now from query, key and lse.

        Args:
            queries: which rows, a slice, one index, or several; all if None. Dimensions are kept.
            keys: which keys, the same way.
            heads: which of the heads observed, the same way.

        Returns:
            float32 (float64 of a float64 model). A row sums to 1, less the sink's share; a row of padding whose every
            key is masked is 0.

        Raises:
            ValueError: query and key were not kept.
            IndexError: an index beyond the queries, keys or heads.

        """
        if not self.has_weights:
            raise ValueError(
                f"weights: {legible.name(self.name)} kept no query and key to compute them from; "
                f"watch the model with keep=[{legible.quoted(self.name)}], or keep=True for all layers"
            )
        rows = positions("queries", queries, self.q_len, "cpu")
        chosen_keys, chosen_heads = (
            positions("keys", keys, self.k_len, "cpu"),
            positions("heads", heads, self.heads, "cpu"),
        )
        device = self.parts[0].query.device
        lse = self.readings["lse"].detach()
        found: list[Tensor] = []
        order: list[Tensor] = []
        for part in self.parts:
            first = part.start - self.start
            mine = ((rows >= first) & (rows < first + part.q_len)).nonzero().flatten()
            if len(mine) or not len(rows):
                own = rows[mine]
                its_lse = lse[:, chosen_heads][:, :, own]
                place = (own + self.start, chosen_keys, chosen_heads)
                found.append(part.weights(its_lse, *(index.to(device) for index in place)))
                order.append(mine)
        if len(found) == 1:  # in the order asked for, and a copy costs as much as the weights
            return found[0]
        return torch.cat(found, -2)[..., torch.cat(order).argsort().to(device), :]


def _requires_grad(reading: Any) -> bool:
    return any(tensor.requires_grad for tensor in ((reading,) if isinstance(reading, Tensor) else reading))


def _detached(reading: Any) -> Any:
    return reading.detach() if isinstance(reading, Tensor) else type(reading)(*(part.detach() for part in reading))


# Called with each layer once its observation is complete, while the model runs; what it returns, if anything, takes the
# layer's place in the record, so that what the layer held can leave memory.
OnLayer = Callable[[Layer], "Layer | None"]
