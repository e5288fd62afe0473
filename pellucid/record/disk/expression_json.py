"""A score or mask function in a file: the nodes of its expression in JSON, the tensors that it reads beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid import legible
from pellucid.language import FALSE, INPUTS, TRUE, Expression, load, walk
from pellucid.language.evaluate import TORCH
from pellucid.language.expression import (
    ARITHMETIC,
    COMPARISONS,
    LOGIC,
    OF_FLOATS,
    RANK,
    SAME_KIND,
    TRANSCENDENTAL,
    Kind,
)
from pellucid.record.disk import schema

Json = Any
OPS = {"constant", "input", "load", "cast", *TORCH}
MOST_NODES = 1 << 16

_TENSOR = schema.fields({"tensor": schema.text}, {"shape": schema.list_of(schema.whole())})
_NOT_FINITE = schema.fields({"float": schema.one_of("inf", "-inf", "nan")})
_ARGUMENTS = schema.list_of(schema.whole(0, MOST_NODES))


def _node_of(value: Json, field: str) -> None:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(one, str) for one in value[:2]):
        raise ValueError(f"{field} must be [op, kind, arguments, value], got {legible.quoted(value)}")
    _ARGUMENTS(value[2], f"{field}[2]")


_NODES = schema.list_of(_node_of, 1)


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


def from_json(nodes: list[Json], tensors: Mapping[str, Tensor], kind: Kind) -> Expression:
    """The expression of a kind that `to_json` made nodes of.

    Raises:
        ValueError: they are no expression of the score language.

    """
    made: list[Expression] = []
    try:
        _NODES(nodes, "it")
        if len(nodes) > MOST_NODES:
            raise ValueError(f"it has {len(nodes)} nodes, and {MOST_NODES} are the most")
        for op, of_kind, args, value in nodes:
            if any(number >= len(made) for number in args):
                raise ValueError(f"node {len(made)} is of a node that does not come before it")
            made.append(_node(op, of_kind, tuple(made[number] for number in args), value, tensors))
        if made[-1].kind != kind:
            raise ValueError(f"it gives {made[-1].kind}, not {kind}")
        return made[-1]
    except ValueError as error:
        raise ValueError(f"holds a function that cannot be read ({error})") from error


def _value(node: Expression, captured: Captured) -> Json:
    if node.op == "load":
        return captured.entry(node.value)
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return {"float": str(node.value)}  # JSON has no infinity
    return node.value


def _node(op: str, kind: Any, args: tuple[Expression, ...], value: Json, tensors: Mapping[str, Tensor]) -> Expression:
    kinds = tuple(arg.kind for arg in args)
    if op not in OPS or kind not in RANK:
        raise ValueError(f"there is no {legible.quoted(op)} of kind {legible.quoted(kind)}")
    if op == "load":
        return _load(kind, args, value, tensors)
    if op in ("input", "constant") and not args:
        return _input(kind, value) if op == "input" else _constant(kind, value)
    if value is not None or kind not in results_of(op, kinds):
        raise ValueError(f"there is no {op} of {', '.join(kinds) or 'nothing'} that gives {kind}")
    return Expression(op, kind, args)


def results_of(op: str, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """The kinds that an operation may give of arguments of these kinds: what language.operation makes."""
    match kinds:
        case ("int" | "float" as one, other) if op in ARITHMETIC and one == other:
            return (one,)
        case ("float", "float") if op in OF_FLOATS:
            return ("float",)
        case ("int" | "float" as one, other) if op == "pow" and one == other:
            return (one,)
        case ("int", "int") if op in ("shl", "shr"):
            return ("int",)
        case (one, other) if op in COMPARISONS and one == other:
            return ("bool",)
        case ("bool" | "int" as one, other) if op in LOGIC and one == other:
            return (one,)
        case ("bool" | "int" as one,) if op == "not":
            return (one,)
        case ("bool", one, other) if op == "where" and one == other:
            return (one,)
        case ("int" | "float" as one,) if op in SAME_KIND and (one == "float" or op in ("neg", "abs")):
            return (one,)
        case ("float",) if op in TRANSCENDENTAL or op == "largest":
            return ("float",)
        case ("float",) if op == "signbit":
            return ("bool",)
        case (_,) if op == "cast":
            return tuple(RANK)
    return ()


def _input(kind: Kind, value: Json) -> Expression:
    if not isinstance(value, str) or value not in INPUTS or INPUTS[value].kind != kind:
        raise ValueError(f"there is no input {legible.quoted(value)} of kind {kind}")
    return INPUTS[value]


def _constant(kind: Kind, value: Json) -> Expression:
    if kind == "bool":
        schema.flag(value, "a constant")
        return TRUE if value else FALSE  # engines know these two by identity
    if kind == "int":
        schema.whole(-schema.INT64, schema.INT64 - 1)(value, "a constant")
        return Expression("constant", kind, value=value)
    if isinstance(value, dict):
        _NOT_FINITE(value, "a constant")
        return Expression("constant", kind, value=float(value["float"]))
    schema.number(value, "a constant")
    return Expression("constant", kind, value=float(value))


def _load(kind: Kind, args: tuple[Expression, ...], value: Json, tensors: Mapping[str, Tensor]) -> Expression:
    _TENSOR(value, "what a load reads")
    if value["tensor"] not in tensors:
        raise ValueError(f"there is no tensor {legible.quoted(value['tensor'])}")
    tensor = tensors[value["tensor"]]
    shape = tuple(value.get("shape", tensor.shape))
    repeats = len(shape) == tensor.ndim and all(n in (1, m) for n, m in zip(tensor.shape, shape, strict=True))
    if not repeats or math.prod(max(n, 1) for n in shape) >= schema.INT64:
        raise ValueError(f"a tensor {list(tensor.shape)} cannot be repeated to {legible.name(list(shape))}")
    made = load(tensor if shape == tensor.shape else tensor.expand(shape), args)
    if made.kind != kind or len(args) != tensor.ndim or any(arg.kind != "int" for arg in args):
        raise ValueError(f"a load of a tensor {list(tensor.shape)} of {tensor.dtype} does not fit its indices")
    return made


def _without_repeats(tensor: Tensor) -> Tensor:
    """The tensor with one of each dimension along which it repeats itself."""
    plain = tensor.detach()
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            plain = plain.narrow(dimension, 0, 1)
    return plain.as_subclass(torch.Tensor)
