"""To which layers of a record something belongs that lies in a sequence: a picture's patches, frames of sound.

Each names the layers itself, or belongs to all whose sequence it can be of. Where that is not certain, it is on none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pellucid import legible

T = TypeVar("T")
Axis = Literal["queries", "keys"]
Layers = str | Sequence[str] | None
_WILD = re.compile(r"[*?\[]")


class Located(Protocol):
    """What lies in the sequences of some layers."""

    @property
    def layers(self) -> tuple[str, ...] | None:
        """Names of layers; None for all whose sequence it is of."""

    @property
    def source(self) -> bool:
        """Whether it lies in the sequence that cross-attention looks at."""

    @property
    def sequence(self) -> int | None:
        """Number of the sequence in the batch; None for each of them."""

    @property
    def limits(self) -> tuple[int, int]:
        """The first position that it has for certain, and the one after the last."""


class Outline(NamedTuple):
    """What of a layer says which sequences it attends from and to."""

    name: str
    role: str  # "self", "causal self" or "cross"
    batch: int
    start: int  # position of the first query
    q_len: int
    k_len: int

    @classmethod
    def of(cls, layer: Any) -> Outline:
        """That of a layer, or of what a manifest says of one."""
        values = layer if isinstance(layer, dict) else vars(layer)
        return cls(*(values[name] for name in cls._fields))

    def length(self, axis: Axis) -> int:
        """Positions of the sequence along an axis; in self-attention both axes are of one sequence."""
        behind = self.start + self.q_len
        if self.role == "cross":
            return self.k_len if axis == "keys" else behind
        return max(self.k_len, behind)


Lying = TypeVar("Lying", bound=Located)


def layer_names(layers: Layers) -> tuple[str, ...] | None:
    """Names of layers as they are kept. Raises TypeError for what is none."""
    names = (layers,) if isinstance(layers, str) else layers
    if names is not None and not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise TypeError(f"layers: names of layers or patterns with * are needed, or None, got {layers!r}")
    return None if names is None else tuple(names)


def is_named(name: str, pattern: str) -> bool:
    """Whether a layer's name is meant: by itself, by a module that it is inside of, or by a pattern with * and ?.

    A name with a number, as `vision_tower#2`, means second calls; one without means first calls alone.
    """
    if name == pattern:
        return True
    if _WILD.search(pattern):
        return fnmatchcase(name, pattern)
    outer, _, of_call = pattern.partition("#")
    base, _, call = name.partition("#")
    return base.startswith(f"{outer}.") and call == of_call


def axes(item: Located, layer: Outline, others: list[Outline]) -> tuple[Axis, ...]:
    """The axes of a layer on which something lies.

    Args:
        item: what lies there.
        layer: one of a record.
        others: all of that record.

    """
    possible = _possible(item, layer, others)
    if possible and item.layers is None and len(_lengths(item, others)) > 1:
        return ()
    if item.sequence is not None and item.sequence >= layer.batch:
        return ()
    stop = item.limits[1]
    ends = {"queries": layer.start + layer.q_len, "keys": layer.k_len}
    begins = {"queries": layer.start, "keys": 0}
    return tuple(axis for axis in possible if stop <= ends[axis] and (stop > begins[axis] or not stop))


def those_on(
    items: Iterable[Lying], layer: Outline, sequence: int, axis: Axis | None, others: list[Outline]
) -> list[Lying]:
    """Of some things those that lie on an axis of a layer, on either if None, in one of its sequences.

    Args:
        items: what may lie there.
        layer: one of a record.
        sequence: number of the sequence in the batch.
        axis: which.
        others: all of that record.

    """
    found = []
    for item in items:
        on = axes(item, layer, others) if item.sequence in (None, sequence) else ()
        if axis in on if axis is not None else on:
            found.append(item)
    return found


def listed(argument: str, items: Iterable[T], kind: type[T]) -> list[T]:
    """A list of one kind of things. Raises TypeError for anything else."""
    found = list(items) if isinstance(items, Iterable) else [items]
    for item in found:
        if not isinstance(item, kind):
            raise TypeError(f"{argument}: a list of {kind.__name__} is needed, got {type(item).__name__}")
    return found


def check(argument: str, items: Iterable[Located], layers: Iterable[Outline]) -> None:
    """Raise ValueError, with the reason, for what belongs to none of a record's layers."""
    known = list(layers)
    for number, item in enumerate(items):
        if known and not any(axes(item, layer, known) for layer in known):
            raise ValueError(f"{argument}[{number}]: it belongs to no layer of the record: {_reason(item, known)}")


def _possible(item: Located, layer: Outline, known: list[Outline]) -> tuple[Axis, ...]:
    """The axes of a layer that are of the sequence in which something lies, whatever its length."""
    if item.layers is not None and not any(is_named(layer.name, pattern) for pattern in item.layers):
        return ()
    if layer.role == "cross":
        return ("keys",) if item.source else ("queries",)
    # Beside cross-attention, self-attention that is not causal is the encoder's, as segments have it.
    is_source = layer.role == "self" and (item.source or any(other.role == "cross" for other in known))
    return ("queries", "keys") if item.layers is not None or is_source == item.source else ()


def _lengths(item: Located, known: list[Outline]) -> set[int]:
    """The lengths of the sequences that something could be of."""
    return {layer.length(axis) for layer in known for axis in _possible(item, layer, known)}


def _reason(item: Located, known: list[Outline]) -> str:
    possible = [layer for layer in known if _possible(item, layer, known)]
    names = ", ".join(legible.name(layer.name) for layer in known[:3])
    if not possible:
        named = "none is named by" if item.layers is not None else "none attends in the sequence of"
        return f"{named} layers={item.layers!r}, source={item.source}; there are {names}{', ...' * (len(known) > 3)}"
    if item.layers is None and len(found := _lengths(item, known)) > 1:
        return f"they attend in sequences of unlike lengths, {sorted(found)}; name those that are meant, layers=..."
    longest = max(layer.length(axis) for layer in possible for axis in _possible(item, layer, known))
    batch = max(layer.batch for layer in possible)
    return f"it is at positions up to {item.limits[1]} of sequence {item.sequence}, of {batch} sequences of {longest}"
