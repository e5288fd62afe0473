"""Norms of rows, and distances between them."""

from __future__ import annotations

import math
from typing import Any

from pellucid.language.composed import floating, mul, over, square, sub, where
from pellucid.language.expression import Expression
from pellucid.language.operands import UnsupportedError, apply
from pellucid.language.rows.reductions import reduced, root, summed, tree
from pellucid.language.rows.row import Result, elementwise, row_of


def _norm_of(terms: list[Expression], power: Any) -> Expression:
    terms = [floating(t) for t in terms]
    if power in (None, "fro", 2):
        return root(summed([square(t) for t in terms]))
    if isinstance(power, str):
        raise UnsupportedError(f"a norm of order {power!r} is not of a row; use a number")
    sizes = [apply("abs", t) for t in terms]
    if math.isinf(power):
        return tree("maximum" if power > 0 else "minimum", sizes, None)
    if power == 0:
        return floating(summed([apply("ne", t, 0) for t in terms]))
    if power == 1:
        return summed(sizes)
    total = summed([apply("pow", size, float(power)) for size in sizes])
    zero = apply("eq", total, 0)
    return where(zero, 0.0, apply("pow", where(zero, 1.0, total), 1 / power))


def vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False) -> Result:
    """The norm along some dimensions, or of all elements.

    Args:
        x: a row, a captured tensor, or one number or expression.
        ord: of the norm: a number, infinite ones too; None and "fro" are 2.
        dim: one or several; all if None.
        keepdim: whether they stay, with size 1.

    Returns:
        An expression, or a row of the dimensions that are left.

    Raises:
        UnsupportedError: no such dimension, another word for `ord`, or no elements and an infinite `ord`.

    """
    return reduced(x, dim, keepdim, lambda terms: _norm_of(terms, ord))


def norm(input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Result:
    """The norm, torch.norm's way.

    Args:
        input: see `vector_norm`, as for those that follow.
        p: the norm's order.
        dim: one or several; all if None.
        keepdim: whether they stay.

    """
    return vector_norm(input, p, dim, keepdim)


def linalg_norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False) -> Result:
    """The norm, torch.linalg.norm's way: of a matrix only the sum of squares.

    Args:
        A: see `vector_norm`, as for those that follow.
        ord: the norm's order.
        dim: one or several, which are then a matrix's; all if None.
        keepdim: whether they stay.

    Raises:
        UnsupportedError: an order, other than "fro", of the norm of more than one dimension.

    """
    matrix = len(row_of(A).shape) > 1 if dim is None else not isinstance(dim, int) and len(dim) > 1
    if matrix and ord not in (None, "fro"):
        raise UnsupportedError("a norm of a matrix has no order here; use torch.linalg.vector_norm")
    return vector_norm(A, ord, dim, keepdim)


def dist(input: Any, other: Any, p: Any = 2) -> Result:
    """The norm of the difference."""
    return vector_norm(elementwise(sub)(input, other), p)


def normalize(input: Any, p: Any = 2.0, dim: int = 1, eps: float = 1e-12) -> Result:
    """`input` divided by its norm.

    Args:
        input: see `vector_norm`.
        p: the norm's order.
        dim: along which it is taken.
        eps: what is divided by is at least so much.

    Returns:
        The same shape, of floats.

    """
    length = vector_norm(input, p, dim, keepdim=True)
    return elementwise(lambda x, n: over(x, apply("maximum", n, eps)))(input, length)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Result:
    """The cosine of the angle between two rows.

    Args:
        x1: a row.
        x2: another, which broadcasts with it once each is divided by its norm.
        dim: along which the rows lie.
        eps: each norm is taken as at least so much.

    Returns:
        An expression, or a row of the dimensions that are left.

    """
    a, b = normalize(x1, dim=dim, eps=eps), normalize(x2, dim=dim, eps=eps)
    return reduced(elementwise(mul)(a, b), dim, False, summed)


def pairwise_distance(x1: Any, x2: Any, p: Any = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Result:
    """The norm of the difference, to each of which eps is added.

    Args:
        x1: a row.
        x2: another, which broadcasts with it.
        p: the norm's order.
        eps: what is added.
        keepdim: whether the last dimension, along which the norm is taken, stays with size 1.

    Returns:
        An expression, or a row of the dimensions that are left.

    """
    return vector_norm(elementwise(lambda a, b: apply("add", sub(a, b), eps))(x1, x2), p, -1, keepdim)
