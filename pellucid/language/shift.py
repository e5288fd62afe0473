"""An expression of a place, renumbered: positions counted from another first query or key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pellucid.language import INPUTS, Expression, constant, load, operation, walk


def by_position(expression: Expression, start: int, k_start: int) -> Expression:
    """An expression of a call's own indices as one of positions, the call's first query and key being at these."""
    return substituted(expression, {"q": _minus(INPUTS["q"], start), "k": _minus(INPUTS["k"], k_start)})


def by_index(expression: Expression, start: int, k_start: int, device: torch.device) -> Expression:
    """An expression of positions as one of a call's own indices.

    The offsets are read from a tensor, because each step of a generation has others: a constant would be compiled anew.

    Args:
        expression: of b, h, q and k, where q and k are positions in the sequence.
        start: position of the call's first query, in tokens.
        k_start: position of its first key, in tokens.
        device: where the offsets are kept: that of the tensors that it will be computed with.

    """
    return substituted(expression, {"q": _plus(INPUTS["q"], start, device), "k": _plus(INPUTS["k"], k_start, device)})


def offset(index: int, device: torch.device) -> Tensor:
    """A number as a tensor of no dimensions, int64."""
    return torch.tensor(index, dtype=torch.int64, device=device)


def _minus(index: Expression, start: int) -> Expression:
    return operation("sub", index, constant(start))


def _plus(index: Expression, start: int, device: torch.device) -> Expression:
    return operation("add", index, load(offset(start, device), ())) if start else index


def substituted(root: Expression, inputs: dict[str, Expression]) -> Expression:
    """An expression with some of its inputs, by name, computed by others."""
    made: dict[int, Expression] = {}
    for node in walk(root):
        if node.op == "input":
            made[id(node)] = inputs.get(node.value, node)
        else:
            args = tuple(made[id(arg)] for arg in node.args)
            same = all(new is old for new, old in zip(args, node.args, strict=True))
            made[id(node)] = node if same else Expression(node.op, node.kind, args, node.value)
    return made[id(root)]


def with_tensors(root: Expression, change: Callable[[Any], Any]) -> Expression:
    """An expression that reads what `change` makes of each tensor that it reads."""
    made: dict[int, Expression] = {}
    for node in walk(root):
        args = tuple(made[id(arg)] for arg in node.args)
        value = change(node.value) if node.op == "load" else node.value
        same = value is node.value and all(new is old for new, old in zip(args, node.args, strict=True))
        made[id(node)] = node if same else Expression(node.op, node.kind, args, value)
    return made[id(root)]


def of_heads(expression: Expression, heads: Tensor) -> Expression:
    """An expression of a head's number as one of its place among some heads, int64 [chosen]."""
    if not any(node.op == "input" and node.value == "h" for node in walk(expression)):
        return expression
    return substituted(expression, {"h": load(heads, (INPUTS["h"],))})


def of_sequences(expression: Expression, sequences: Tensor) -> Expression:
    """An expression of a sequence's number as one of its place among some sequences, int64 [chosen]."""
    if not any(node.op == "input" and node.value == "b" for node in walk(expression)):
        return expression
    return substituted(expression, {"b": load(sequences, (INPUTS["b"],))})
