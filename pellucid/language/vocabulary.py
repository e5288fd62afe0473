"""What the score language has: for each of torch's functions and Python's operators, the expression that it makes.

The functions take torch's own arguments, with expressions for what is not known yet, and give an expression. They know
nothing of how a user's function is recorded: that is trace.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pellucid.language.composed import COMPOSED, over, where
from pellucid.language.expression import (
    COMPARISONS,
    LOGIC,
    SAME_KIND,
    TRANSCENDENTAL,
    Expression,
    Kind,
    cast,
    constant,
    operation,
)
from pellucid.language.operands import UnsupportedError, apply, expression
from pellucid.language.rows import OF_ROWS, Part, Row, amax, amin, elementwise, is_row, row_of

Function = Callable[..., Any]
SUMMARY = (
    "it has operators, torch's functions of numbers, activations, torch.where, conversions, indexing of captured "
    "tensors, and sums, norms and products of short rows of them; docs/score-language.md lists all. What depends on "
    "places alone can be computed before, by any module, as a tensor that the function indexes"
)


def _named(op: str, *names: str) -> Function:
    """An operation whose arguments also go by torch's keywords."""
    signature = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names])
    return lambda *args, **kwargs: apply(op, *signature.bind(*args, **kwargs).args)


def _reflected(function: Function) -> Function:
    return lambda a, b: function(b, a)


def _scaled(op: str) -> Function:
    return lambda input, other, *, alpha=1: apply(op, input, other if alpha == 1 else apply("mul", other, alpha))


def _div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Expression:
    if rounding_mode != "trunc":
        return apply("floordiv" if rounding_mode == "floor" else "truediv", input, other)
    if any(expression(x).kind == "float" for x in (input, other)):
        return apply("trunc", apply("truediv", input, other))
    negative = apply("xor", apply("lt", input, 0), apply("lt", other, 0))
    quotient = apply("floordiv", input, other)
    inexact = apply("ne", apply("mul", quotient, other), input)
    return apply("add", quotient, cast(apply("and", negative, inexact), "int"))


def _pow(input: Any, exponent: Any) -> Expression:
    base, power = expression(input), expression(exponent)
    kind: Kind = "float" if "float" in (base.kind, power.kind) else "int"
    if base.kind == power.kind == "bool":
        raise UnsupportedError("pow of two bools is not defined; convert with .to(torch.long)")
    if power.op == "constant" and power.value == 0.5:
        return apply("sqrt", base)
    if power.op == "constant" and power.value in (range(17) if kind == "int" else range(-16, 17)):
        product, factor = cast(constant(1), kind), cast(base, kind)
        for _ in range(abs(int(power.value))):
            product = operation("mul", product, factor)
        return over(1.0, product) if power.value < 0 else product
    if power.op == "constant" and kind == "int" and power.value < 0:
        raise UnsupportedError("pow: a whole number to a negative power is not defined; convert it with .float()")
    if base.op == "constant" and 0 < base.value < math.inf and kind == "float":
        return apply("exp2", apply("mul", power, math.log2(base.value)))
    return apply("pow", base, power)


def _clamp(input: Any, min: Any = None, max: Any = None) -> Expression:
    above = expression(input) if min is None else apply("maximum", input, min)
    return above if max is None else apply("minimum", above, max)


def _logical(op: str) -> Function:
    return lambda *args: apply(op, *(cast(expression(a), "bool") for a in args))


def _masked_fill(input: Any, mask: Any, value: Any) -> Expression:
    return where(mask, cast(expression(value), expression(input).kind), input)


def _sign(input: Any) -> Expression:
    kind = expression(input).kind
    minus, zero, plus = (cast(constant(number), kind) for number in (-1, 0, 1))
    return where(apply("gt", input, zero), plus, where(apply("lt", input, zero), minus, zero))


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


def _round(input: Any, *, decimals: int = 0) -> Expression:
    if not decimals:
        return apply("round", input)
    unit = 10.0 ** abs(decimals)
    if decimals > 0:
        return over(apply("round", apply("mul", input, unit)), unit)
    return apply("mul", apply("round", over(input, unit)), unit)


def _fmod(input: Any, other: Any) -> Expression:
    if any(expression(x).kind == "float" for x in (input, other)):
        return apply("fmod", input, other)
    return apply("sub", input, apply("mul", _div(input, other, rounding_mode="trunc"), other))


