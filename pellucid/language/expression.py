"""Expressions of one score and its place: the form that every use of a score_mod or mask_mod starts from.

An expression is a graph of small immutable nodes. Each node has one of three kinds, bool, int or float; what precision
an int or a float has is decided by who computes it. The constructors promote kinds as torch does (bool < int < float),
fold constants, and drop what has no effect, so that an engine sees only what it must compute.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.tensors import compiling

Kind = Literal["bool", "int", "float"]
Number = bool | int | float
RANK: dict[Kind, int] = {"bool": 0, "int": 1, "float": 2}


@dataclass(frozen=True, eq=False, slots=True)
class Expression:
    """One node: `op` applied to `args`.

    Attributes:
        op: the operation's name, or "constant", "input" or "load".
        kind: of the result.
        args: what it is applied to; of a load, an index for each dimension.
        value: a constant, an input's name, or the tensor that a load reads; None for all others.

    """

    op: str
    kind: Kind
    args: tuple[Expression, ...] = ()
    value: Any = None

    def __repr__(self) -> str:
        if self.op == "constant":
            return repr(self.value)
        if self.op == "input":
            return str(self.value)
        if self.op == "load":
            return f"tensor{list(self.value.shape)}{list(self.args)}"
        return f"{self.op}({', '.join(map(repr, self.args))})"

    def __reduce__(self) -> tuple[Callable[..., Expression], tuple[Any, ...]]:
        return _copied, (self.op, self.kind, self.args, self.value)


def constant(value: Number) -> Expression:
    """A number known while tracing."""
    value = compiling.number(value)
    kind: Kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
    return Expression("constant", kind, value=value)


TRUE, FALSE = constant(True), constant(False)
SCORE = Expression("input", "float", value="score")
INDICES = {name: Expression("input", "int", value=name) for name in ("b", "h", "q", "k")}
INPUTS: dict[str, Expression] = {"score": SCORE, **INDICES}


def _copied(op: str, kind: Kind, args: tuple[Expression, ...], value: Any) -> Expression:
    """A copied or unpickled node: an input and a bool are the same in every expression, and known by identity."""
    if op == "input":
        return INPUTS[value]
    if op == "constant" and kind == "bool":
        return TRUE if value else FALSE
    return Expression(op, kind, args, value)


def load(tensor: Tensor, indices: tuple[Expression, ...]) -> Expression:
    """One element of a captured tensor: `tensor[indices]`, one integer index for each dimension."""
    kind: Kind = "bool" if tensor.dtype == torch.bool else "float" if tensor.dtype.is_floating_point else "int"
    return Expression("load", kind, indices, tensor)


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "minimum": min,
    "maximum": max,
}
COMPARISONS: dict[str, Callable[..., bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
OF_BOOLS = {"add": "or", "mul": "and", "minimum": "and", "maximum": "or"}  # what torch makes of two bools
LOGIC: dict[str, Callable[..., Any]] = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
SAME_KIND: dict[str, Callable[..., Any]] = {
    "neg": operator.neg,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "trunc": math.trunc,
}
TRANSCENDENTAL: dict[str, Callable[..., float]] = {
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "expm1": math.expm1,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "erf", "erfc")},
    **{name: getattr(math, name) for name in ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")},
}
OF_FLOATS: dict[str, Callable[..., float]] = {
    "truediv": operator.truediv,
    "fmod": math.fmod,
    "atan2": math.atan2,
    "hypot": math.hypot,
}
MOST_SHIFTED = 31  # shifts by less are a product or a quotient, of which bounds and derivatives are known
CASTS: dict[Kind, Callable[..., Number]] = {"bool": bool, "int": int, "float": float}


def operation(op: str, *args: Expression) -> Expression:
    """`op` of `args`, with kinds promoted and constants folded. Raises TypeError where torch has no such operation."""
    if op in ARITHMETIC:
        return _arithmetic(op, *args)
    if op in COMPARISONS:
        return _node(op, "bool", COMPARISONS[op], promoted(args))
    if op in OF_FLOATS:
        return _node(op, "float", OF_FLOATS[op], tuple(cast(a, "float") for a in args))
    if op in LOGIC:
        return _logic(op, *args)
    if op == "not":
        return _not(*args)
    if op == "where":
        return _where(*args)
    if op in SAME_KIND:
        return _same_kind(op, *args)
    if op in TRANSCENDENTAL:
        return _node(op, "float", TRANSCENDENTAL[op], (cast(args[0], "float"),))
    return OTHERS[op](*args)


def cast(expression: Expression, kind: Kind) -> Expression:
    """`expression` as another kind; from float to int it truncates towards zero, as torch does."""
    return expression if expression.kind == kind else _node("cast", kind, CASTS[kind], (expression,))


def walk(*roots: Expression) -> Iterator[Expression]:
    """Every node below `roots` once, arguments before the nodes that use them."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            if not node.args:
                yield node
                continue
            stack.append((node, True))
            stack.extend([(arg, False) for arg in reversed(node.args)])


