"""A layer as one of longer sequences: what it has not is padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.language import INPUTS, constant, operation
from pellucid.language.shift import substituted
from pellucid.record.layer import Layer, Padding
from pellucid.record.part import Part


def lengthened(layer: Layer, q_len: int, k_len: int) -> Layer:
    """The layer with rows and keys of padding behind its own; sums over bins of queries or keys are left out.

    Args:
        layer: what becomes longer.
        q_len: rows, at least its own.
        k_len: keys, at least its own.

    """
    if (layer.q_len, layer.k_len) == (q_len, k_len):
        return layer
    binned = [name for name in layer.sums if name != "received"]
    return replace(
        layer,
        q_len=q_len,
        k_len=k_len,
        call_rows=[],
        readings={name: _longer(name, layer, q_len, k_len) for name in layer.readings if name not in binned},
        sums=[name for name in layer.sums if name not in binned],
        padding=Padding(
            _behind(layer.padding.queries, layer.batch, layer.q_len, q_len),
            _behind(layer.padding.keys, layer.batch, layer.k_len, k_len),
        ),
        parts=[_part(part, q_len, k_len) for part in layer.parts] if len(layer.parts) == 1 else [],
    )


def _longer(name: str, layer: Layer, q_len: int, k_len: int) -> Any:
    value = layer.readings[name]
    if not isinstance(value, Tensor):
        return type(value)(*(_of_rows(name, tensor, layer, 2, q_len) for tensor in value))
    if value.ndim == 1:  # one number a head
        return value
    if name == "received":
        return pad(value, (0, k_len - layer.k_len), value=torch.nan)
    return _of_rows(name, value, layer, 1 if name in layer.over_heads else 2, q_len)


def _of_rows(name: str, tensor: Tensor, layer: Layer, dim: int, q_len: int) -> Tensor:
    if tensor.is_floating_point():
        blank: Any = -torch.inf if name == "lse" else torch.nan
    else:
        blank = -1 if name == "topk" else 0
    shape = list(tensor.shape)
    shape[dim] = q_len - layer.q_len
    return torch.cat((tensor, tensor.new_full(shape, blank)), dim)


def _behind(padded: Tensor | None, batch: int, length: int, wanted: int) -> Tensor | None:
    if length == wanted:
        return padded
    own = torch.zeros(batch, length, dtype=torch.bool, device="cpu") if padded is None else padded
    return pad(own, (0, wanted - length), value=True)


def _part(part: Part, q_len: int, k_len: int) -> Part:
    """The part with more rows and keys, which look at nothing and are looked at by none."""
    ends = {"q": part.start + part.q_len, "k": part.k_start + part.k_len}
    within = {name: operation("minimum", INPUTS[name], constant(max(end - 1, 0))) for name, end in ends.items()}
    mask = substituted(part.mask, within)
    for name, end in ends.items():
        mask = operation("and", mask, operation("lt", INPUTS[name], constant(end)))
    return replace(
        part,
        query=pad(part.query, (0, 0, 0, q_len - part.q_len)),
        key=pad(part.key, (0, 0, 0, k_len - part.k_start - part.k_len)),
        score=substituted(part.score, within),
        mask=mask,
    )
