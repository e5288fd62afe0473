"""Bounds of an expression over a tile: what tells a full, an empty and a mixed tile apart, for any mask.

Every value that the expression takes inside the tile lies within the bounds; they need not be tight. A node about which
nothing is known (the score itself, or arithmetic that could give NaN) has no bounds: `None`. Bounds of floats hold for
an engine that computes in float32 and for one that computes in float64.
"""

from __future__ import annotations

import ctypes
import math
import operator
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from pellucid.language.expression import OF_FLOATS, TRANSCENDENTAL, Expression, Kind, Number, walk
from pellucid.tensors.transformed import is_transformed

# Reading the minimum of a captured tensor must stay far cheaper than the tile that it may save.
MOST_READ = 1 << 20
INT64 = 1 << 63
SMALLEST, LARGEST = 1.2e-38, 3.4e38  # float32's normal numbers end there


class Interval(NamedTuple):
    """The closed range low..high; for a bool, (False, False) is never, (True, True) is always."""

    low: Number
    high: Number


MIXED = Interval(False, True)
Bounds = Interval | None
Loaded = Callable[[Tensor, list[Bounds]], Bounds]  # of a captured tensor's elements, for indices inside such bounds


def bounds(root: Expression, places: Mapping[str, Interval]) -> Bounds:
    """Bounds of `root` for b, h, q and k inside `places`, or None where nothing is known; a bool is at least MIXED."""
    return bounds_of_all(root, places=places)[id(root)]


def bounds_of_all(
    *roots: Expression, places: Mapping[str, Interval], loaded: Loaded | None = None
) -> dict[int, Bounds]:
    """Bounds of every node below `roots`, by its id.

    Args:
        roots: expressions.
        places: what b, h, q and k are inside of.
        loaded: what is known of captured tensors. By default they are read, and the bounds hold as long as nobody
            writes to them: whoever keeps what he concludes must say here what stays true.

    """
    known: dict[int, Bounds] = {}
    for node in walk(*roots):
        args = [known[id(a)] for a in node.args]
        known[id(node)] = _node_bounds(node, args, places, loaded or _load)
    return known


def _node_bounds(node: Expression, args: list[Bounds], places: Mapping[str, Interval], loaded: Loaded) -> Bounds:
    if node.op == "constant":
        found: Bounds = Interval(node.value, node.value)
    elif node.op == "input":
        found = places.get(node.value)
    elif node.op == "load":
        found = loaded(node.value, args)
    elif node.op == "where":
        found = _where(*args)
    else:
        rule = RULES_OF_KIND.get((node.op, node.kind)) or RULES.get(node.op)
        found = rule(*args) if rule is not None and None not in args else None
    if found is not None and node.kind == "float":
        found = _rounded(found, *args) if node.op in ROUNDED else _in_both_precisions(found)
    if found is None or _is_meaningless(found, node.kind):
        return MIXED if node.kind == "bool" else None
    return found


def _is_meaningless(found: Interval, kind: Kind) -> bool:
    """Whether an int may have overflowed, or a bound is NaN."""
    if kind == "int":
        return found.low < -INT64 or found.high >= INT64
    return found.low != found.low or found.high != found.high


def _rounded(found: Interval, *args: Bounds) -> Interval:
    """`found`, wide enough for a result rounded in float32, also where that flushes tiny numbers to 0."""
    largest = max((abs(x) for a in (found, *args) if a is not None for x in a if math.isfinite(x)), default=0.0)
    slack = 1e-6 * largest + SMALLEST
    return _in_both_precisions(Interval(found.low - slack, found.high + slack))


def _in_both_precisions(found: Interval) -> Interval:
    """`found`, and what float32 makes of its ends; beyond its range they are infinite."""
    low, high = (ctypes.c_float(x).value for x in found)
    return Interval(min(float(found.low), low), max(float(found.high), high))


def _load(tensor: Tensor, indices: list[Bounds]) -> Bounds:
    part = tensor.detach()
    for dimension, index in enumerate(indices):
        size = tensor.shape[dimension]
        if index is None or index.low < 0:
            continue
        low, high = int(index.low), min(int(index.high), size - 1)
        if low <= high:
            part = part.narrow(dimension, low, high - low + 1)
    if part.numel() == 0 or part.numel() > MOST_READ or part.is_meta or is_transformed(tensor):
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


def _to_bool(a: Interval) -> Interval:
    return Interval(a.low > 0 or a.high < 0, not a.low == a.high == 0)


