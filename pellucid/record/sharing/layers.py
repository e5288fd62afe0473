"""Parts of one layer as one: its rows, its heads, or its sequences, that lie on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pellucid.record.layer import Layer, Padding
from pellucid.record.part import Part
from pellucid.record.sharing import functions, positions
from pellucid.record.sharing.padding import lengthened

_ALIKE = ("name", "role", "head_dim", "value_dim", "scale", "has_sink", "by_hand", "sums", "over_heads")
_SAME_SEQUENCES, _SAME_HEADS = ("batch", "k_len", "calls"), ("head_numbers", "kv_heads")
_SAME = {  # beside those, by what is divided
    "positions": (*_SAME_SEQUENCES, *_SAME_HEADS),
    "heads": ("start", "q_len", *_SAME_SEQUENCES),
    "sequences": ("start", *_SAME_HEADS),
}
_OF_ALL_HEADS = ("allowed", "repeats")  # where each head has the same, they have one for all


def joined(axis: str, layers: Sequence[Layer], notes: list[str]) -> Layer:
    """The layer that several are.

    Args:
        axis: "positions", "heads" or "sequences", which of them each has a part of.
        layers: the parts in order.
        notes: gets a sentence for what is left out.

    Raises:
        ValueError: they are not parts of one layer.

    """
    first, *others = layers
    if not others:
        return first
    for other in others:
        _check_alike(axis, first, other)
    if axis in _PARTS and all(_PARTS[axis](other) == _PARTS[axis](first) for other in others):
        _check_same(axis, first, others)
        return first  # each rank has them all
    made = _JOINED[axis](layers, notes)
    sums, over_heads = ([name for name in names if name in made.readings] for names in (made.sums, made.over_heads))
    return replace(made, sums=sums, over_heads=over_heads)


def _check_alike(axis: str, first: Layer, other: Layer) -> None:
    for name in (*_ALIKE, *_SAME[axis]):
        one, two = getattr(first, name), getattr(other, name)
        if one != two:
            raise ValueError(
                f"ranks: {first.name} has {name} {one} on one rank and {two} on another, which divide {axis}"
            )


def _check_same(axis: str, first: Layer, others: Sequence[Layer]) -> None:
    """Raise ValueError unless ranks that have the same heads or rows have read the same, as far as lse tells."""
    for other in others:
        mine, theirs = first.readings.get("lse"), other.readings.get("lse")
        if mine is None or theirs is None:
            continue
        if not torch.allclose(mine, theirs, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise ValueError(
                f"ranks: all have the same {axis} of {first.name} and each another lse, so they do not divide {axis}"
            )


def _of_positions(layers: Sequence[Layer], notes: list[str]) -> Layer:
    layers = [layer for layer in layers if layer.q_len] or layers[:1]
    first = layers[0]
    for before, after in pairwise(layers):
        if after.start != before.end:
            raise ValueError(
                f"ranks: {first.name} has rows up to {before.end} on one rank and from {after.start} on the next, "
                "which divide positions"
            )
    return positions.joined(layers, _common(layers, notes))


def _of_heads(layers: Sequence[Layer], notes: list[str]) -> Layer:
    first, counts = layers[0], [layer.heads for layer in layers]
    numbers = [number for layer in layers for number in layer.head_numbers]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise ValueError(f"ranks: head {twice} of {first.name} is on two ranks, which divide heads")
    grouped = len({layer.heads / layer.kv_heads for layer in layers}) == 1
    readings = {name: _heads_of(name, layers) for name in _common(layers, notes)}
    parts = [
        _part_of_heads(parts, counts, grouped)
        for parts in _matching(layers, notes, lambda part: (part.start, part.q_len, part.k_start, part.k_len))
    ]
    kv_heads = sum(layer.kv_heads if grouped else layer.heads for layer in layers)
    return replace(first, heads=sum(counts), kv_heads=kv_heads, head_numbers=numbers, readings=readings, parts=parts)


def _heads_of(name: str, layers: Sequence[Layer]) -> Any:
    """A reading of all heads."""

    def of_tensors(tensors: Sequence[Tensor]) -> Tensor:
        if name in layers[0].over_heads:
            return torch.stack(list(tensors)).sum(0)
        if tensors[0].ndim == 1:  # one number a head
            return torch.cat(list(tensors))
        if name in _OF_ALL_HEADS:
            if tensors[0].shape[1] == 1 and all(torch.equal(tensors[0], other) for other in tensors[1:]):
                return tensors[0]
            tensors = [
                tensor.expand(-1, layer.heads, *(-1,) * (tensor.ndim - 2))
                for tensor, layer in zip(tensors, layers, strict=True)
            ]
        return torch.cat(list(tensors), 1)

    return _mapped([layer.readings[name] for layer in layers], of_tensors)


def _part_of_heads(parts: Sequence[Part], counts: Sequence[int], grouped: bool) -> Part:
    keys = [part.key for part in parts]
    if not grouped:
        keys = [key.repeat_interleave(count // key.shape[1], 1) for key, count in zip(keys, counts, strict=True)]
    return replace(
        parts[0],
        query=torch.cat([part.query for part in parts], 1),
        key=torch.cat(keys, 1),
        score=functions.joined([part.score for part in parts], "h", counts),
        mask=functions.joined([part.mask for part in parts], "h", counts),
        sinks=_sinks(parts),
    )


def _sinks(parts: Sequence[Part]) -> Tensor | None:
    found = [part.sinks for part in parts if part.sinks is not None]
    return torch.cat(found) if found else None


def _of_sequences(layers: Sequence[Layer], notes: list[str]) -> Layer:
    q_len, k_len = max(layer.q_len for layer in layers), max(layer.k_len for layer in layers)
    layers = [lengthened(layer, q_len, k_len) for layer in layers]
    first, counts = layers[0], [layer.batch for layer in layers]
    runs = [layer.call_rows for layer in layers]
    return replace(
        first,
        batch=sum(counts),
        calls=max(layer.calls for layer in layers),
        call_rows=first.call_rows if all(own == first.call_rows for own in runs) else [],
        complete=all(layer.complete for layer in layers),
        readings={name: _sequences_of(name, layers) for name in _common(layers, notes)},
        padding=Padding(_padded(layers, 0, q_len), _padded(layers, 1, k_len)),
        parts=[
            _part_of_sequences(parts, counts)
            for parts in _matching(
                layers, notes, lambda part: (part.start, part.q_len, part.k_start, part.k_len, part.sinks is None)
            )
        ],
    )


def _sequences_of(name: str, layers: Sequence[Layer]) -> Any:
    """A reading of all sequences."""

    def of_tensors(tensors: Sequence[Tensor]) -> Tensor:
        if tensors[0].ndim == 1:  # one number a head, of all its rows
            return torch.stack(list(tensors)).amax(0)
        if name in _OF_ALL_HEADS and len({tensor.shape[1] for tensor in tensors}) > 1:
            tensors = [tensor.expand(-1, layers[0].heads, *(-1,) * (tensor.ndim - 2)) for tensor in tensors]
        return torch.cat(list(tensors))

    return _mapped([layer.readings[name] for layer in layers], of_tensors)


def _padded(layers: Sequence[Layer], which: int, length: int) -> Tensor | None:
    known = [layer.padding[which] for layer in layers]
    if all(padded is None for padded in known):
        return None
    return torch.cat([
        torch.zeros(layer.batch, length, dtype=torch.bool, device="cpu") if padded is None else padded
        for layer, padded in zip(layers, known, strict=True)
    ])  # fmt: skip


def _part_of_sequences(parts: Sequence[Part], counts: Sequence[int]) -> Part:
    return replace(
        parts[0],
        query=torch.cat([part.query for part in parts]),
        key=torch.cat([part.key for part in parts]),
        score=functions.joined([part.score for part in parts], "b", counts),
        mask=functions.joined([part.mask for part in parts], "b", counts),
    )


def _common(layers: Sequence[Layer], notes: list[str]) -> list[str]:
    """The readings that all parts have."""
    first = layers[0]
    every = dict.fromkeys(name for layer in layers for name in layer.readings)
    common = [name for name in every if all(name in layer.readings for layer in layers)]
    if lost := [name for name in every if name not in common]:
        notes.append(f"{first.name}: {', '.join(lost)} left out, which some ranks have and others have not")
    return common


def _matching(layers: Sequence[Layer], notes: list[str], of: Callable[[Part], Any]) -> list[tuple[Part, ...]]:
    """Their parts side by side; none where they are of other queries or keys."""
    kinds = [list(map(of, layer.parts)) for layer in layers]
    if any(kind != kinds[0] for kind in kinds):
        notes.append(f"{layers[0].name}: query and key left out, which the ranks have of other calls")
        return []
    return list(zip(*(layer.parts for layer in layers), strict=True))


# What a rank has of a layer, where all may have the whole; and how parts become it.
_PARTS: dict[str, Callable[[Layer], Any]] = {
    "positions": lambda layer: (layer.start, layer.q_len),
    "heads": lambda layer: layer.head_numbers,
}
_JOINED = {"positions": _of_positions, "heads": _of_heads, "sequences": _of_sequences}


def _mapped(values: Sequence[Any], change: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    """What `change` makes of tensors, or of the tensors of each field of several tuples."""
    first = values[0]
    if isinstance(first, Tensor):
        return change(values)
    return type(first)(*map(change, zip(*values, strict=True)))