def _node(op: str, kind: Kind, fold: Callable[..., Any], args: tuple[Expression, ...]) -> Expression:
    """The node, or its value when every argument is a constant for which Python's arithmetic is torch's."""
    if all(a.op == "constant" and not _is_nan(a.value) for a in args):
        try:
            value = CASTS[kind](fold(*(a.value for a in args)))
        except (ArithmeticError, ValueError):  # log(0), 1 / 0, int(inf): left to the engine, whose answer is torch's
            return Expression(op, kind, args)
        if kind != "int" or is_int64(value):  # beyond, torch wraps around
            return constant(value)
    return Expression(op, kind, args)


def is_int64(number: Number) -> bool:
    """Whether a whole number fits into 64 bits, as every int of the language must."""
    return -(1 << 63) <= number < 1 << 63


def _is_nan(value: Number) -> bool:
    return value != value


def promoted(args: tuple[Expression, ...], least: Kind = "bool") -> tuple[Expression, ...]:
    """The expressions with their common kind, at least `least`."""
    kind = max((*(a.kind for a in args), least), key=RANK.__getitem__)
    return tuple(cast(a, kind) for a in args)


def _arithmetic(op: str, *args: Expression) -> Expression:
    if all(a.kind == "bool" for a in args):
        if op not in OF_BOOLS:
            raise TypeError(f"{op} of two bools is not defined; use &, |, ^ or ~")
        return _logic(OF_BOOLS[op], *args)
    left, right = promoted(args, least="int")
    if left.op != "constant" and right.op == "constant":
        neutral = {"add": 0, "sub": 0, "mul": 1, "floordiv": 1 if left.kind == "int" else None}.get(op)
        if right.value == neutral:
            return left
    if left.op == "constant" and left.value == {"add": 0, "mul": 1}.get(op):
        return right
    return _node(op, left.kind, ARITHMETIC[op], (left, right))


def _logic(op: str, *args: Expression) -> Expression:
    left, right = promoted(args)
    if left.kind == "float":
        raise TypeError(f"bitwise {op} is not defined for float")
    for one, other in ((left, right), (right, left)):
        if one.op == "constant" and one.kind == "bool" and op != "xor":
            return other if one.value == (op == "and") else one
    return _node(op, left.kind, LOGIC[op], (left, right))


def _not(arg: Expression) -> Expression:
    if arg.kind == "float":
        raise TypeError("bitwise not is not defined for float")
    return _node("not", arg.kind, (operator.not_ if arg.kind == "bool" else operator.invert), (arg,))


def _where(condition: Expression, *branches: Expression) -> Expression:
    condition = cast(condition, "bool")
    left, right = promoted(branches)
    if condition.op == "constant":
        return left if condition.value else right
    return Expression("where", left.kind, (condition, left, right))


def _same_kind(op: str, arg: Expression) -> Expression:
    if arg.kind == "bool":
        raise TypeError(f"{op} is not defined for bool")
    if arg.kind == "int" and op not in ("neg", "abs"):
        return arg
    return _node(op, arg.kind, SAME_KIND[op], (arg,))


def _power(base: Expression, exponent: Expression) -> Expression:
    left, right = promoted((base, exponent), least="int")
    return _node("pow", left.kind, math.pow if left.kind == "float" else _whole_power, (left, right))


def _whole_power(base: int, exponent: int) -> int:
    if not 0 <= exponent < 64:
        raise ValueError("left to the engine")
    return base**exponent


def _shift(op: str, value: Expression, count: Expression) -> Expression:
    left, right = promoted((value, count), least="int")
    if left.kind == "float" or value.kind == count.kind == "bool":
        raise TypeError(f"a shift of {value.kind} by {count.kind} is not defined; convert with .to(torch.long)")
    if right.op != "constant":
        return Expression(op, "int", (left, right))
    if 0 <= right.value < MOST_SHIFTED:
        return operation("mul" if op == "shl" else "floordiv", left, constant(1 << right.value))
    return Expression(op, "int", (left, right))


def _signbit(arg: Expression) -> Expression:
    if arg.kind != "float":
        return operation("lt", arg, constant(0))
    return _node("signbit", "bool", lambda x: math.copysign(1.0, x) < 0, (arg,))


def _largest(like: Expression) -> Expression:
    """The largest finite float, which the engine's precision decides; `like` is what it is beside."""
    return Expression("largest", "float", (cast(like, "float"),))


OTHERS: dict[str, Callable[..., Expression]] = {
    "pow": _power,
    "shl": partial(_shift, "shl"),
    "shr": partial(_shift, "shr"),
    "signbit": _signbit,
    "largest": _largest,
}