def _to_int(a: Interval) -> Bounds:
    return Interval(int(a.low), int(a.high)) if math.isfinite(a.low) and math.isfinite(a.high) else None


def _neg(a: Interval) -> Interval:
    return Interval(-a.high, -a.low)


def _add(a: Interval, b: Interval) -> Bounds:
    if math.inf in (a.high, b.high) and -math.inf in (a.low, b.low):
        return None
    return Interval(a.low + b.low, a.high + b.high)


def _mul(a: Interval, b: Interval) -> Bounds:
    if any(x.low <= 0 <= x.high and (math.isinf(y.low) or math.isinf(y.high)) for x, y in ((a, b), (b, a))):
        return None
    return _corners(operator.mul, a, b)


def _corners(combine: Callable[[Number, Number], Number], a: Interval, b: Interval) -> Interval:
    """Bounds of a function that is monotone in each argument: its values at the four corners."""
    values = [combine(x, y) for x in a for y in b]
    return Interval(min(values), max(values))


def _divided(combine: Callable[[Number, Number], Number], a: Interval, b: Interval) -> Bounds:
    return None if b.low <= 0 <= b.high or any(map(math.isinf, (*a, *b))) else _corners(combine, a, b)


def _float_floordiv(a: Interval, b: Interval) -> Bounds:
    quotient = _divided(operator.truediv, a, b)
    return None if quotient is None else _whole(math.floor)(_rounded(quotient, a, b))


def _mod(a: Interval, b: Interval, below: int = 0) -> Bounds:
    if b.low <= 0 or any(map(math.isinf, (*a, *b))):
        return None
    if b.low == b.high and a.low // b.low == a.high // b.low:
        return Interval(a.low % b.low, a.high % b.low)
    return Interval(0, b.high - below)


def _abs(a: Interval) -> Interval:
    if a.low >= 0:
        return a
    return Interval(-a.high, -a.low) if a.high <= 0 else Interval(0, max(-a.low, a.high))


def _monotone(function: Callable[[Number], Number], defined_from: float = -math.inf) -> Callable[[Interval], Bounds]:
    def rule(a: Interval) -> Bounds:
        return None if a.low < defined_from else Interval(function(a.low), function(a.high))

    return rule


def _falling(function: Callable[[Number], Number], defined: Interval) -> Callable[[Interval], Bounds]:
    def rule(a: Interval) -> Bounds:
        return Interval(function(a.high), function(a.low)) if _within(a, defined) else None

    return rule


def _within(a: Interval, b: Interval) -> bool:
    return b.low <= a.low and a.high <= b.high


def _bounded(limit: float) -> Callable[..., Bounds]:
    """Of a function with values from -limit to limit, for finite arguments."""

    def rule(*args: Interval) -> Bounds:
        return None if any(map(math.isinf, (x for a in args for x in a))) else Interval(-limit, limit)

    return rule


def _hyperbolic(function: Callable[[float], float]) -> Callable[[Number], float]:
    return lambda x: math.copysign(math.inf, x) if abs(x) > 700 else function(x)


def _hypot(a: Interval, b: Interval) -> Interval:
    a, b = _abs(a), _abs(b)
    return Interval(math.hypot(a.low, b.low), math.hypot(a.high, b.high))


def _fmod(a: Interval, b: Interval) -> Bounds:
    if b.low <= 0 <= b.high or any(map(math.isinf, (*a, *b))):
        return None
    most = min(_abs(a).high, _abs(b).high)
    return Interval(-most if a.low < 0 else 0, most if a.high > 0 else 0)


def _pow(a: Interval, b: Interval) -> Bounds:
    """Of a base above 0, whose powers are monotone in both."""
    if a.low <= 0 or any(map(math.isinf, (*a, *b))):
        return None
    return _corners(_float_power, a, b)


def _float_power(base: Number, exponent: Number) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


def _whole_pow(a: Interval, b: Interval) -> Bounds:
    return _corners(operator.pow, a, b) if a.low > 0 and 0 <= b.low <= b.high < 64 else None


def _shl(a: Interval, b: Interval) -> Bounds:
    return _corners(operator.lshift, a, b) if 0 <= b.low <= b.high < 64 else None


def _shr(a: Interval, b: Interval) -> Interval:
    # By a negative number, or by more than there are, all bits are the sign.
    counts = Interval(0 if b.low < 0 else min(b.low, 63), 63 if b.low < 0 else min(b.high, 63))
    return _corners(operator.rshift, a, counts)


