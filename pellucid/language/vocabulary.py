"""What the score language has: for each of torch's functions and Python's operators, the expression that it makes.

The functions take torch's own arguments, with expressions for what is not known yet, and give an expression. They know
nothing of how a user's function is recorded: that is trace.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from pellucid.language.expression import (
    COMPARISONS,
    LOGIC,
    SAME_KIND,
    TRANSCENDENTAL,
    Expression,
    Kind,
    cast,
    constant,
    is_int64,
    load,
    operation,
)

Function = Callable[..., Expression]
SUMMARY = (
    "it has + - * / // % **, comparisons, & | ^ ~, torch.where, abs, minimum, maximum, clamp, exp, exp2, log, "
    "log2, sqrt, tanh, sigmoid, floor, ceil, round, trunc, logical_*, conversions, and indexing of captured tensors"
)


# Of a captured tensor: what torch and every engine read as a bool, an int or a float.
READABLE = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.bfloat16, torch.float32, torch.float64}
)


class UnsupportedError(Exception):
    """Something that the language does not have; `trace` says where."""


def element(tensor: Tensor, indices: tuple[Expression, ...]) -> Expression:
    """One element of a captured tensor. Raises UnsupportedError for a dtype that not every engine reads."""
    if tensor.dtype not in READABLE:
        raise UnsupportedError(
            f"a captured tensor is of {tensor.dtype}, which is not in the score language; convert it before, with "
            ".to(torch.float32) or .to(torch.long)"
        )
    return load(tensor, indices)


def expression(value: Any) -> Expression:
    """`value`, an expression, a number or a tensor of no dimensions, as an expression. Raises UnsupportedError."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool):
        return constant(value)
    if isinstance(value, Integral):  # numpy's numbers too
        return constant(_within_64_bits(int(value)))
    if isinstance(value, Real):
        return constant(float(value))
    if isinstance(value, Tensor) and value.ndim == 0:
        return element(value, ())
    if isinstance(value, Tensor):
        shape = list(value.shape)
        raise UnsupportedError(f"a captured tensor of shape {shape} is used whole; index it: tensor[h, q_idx]")
    raise UnsupportedError(f"it uses a {type(value).__name__}, which is neither a number nor a tensor")


def _within_64_bits(number: int) -> int:
    if not is_int64(number):
        raise UnsupportedError(f"the whole number {number} is beyond 64 bits; write it as a float")
    return number


def _apply(op: str, *args: Any) -> Expression:
    try:
        return operation(op, *map(expression, args))
    except TypeError as error:
        raise UnsupportedError(str(error)) from None


def _named(op: str, *names: str) -> Function:
    """An operation whose arguments also go by torch's keywords."""
    signature = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names])
    return lambda *args, **kwargs: _apply(op, *signature.bind(*args, **kwargs).args)


def _reflected(function: Function) -> Function:
    return lambda a, b: function(b, a)


def _scaled(op: str) -> Function:
    return lambda input, other, *, alpha=1: _apply(op, input, other if alpha == 1 else _apply("mul", other, alpha))


def _div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Expression:
    if rounding_mode != "trunc":
        return _apply("floordiv" if rounding_mode == "floor" else "truediv", input, other)
    if any(expression(x).kind == "float" for x in (input, other)):
        return _apply("trunc", _apply("truediv", input, other))
    negative = _apply("xor", _apply("lt", input, 0), _apply("lt", other, 0))
    quotient = _apply("floordiv", input, other)
    inexact = _apply("ne", _apply("mul", quotient, other), input)
    return _apply("add", quotient, cast(_apply("and", negative, inexact), "int"))


def _pow(input: Any, exponent: Any) -> Expression:
    base, power = expression(input), expression(exponent)
    kind: Kind = "float" if "float" in (base.kind, power.kind) else "int"
    if power.op == "constant" and power.value == 0.5:
        return _apply("sqrt", base)
    if power.op == "constant" and power.value in (range(17) if kind == "int" else range(-16, 17)):
        product, factor = cast(constant(1), kind), cast(base, kind)
        for _ in range(abs(int(power.value))):
            product = operation("mul", product, factor)
        return operation("truediv", constant(1), product) if power.value < 0 else product
    if base.op == "constant" and base.value > 0:
        log = math.log2(base.value)
        if kind == "float":
            return _apply("exp2", _apply("mul", power, log))
        if log.is_integer():
            return _power_of_two(_apply("mul", power, int(log)))
    raise UnsupportedError(
        "pow: one side must be a constant: an exponent 0.5 or a whole one up to 16, or a positive base (of whole "
        "numbers a power of 2; write 3.0 ** h for others)"
    )


def _power_of_two(exponent: Expression) -> Expression:
    """An int, as far as 64 bits reach: the lowest of all where only the sign's is left, then 0."""
    within = cast(_apply("round", _apply("exp2", _apply("minimum", exponent, 62))), "int")
    wrapped = _apply("mul", within, _where(_apply("lt", exponent, 63), 1, 2))
    return _where(_apply("lt", exponent, 64), wrapped, 0)


def _clamp(input: Any, min: Any = None, max: Any = None) -> Expression:
    above = expression(input) if min is None else _apply("maximum", input, min)
    return above if max is None else _apply("minimum", above, max)


def _logical(op: str) -> Function:
    return lambda *args: _apply(op, *(cast(expression(a), "bool") for a in args))