def _extremum(op: str) -> Function:
    """Of two, or with one argument of all elements of a row."""
    of_two, of_all = elementwise(_named(op, "input", "other")), amax if op == "maximum" else amin

    def extremum(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs:
            return of_all(input)
        if "dim" in kwargs or (is_row(input) and isinstance(args[0], int)):
            raise UnsupportedError(f"{op} along a dimension gives places too; use torch.amax or torch.amin")
        return of_two(input, *args, **kwargs)

    return extremum


def _of_kind_of(function: Function) -> Function:
    """A conversion, of each element of a row; what it is converted to may be a row as well."""

    def converted(input: Any, *args: Any, **kwargs: Any) -> Any:
        others = [row_of(a).elements[0] if isinstance(a, Row | Part) else a for a in args]
        return elementwise(lambda x: function(x, *others, **kwargs))(input)

    return converted


INVERSES = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
UNARY = {name: name for name in (*SAME_KIND, *TRANSCENDENTAL, "signbit") if name != "round"} | {
    "negative": "neg",
    "absolute": "abs",
    "bitwise_not": "not",
    **{f"arc{name}": f"a{name}" for name in INVERSES},
    "fix": "trunc",
}
BINARY = {name: name for name in ("mul", "minimum", "maximum", "atan2", "hypot", *COMPARISONS)} | {
    "multiply": "mul",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "arctan2": "atan2",
    "bitwise_left_shift": "shl",
    "bitwise_right_shift": "shr",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    **{f"bitwise_{op}": op for op in LOGIC},
}
OPERATORS = {f"__{op}__": op for op in ("neg", "abs", "mul", "floordiv", "mod", *COMPARISONS, *LOGIC)} | {
    "__invert__": "not",
    "__lshift__": "shl",
    "__rshift__": "shr",
}
REFLECTED = {f"__r{op}__": op for op in ("add", "sub", "mul", "truediv", "floordiv", "mod", *LOGIC)} | {
    "rsub": "sub",
    "__rdiv__": "truediv",
    "__rlshift__": "shl",
    "__rrshift__": "shr",
}
CONVERSIONS: dict[str, Kind] = {
    **dict.fromkeys(("float", "double", "half", "bfloat16"), "float"),
    **dict.fromkeys(("int", "long"), "int"),
    "bool": "bool",
}

# By torch's names, and Python's for operators.
OF_NUMBERS: dict[str, Function] = {
    **{name: _named(op, "input") for name, op in UNARY.items()},
    **{name: _named(op, "input", "other") for name, op in BINARY.items()},
    **{name: partial(apply, op) for name, op in OPERATORS.items()},
    **{name: _reflected(partial(apply, op)) for name, op in REFLECTED.items()},
    **dict.fromkeys(("add", "__add__"), _scaled("add")),
    **dict.fromkeys(("sub", "subtract", "__sub__"), _scaled("sub")),
    **dict.fromkeys(("div", "divide", "true_divide", "__div__", "__truediv__"), _div),
    **dict.fromkeys(("pow", "__pow__"), _pow),
    "__rpow__": _reflected(_pow),
    "float_power": lambda input, exponent: _pow(cast(expression(input), "float"), exponent),
    "fmod": _fmod,
    "round": _round,
    **dict.fromkeys(("sign", "sgn"), _sign),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    "clamp_min": lambda input, min: _clamp(input, min=min),
    "clamp_max": lambda input, max: _clamp(input, max=max),
    **{f"logical_{op}": _logical(op) for op in (*LOGIC, "not")},
    "where": where,
    "masked_fill": _masked_fill,
    **{name: partial(lambda kind, input: cast(expression(input), kind), kind) for name, kind in CONVERSIONS.items()},
    "zeros_like": partial(_full_like, fill_value=0),
    "ones_like": partial(_full_like, fill_value=1),
    "full_like": _full_like,
    "new_zeros": partial(_new_full, fill_value=0),
    "new_ones": partial(_new_full, fill_value=1),
    "new_full": _new_full,
    **dict.fromkeys(("clone", "contiguous", "positive", "__pos__", "detach"), _identity),
    **COMPOSED,
}
CONVERTING: dict[str, Function] = {
    "to": _to,
    "type": lambda input, dtype: _to(input, dtype=dtype),
    "type_as": _type_as,
}
SPECIAL = ("erf", "erfc", "exp2", "expm1", "log1p", "round", "sinc", "logit", "xlogy", "logsumexp")
FUNCTIONS: dict[str, Function] = {
    **{name: elementwise(function) for name, function in OF_NUMBERS.items()},
    **{name: _of_kind_of(function) for name, function in CONVERTING.items()},
    **OF_ROWS,
    "min": _extremum("minimum"),
    "max": _extremum("maximum"),
}
FUNCTIONS |= {f"special_{name}": FUNCTIONS[name] for name in SPECIAL} | {"special_expit": FUNCTIONS["sigmoid"]}
# As a method, `where` has its arguments in another order.
METHODS = FUNCTIONS | {"where": elementwise(lambda input, condition, other: where(condition, input, other))}
