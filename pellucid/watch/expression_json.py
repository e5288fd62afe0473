"""A score or mask function in a file: the nodes of its expression in JSON, the tensors that it reads beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.language import FALSE, INPUTS, TRUE, Expression, walk
from pellucid.language.evaluate import TORCH
from pellucid.language.expression import RANK

Json = Any
OPS = {"constant", "input", "load", "cast", *TORCH}


class Captured:
    """The tensors that expressions read, each once, under names of their own."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._kept: list[Tensor] = []  # so that no address is used twice

    def entry(self, tensor: Tensor) -> dict[str, Json]:
        """What to write for a tensor: its name, and its shape where it repeats along a dimension without memory."""
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        plain = _without_repeats(tensor)
        if key not in self._names:
            self._names[key] = f"captured/{len(self._names)}"
            self.tensors[self._names[key]] = plain
            self._kept.append(tensor)
        entry: dict[str, Json] = {"tensor": self._names[key]}
        return entry if plain.shape == tensor.shape else entry | {"shape": list(tensor.shape)}


def to_json(root: Expression, captured: Captured) -> list[Json]:
    """The expression as a list of nodes, [op, kind, numbers of its arguments, value], the root last."""
    numbers: dict[int, int] = {}
    nodes: list[Json] = []
    for node in walk(root):
        numbers[id(node)] = len(nodes)
        nodes.append([node.op, node.kind, [numbers[id(arg)] for arg in node.args], _value(node, captured)])
    return nodes


def from_json(nodes: list[Json], tensors: Mapping[str, Tensor]) -> Expression:
    """The expression that `to_json` made nodes of.

    Raises:
        ValueError: they are no expression.

    """
    made: list[Expression] = []
    try:
        for op, kind, args, value in nodes:
            made.append(_node(op, kind, tuple(made[number] for number in args), value, tensors))
        return made[-1]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"holds a function that cannot be read ({error!r})") from error


def _value(node: Expression, captured: Captured) -> Json:
    if node.op == "load":
        return captured.entry(node.value)
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return {"float": str(node.value)}  # JSON has no infinity
    return node.value


def _node(op: str, kind: Any, args: tuple[Expression, ...], value: Json, tensors: Mapping[str, Tensor]) -> Expression:
    if op not in OPS or kind not in RANK:
        raise ValueError(f"there is no {op!r} of kind {kind!r}")
    if op == "input":
        return INPUTS[value]
    if op == "load":
        tensor = tensors[value["tensor"]]
        return Expression(op, kind, args, tensor.expand(value["shape"]) if "shape" in value else tensor)
    if op == "constant" and kind == "bool":
        return TRUE if value else FALSE  # engines know these two by identity
    if isinstance(value, dict):
        value = float(value["float"])
    return Expression(op, kind, args, value)


def _without_repeats(tensor: Tensor) -> Tensor:
    """The tensor with one of each dimension along which it repeats itself."""
    plain = tensor.detach()
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            plain = plain.narrow(dimension, 0, 1)
    return plain.as_subclass(torch.Tensor)
