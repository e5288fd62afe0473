"""What stands beside a symbol, as an expression: a number or an element of a captured tensor; operations on them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from pellucid.language.expression import Expression, constant, is_int64, load, operation

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
    raise UnsupportedError(f"it uses a {type(value).__name__}, which is neither a number nor a tensor")


def _within_64_bits(number: int) -> int:
    if not is_int64(number):
        raise UnsupportedError(f"the whole number {number} is beyond 64 bits; write it as a float")
    return number


def apply(op: str, *args: Any) -> Expression:
    """`op` of numbers and expressions. Raises UnsupportedError where torch has no such operation."""
    try:
        return operation(op, *map(expression, args))
    except TypeError as error:
        raise UnsupportedError(str(error)) from None