def _where(condition: Any, input: Any, other: Any) -> Expression:
    return _apply("where", condition, input, other)


def _masked_fill(input: Any, mask: Any, value: Any) -> Expression:
    return _where(mask, cast(expression(value), expression(input).kind), input)


def _sign(input: Any) -> Expression:
    kind = expression(input).kind
    minus, zero, plus = (cast(constant(number), kind) for number in (-1, 0, 1))
    return _where(_apply("gt", input, zero), plus, _where(_apply("lt", input, zero), minus, zero))


def _kind_of(dtype: Any) -> Kind:
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError(f"a conversion needs a torch.dtype, got {dtype!r}")
    if dtype == torch.bool:
        return "bool"
    if dtype.is_floating_point:
        return "float"
    if dtype.is_complex:
        raise UnsupportedError("complex numbers are not in the score language")
    return "int"


def _to(input: Any, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Expression:
    wanted = next((a for a in args if isinstance(a, torch.dtype | Tensor | Expression)), dtype)
    if isinstance(wanted, Tensor | Expression):
        return _type_as(input, wanted)
    return expression(input) if wanted is None else cast(expression(input), _kind_of(wanted))


def _type_as(input: Any, other: Any) -> Expression:
    return cast(expression(input), _kind_of(other.dtype) if isinstance(other, Tensor) else expression(other).kind)


def _full_like(input: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Expression:
    return cast(expression(fill_value), expression(input).kind if dtype is None else _kind_of(dtype))


def _new_full(input: Any, size: Any, fill_value: Any, **options: Any) -> Expression:
    if len(size):
        raise UnsupportedError(f"a new tensor of size {tuple(size)}: a score is one number, of size ()")
    return _full_like(input, fill_value, **options)


def _identity(input: Any, **_: Any) -> Expression:
    return expression(input)


UNARY = {name: name for name in SAME_KIND | TRANSCENDENTAL} | {
    "negative": "neg",
    "absolute": "abs",
    "bitwise_not": "not",
}
BINARY = {name: name for name in ("mul", "minimum", "maximum", *COMPARISONS)} | {
    "multiply": "mul",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "min": "minimum",
    "max": "maximum",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    **{f"bitwise_{op}": op for op in LOGIC},
}
OPERATORS = {f"__{op}__": op for op in ("neg", "abs", "mul", "floordiv", "mod", *COMPARISONS, *LOGIC)} | {
    "__invert__": "not"
}
REFLECTED = {f"__r{op}__": op for op in ("add", "sub", "mul", "truediv", "floordiv", "mod", *LOGIC)} | {
    "rsub": "sub",
    "__rdiv__": "truediv",
}
CONVERSIONS: dict[str, Kind] = {
    **dict.fromkeys(("float", "double", "half", "bfloat16"), "float"),
    **dict.fromkeys(("int", "long"), "int"),
    "bool": "bool",
}

# By torch's names, and Python's for operators.
FUNCTIONS: dict[str, Function] = {
    **{name: _named(op, "input") for name, op in UNARY.items()},
    **{name: _named(op, "input", "other") for name, op in BINARY.items()},
    **{name: partial(_apply, op) for name, op in OPERATORS.items()},
    **{name: _reflected(partial(_apply, op)) for name, op in REFLECTED.items()},
    **dict.fromkeys(("add", "__add__"), _scaled("add")),
    **dict.fromkeys(("sub", "subtract", "__sub__"), _scaled("sub")),
    **dict.fromkeys(("div", "divide", "true_divide", "__div__", "__truediv__"), _div),
    **dict.fromkeys(("pow", "__pow__"), _pow),
    "__rpow__": _reflected(_pow),
    "float_power": lambda input, exponent: _pow(cast(expression(input), "float"), exponent),
    "square": lambda input: _pow(input, 2),
    "rsqrt": lambda input: _apply("truediv", 1.0, _apply("sqrt", input)),
    "reciprocal": lambda input: _apply("truediv", 1.0, input),
    "relu": lambda input, inplace=False: _where(_apply("le", input, 0), 0, input),
    **dict.fromkeys(("sign", "sgn"), _sign),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    "clamp_min": lambda input, min: _clamp(input, min=min),
    "clamp_max": lambda input, max: _clamp(input, max=max),
    **{f"logical_{op}": _logical(op) for op in (*LOGIC, "not")},
    "where": _where,
    "masked_fill": _masked_fill,
    "isfinite": lambda input: _apply("lt", _apply("abs", input), math.inf),
    "to": _to,
    "type": lambda input, dtype: _to(input, dtype=dtype),
    "type_as": _type_as,
    **{name: partial(lambda kind, input: cast(expression(input), kind), kind) for name, kind in CONVERSIONS.items()},
    "zeros_like": partial(_full_like, fill_value=0),
    "ones_like": partial(_full_like, fill_value=1),
    "full_like": _full_like,
    "new_zeros": partial(_new_full, fill_value=0),
    "new_ones": partial(_new_full, fill_value=1),
    "new_full": _new_full,
    **dict.fromkeys(("clone", "contiguous", "positive", "__pos__"), _identity),
}
# As a method, `where` has its arguments in another order.
METHODS = FUNCTIONS | {"where": lambda input, condition, other: _where(condition, input, other)}
