"""Functions of ranks' parts as one: of heads or sequences that are counted through, each part's function of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from pellucid.language import INPUTS, Expression, constant, load, operation, walk
from pellucid.language.composed import where
from pellucid.language.shift import substituted


def joined(parts: Sequence[Expression], axis: str, counts: Sequence[int]) -> Expression:
    """The function that is each part's own.

    Args:
        parts: the functions, which count heads or sequences from each part's first.
        axis: "h" or "b", which of them.
        counts: how many each part has.

    """
    first = parts[0]
    if all(is_same(first, other) and not _reads(other, axis) for other in parts):
        return first
    ends = list(accumulate(counts))
    places = torch.arange(ends[-1], device="cpu")
    made = None
    for function, end, count in reversed(list(zip(parts, ends, counts, strict=True))):
        own = load((places - (end - count)).clamp(0, max(count - 1, 0)).to(_device(function)), (INPUTS[axis],))
        part = substituted(function, {axis: own}) if _reads(function, axis) else function
        made = part if made is None else where(operation("lt", INPUTS[axis], constant(end)), part, made)
    assert made is not None
    return made


def _reads(function: Expression, axis: str) -> bool:
    return any(node.op == "input" and node.value == axis for node in walk(function))


def _device(function: Expression) -> torch.device:
    return next((node.value.device for node in walk(function) if node.op == "load"), torch.device("cpu"))


def is_same(one: Expression, other: Expression) -> bool:
    """Whether two functions are the same operations on the same numbers."""
    mine, theirs = _lines(one), _lines(other)
    return mine[0] == theirs[0] and all(map(_equal, mine[1], theirs[1]))


def _lines(root: Expression) -> tuple[list[str], list[Tensor]]:
    numbers: dict[int, int] = {}
    lines, tensors = [], []
    for node in walk(root):
        numbers[id(node)] = len(numbers)
        if node.op == "load":
            tensors.append(node.value)
        value = "" if node.op == "load" else repr(node.value)
        lines.append(f"{node.op} {node.kind} {value} {[numbers[id(arg)] for arg in node.args]}")
    return lines, tensors


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
