"""Bounds of an expression over a tile: what tells a full, an empty and a mixed tile apart, for any mask.

Every value that the expression takes inside the tile lies within the bounds; they need not be tight. A node about which
nothing is known (the score itself, or arithmetic that could give NaN) has no bounds: `None`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from pellucid.language.expression import Expression, Number, walk

# Reading the minimum of a captured tensor must stay far cheaper than the tile that it may save.
MOST_READ = 1 << 20


class Interval(NamedTuple):
    """The closed range low..high; for a bool, (False, False) is never, (True, True) is always."""

    low: Number
    high: Number


MIXED = Interval(False, True)
Bounds = Interval | None


def bounds(root: Expression, places: Mapping[str, Interval]) -> Bounds:
    """Bounds of `root` for b, h, q and k inside `places`, or None where nothing is known; a bool is at least MIXED."""
    known: dict[int, Bounds] = {}
    for node in walk(root):
        args = [known[id(a)] for a in node.args]
        known[id(node)] = _node_bounds(node, args, places)
    return known[id(root)]


def _node_bounds(node: Expression, args: list[Bounds], places: Mapping[str, Interval]) -> Bounds:
    if node.op == "constant":
        return None if node.value != node.value else Interval(node.value, node.value)
    if node.op == "input":
        return places.get(node.value)
    if node.op == "load":
        found = _load(node.value, args)
    elif node.op == "where":
        found = _where(*args)
    elif node.op in ("and", "or") and node.kind == "bool":
        found = _logic(node.op, *(a or MIXED for a in args))
    elif any(a is None for a in args):
        found = None
    elif node.op == "cast":
        found = _cast(node, args[0])
    else:
        found = RULES[node.op](*args) if node.op in RULES else None
    if found is not None and (found.low != found.low or found.high != found.high):
        found = None
    if found is not None and node.op in ROUNDED and node.kind == "float":
        found = _rounded(found, *args)
    return MIXED if found is None and node.kind == "bool" else found


def _rounded(found: Interval, *args: Bounds) -> Interval:
    """`found`, wide enough for an engine that computes in float32."""
    largest = max((abs(x) for a in (found, *args) if a is not None for x in a if math.isfinite(x)), default=0.0)
    return Interval(found.low - 1e-6 * largest, found.high + 1e-6 * largest)


def _load(tensor: Tensor, indices: list[Bounds]) -> Bounds:
    part = tensor.detach()
    for dimension, index in enumerate(indices):
        size = tensor.shape[dimension]
        if index is None or index.low < 0:
            continue
        low, high = int(index.low), min(int(index.high), size - 1)
        if low <= high:
            part = part.narrow(dimension, low, high - low + 1)
    if part.numel() == 0 or part.numel() > MOST_READ or part.is_meta:
        return None
    least, most = part.aminmax()
    return Interval(least.item(), most.item())


def _where(condition: Bounds, left: Bounds, right: Bounds) -> Bounds:
    assert condition is not None
    if condition.low:
        return left
    if not condition.high:
        return right
    if left is None or right is None:
        return None
    return Interval(min(left.low, right.low), max(left.high, right.high))


def _logic(op: str, a: Interval, b: Interval) -> Interval:
    if op == "and":
        return Interval(bool(a.low and b.low), bool(a.high and b.high))
    return Interval(bool(a.low or b.low), bool(a.high or b.high))


def _cast(node: Expression, a: Bounds) -> Bounds:
    assert a is not None
    if node.kind == "bool":
        never, always = a.low == a.high == 0, a.low > 0 or a.high < 0
        return Interval(always, not never)
    if node.kind == "int":
        return Interval(int(a.low), int(a.high)) if math.isfinite(a.low) and math.isfinite(a.high) else None
    return Interval(float(a.low), float(a.high))


def _corners(combine: Callable[[Number, Number], Number]) -> Callable[[Interval, Interval], Bounds]:
    """Bounds of a function that is monotone in each argument: its values at the four corners."""

    def rule(a: Interval, b: Interval) -> Bounds:
        values = [combine(x, y) for x in a for y in b]
        return None if any(v != v for v in values) else Interval(min(values), max(values))

    return rule


def _divisor(combine: Callable[[Number, Number], Number]) -> Callable[[Interval, Interval], Bounds]:
    corners = _corners(combine)

    def rule(a: Interval, b: Interval) -> Bounds:
        if b.low <= 0 <= b.high or any(math.isinf(x) for x in (*a, *b)):
            return None
        return corners(a, b)

    return rule


def _mod(a: Interval, b: Interval) -> Bounds:
    if b.low != b.high or b.low <= 0 or any(math.isinf(x) for x in (*a, *b)):
        return None
    if a.low // b.low == a.high // b.low:
        return Interval(a.low % b.low, a.high % b.low)
    whole = isinstance(a.low, int) and isinstance(b.low, int)
    return Interval(0, b.low - 1 if whole else b.low)


def _abs(a: Interval) -> Interval:
    if a.low >= 0:
        return a
    return Interval(-a.high, -a.low) if a.high <= 0 else Interval(0, max(-a.low, a.high))


def _monotone(function: Callable[[Number], Number], defined_from: float = -math.inf) -> Callable[[Interval], Bounds]:
    def rule(a: Interval) -> Bounds:
        return None if a.low < defined_from else Interval(function(a.low), function(a.high))

    return rule


def _exp(x: Number) -> float:
    return math.inf if x > 700 else math.exp(x)


def _log(x: Number) -> float:
    return -math.inf if x == 0 else math.log(x)


def _sigmoid(x: Number) -> float:
    return 1 / (1 + _exp(-x))


def _round(function: Callable[[Number], int]) -> Callable[[Interval], Bounds]:
    def rule(a: Interval) -> Bounds:
        if math.isinf(a.low) or math.isinf(a.high):
            return None
        return Interval(float(function(a.low)), float(function(a.high)))

    return rule


RULES: dict[str, Callable[..., Bounds]] = {
    "add": lambda a, b: Interval(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: Interval(a.low - b.high, a.high - b.low),
    "mul": _corners(lambda x, y: x * y),
    "truediv": _divisor(lambda x, y: x / y),
    "floordiv": _divisor(lambda x, y: x // y),
    "mod": _mod,
    "minimum": lambda a, b: Interval(min(a.low, b.low), min(a.high, b.high)),
    "maximum": lambda a, b: Interval(max(a.low, b.low), max(a.high, b.high)),
    "eq": lambda a, b: Interval(a.low == a.high == b.low == b.high, a.low <= b.high and b.low <= a.high),
    "ne": lambda a, b: Interval(a.high < b.low or b.high < a.low, not (a.low == a.high == b.low == b.high)),
    "lt": lambda a, b: Interval(a.high < b.low, a.low < b.high),
    "le": lambda a, b: Interval(a.high <= b.low, a.low <= b.high),
    "gt": lambda a, b: Interval(a.low > b.high, a.high > b.low),
    "ge": lambda a, b: Interval(a.low >= b.high, a.high >= b.low),
    "not": lambda a: Interval(not a.high, not a.low) if isinstance(a.low, bool) else Interval(~a.high, ~a.low),
    "neg": lambda a: Interval(-a.high, -a.low),
    "abs": _abs,
    "floor": _round(math.floor),
    "ceil": _round(math.ceil),
    "round": _round(round),
    "trunc": _round(math.trunc),
    "exp": _monotone(_exp),
    "exp2": _monotone(lambda x: _exp(x * math.log(2))),
    "log": _monotone(_log, defined_from=0),
    "log2": _monotone(lambda x: _log(x) / math.log(2), defined_from=0),
    "tanh": _monotone(math.tanh),
    "sigmoid": _monotone(_sigmoid),
    "sqrt": _monotone(math.sqrt, defined_from=0),
}
ROUNDED = {"add", "sub", "mul", "truediv", "mod", "exp", "exp2", "log", "log2", "tanh", "sigmoid", "sqrt"}
