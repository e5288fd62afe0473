"""Which part of a reading is looked at: a kind of attention, one of its layers, and one head or the mean of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pellucid.observation import Observation

KINDS = ("cross", "encoder", "decoder")

TITLES = {
    "cross": "cross-attention",
    "encoder": "self-attention of the encoder",
    "decoder": "causal self-attention of the decoder",
}


class Reading(Protocol):
    """What a model read and wrote, with the observations of every layer: batch 1, [1, heads, queries, keys]."""

    @property
    def text(self) -> str:
        """The text that was read."""

    @property
    def answer(self) -> str:
        """What the model made of it."""

    @property
    def attention(self) -> Mapping[str, Sequence[Observation]]:
        """The observations by kind of attention, then by layer."""

    def module(self, kind: str, layer: int) -> tuple[int, str]:
        """The number of a kind's layer among all of the model's, and the name of its module."""

    def axes(self, kind: str) -> tuple[Sequence[str], Sequence[str]]:
        """The query tokens and the key tokens of one kind of attention."""


@dataclass(frozen=True)
class Selection:
    """One head of one layer, or the mean of its heads where `head` is None.

    Attributes:
        kind: of attention, one of KINDS.
        layer: its number, from 0.
        layers: how many there are of this kind.
        head: its number, from 0.
        observation: what the layer did, of batch 1.
        module: the layer's number among all of the model's, as in a record, and its name there.
        queries: a token for each row.
        keys: a token for each column.

    """

    kind: str
    layer: int
    layers: int
    head: int | None
    observation: Observation
    module: tuple[int, str]
    queries: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def title(self) -> str:
        """What is looked at, in words."""
        heads = self.observation.heads
        head = f"mean of {heads} heads" if self.head is None else f"head {self.head} of {numbered(heads)}"
        return f"{TITLES[self.kind]}, its layer {self.layer} of {numbered(self.layers)}, {head}"

    def weights(self) -> Tensor:
        """The chosen weights [queries, keys]; each row sums to 1, a mean of distributions being a distribution."""
        every_head = self.observation.weights()[0]  # [heads, queries, keys]
        return every_head.mean(0) if self.head is None else every_head[self.head]


def select(reading: Reading, kind: str = "cross", layer: int | None = None, head: int | None = None) -> Selection:
    """The part of the reading to look at; the last layer where none is named.

    Args:
        reading: what a model read and wrote.
        kind: of attention, one of the reading's.
        layer: its number, from 0.
        head: its number, from 0; the mean of all if None.

    Raises:
        ValueError: no such kind, layer or head in this reading.

    """
    if kind not in reading.attention:
        raise ValueError(f"attention: must be one of {', '.join(reading.attention)}, got {kind!r}")
    observations = reading.attention[kind]
    layer = len(observations) - 1 if layer is None else layer
    _check_index("layer", layer, len(observations), TITLES[kind])
    observation = observations[layer]
    if head is not None:
        _check_index("head", head, observation.heads, f"{TITLES[kind]}, layer {layer},")
    queries, keys = reading.axes(kind)
    return Selection(
        kind, layer, len(observations), head, observation, reading.module(kind, layer), tuple(queries), tuple(keys)
    )


def numbered(count: int) -> str:
    """The numbers of `count` things, counted from 0: "0-3"."""
    return "0" if count == 1 else f"0-{count - 1}"


def _check_index(name: str, number: int, count: int, owner: str) -> None:
    if not 0 <= number < count:
        raise ValueError(f"{name}: {owner} has {numbered(count)}, got {number}")