def _exp(x: Number) -> float:
    return math.inf if x > 700 else math.exp(x)


def _log(x: Number) -> float:
    return -math.inf if x == 0 else math.log(x)


def _sigmoid(x: Number) -> float:
    return 1 / (1 + _exp(-x))


def _whole(function: Callable[[Number], int]) -> Callable[[Interval], Bounds]:
    def rule(a: Interval) -> Bounds:
        if math.isinf(a.low) or math.isinf(a.high):
            return None
        return Interval(float(function(a.low)), float(function(a.high)))

    return rule


RULES: dict[str, Callable[..., Bounds]] = {
    "add": _add,
    "sub": lambda a, b: _add(a, _neg(b)),
    "mul": _mul,
    "truediv": partial(_divided, operator.truediv),
    "floordiv": partial(_divided, operator.floordiv),
    "mod": _mod,
    "minimum": lambda a, b: Interval(min(a.low, b.low), min(a.high, b.high)),
    "maximum": lambda a, b: Interval(max(a.low, b.low), max(a.high, b.high)),
    "eq": lambda a, b: Interval(a.low == a.high == b.low == b.high, a.low <= b.high and b.low <= a.high),
    "ne": lambda a, b: Interval(a.high < b.low or b.high < a.low, not (a.low == a.high == b.low == b.high)),
    "lt": lambda a, b: Interval(a.high < b.low, a.low < b.high),
    "le": lambda a, b: Interval(a.high <= b.low, a.low <= b.high),
    "gt": lambda a, b: Interval(a.low > b.high, a.high > b.low),
    "ge": lambda a, b: Interval(a.low >= b.high, a.high >= b.low),
    "not": lambda a: Interval(~a.high, ~a.low),
    "neg": _neg,
    "abs": _abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "round": _whole(round),
    "trunc": _whole(math.trunc),
    "exp": _monotone(_exp),
    "exp2": _monotone(lambda x: _exp(x * math.log(2))),
    "log": _monotone(_log, defined_from=0),
    "log2": _monotone(lambda x: _log(x) / math.log(2), defined_from=0),
    "tanh": _monotone(math.tanh),
    "sigmoid": _monotone(_sigmoid),
    "sqrt": _monotone(math.sqrt, defined_from=0),
    "expm1": _monotone(lambda x: _exp(x) - 1 if x > 1 else math.expm1(x)),
    "log10": _monotone(lambda x: _log(x) / math.log(10), defined_from=0),
    "log1p": _monotone(lambda x: -math.inf if x == -1 else math.log1p(x), defined_from=-1),
    "sin": _bounded(1.0),
    "cos": _bounded(1.0),
    "asin": lambda a: _monotone(math.asin)(a) if _within(a, Interval(-1, 1)) else None,
    "acos": _falling(math.acos, Interval(-1, 1)),
    "atan": _monotone(math.atan),
    "sinh": _monotone(_hyperbolic(math.sinh)),
    "cosh": lambda a: _monotone(lambda x: math.inf if x > 700 else math.cosh(x))(_abs(a)),
    "asinh": _monotone(math.asinh),
    "acosh": _monotone(math.acosh, defined_from=1),
    "erf": _monotone(math.erf),
    "erfc": _falling(math.erfc, Interval(-math.inf, math.inf)),
    "atan2": _bounded(math.pi),
    "hypot": _hypot,
    "fmod": _fmod,
    "pow": _pow,
    "shl": _shl,
    "shr": _shr,
    "largest": lambda _: Interval(LARGEST, sys.float_info.max),
}
RULES_OF_KIND: dict[tuple[str, Kind], Callable[..., Bounds]] = {
    ("and", "bool"): lambda a, b: Interval(a.low and b.low, a.high and b.high),
    ("or", "bool"): lambda a, b: Interval(a.low or b.low, a.high or b.high),
    ("xor", "bool"): RULES["ne"],
    ("not", "bool"): lambda a: Interval(not a.high, not a.low),
    ("cast", "bool"): _to_bool,
    ("cast", "int"): _to_int,
    ("cast", "float"): lambda a: a,
    ("floordiv", "float"): _float_floordiv,
    ("mod", "int"): partial(_mod, below=1),
    ("pow", "int"): _whole_pow,
}
ROUNDED = {"add", "sub", "mul", "mod", "pow", *OF_FLOATS, *TRANSCENDENTAL}
