"""Rows of one layer that lie on several ranks, one stretch after another, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.record.layer import Layer, Padding
from pellucid.record.part import Part
from pellucid.record.sharing import functions

ONE_FOR_ALL = ("allowed", "repeats")  # where each head has the same, they have one for all


def joined(layers: Sequence[Layer], names: Sequence[str]) -> Layer:
    """The layer of all rows.

    Args:
        layers: of stretches that follow one another.
        names: of the readings that all of them have. Sums over queries are those of all ranks on each.

    """
    first = layers[0]
    q_len = sum(layer.q_len for layer in layers)
    keys = [layer.padding.keys for layer in layers if layer.padding.keys is not None]
    return replace(
        first,
        q_len=q_len,
        call_rows=[[q_len, 1]] if first.calls == 1 else [],
        complete=all(layer.complete for layer in layers),
        readings={name: _reading(name, layers) for name in names},
        padding=Padding(_padded_queries(layers), keys[0] if keys else None),
        parts=_parts([part for layer in layers for part in layer.parts]),
    )


def _reading(name: str, layers: Sequence[Layer]) -> Any:
    first = layers[0]
    values = [layer.readings[name] for layer in layers]
    if name in first.sums:
        return values[0]

    def of_tensors(tensors: Sequence[Tensor]) -> Tensor:
        if tensors[0].ndim == 1:  # one number a head, of all its rows
            return torch.stack(list(tensors)).amax(0)
        if name in ONE_FOR_ALL and len({tensor.shape[1] for tensor in tensors}) > 1:
            tensors = [tensor.expand(-1, first.heads, *(-1,) * (tensor.ndim - 2)) for tensor in tensors]
        return torch.cat(list(tensors), 1 if name in first.over_heads else 2)

    if isinstance(values[0], Tensor):
        return of_tensors(values)
    return type(values[0])(*map(of_tensors, zip(*values, strict=True)))


def _padded_queries(layers: Sequence[Layer]) -> Tensor | None:
    known = [layer.padding.queries for layer in layers]
    if all(padded is None for padded in known):
        return None
    return torch.cat([
        torch.zeros(layer.batch, layer.q_len, dtype=torch.bool, device="cpu") if padded is None else padded
        for layer, padded in zip(layers, known, strict=True)
    ], 1)  # fmt: skip


def _parts(parts: Sequence[Part]) -> list[Part]:
    """One part where functions of positions serve all; else each with its own, and the keys once."""
    if not parts:
        return []
    first = parts[0]
    alike = [part for part in parts if part.k_start == first.k_start and torch.equal(part.key, first.key)]
    if len(alike) < len(parts):
        return list(parts)
    same = all(functions.is_same(p.score, first.score) and functions.is_same(p.mask, first.mask) for p in parts)
    if same:
        return [replace(first, query=torch.cat([part.query for part in parts], -2))]
    return [replace(part, key=first.key) for part in parts]
