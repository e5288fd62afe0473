"""Products of vectors and matrices."""

from __future__ import annotations

import math
from typing import Any

from pellucid.language.composed import mul
from pellucid.language.expression import Expression
from pellucid.language.operands import UnsupportedError
from pellucid.language.rows.reductions import reduced, summed, tree
from pellucid.language.rows.row import Place, Result, Row, elementwise, row_of, simple

MOST_TERMS = 256  # of one product of matrices


def einsum(equation: str, *operands: Any) -> Result:
    """Products of elements, summed over the letters that the result does not have.

    Raises UnsupportedError for an equation that does not fit the operands, or has more than `MOST_TERMS` products.
    """
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    rows = [row_of(operand) for operand in given]
    left, arrow, right = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if (
        "." in equation
        or len(names) != len(rows)
        or any(len(n) != len(r.shape) for n, r in zip(names, rows, strict=False))
    ):
        raise UnsupportedError(f"einsum {equation!r} does not fit rows of shapes {[list(r.shape) for r in rows]}")
    letters = "".join(names)
    result = right if arrow else "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    sizes = dict(zip(letters, (size for row in rows for size in row.shape), strict=True))
    gone = [x for x in sizes if x not in result]
    if math.prod(list(sizes.values())) > MOST_TERMS:
        raise UnsupportedError(f"einsum {equation!r} has more than {MOST_TERMS} products; compute it before")

    def term(place: dict[str, int]) -> Expression:
        return tree("mul", [row.at(tuple(place[x] for x in n)) for n, row in zip(names, rows, strict=True)], None)

    def total(kept: Place) -> Expression:
        own = dict(zip(result, kept, strict=True))
        along = Row.of(tuple(sizes[x] for x in gone), lambda p: term(own | dict(zip(gone, p, strict=True))))
        return summed(list(along.elements))

    return simple(Row.of(tuple(sizes[x] for x in result), total))


def matmul(input: Any, other: Any) -> Result:
    """The product of two vectors or matrices.

    Raises UnsupportedError for shapes that have none.
    """
    a, b = row_of(input), row_of(other)
    equations = {(1, 1): "i,i->", (2, 1): "ij,j->i", (1, 2): "i,ij->j", (2, 2): "ij,jk->ik"}
    equation = equations.get((len(a.shape), len(b.shape)))
    if equation is None or a.shape[-1] != b.shape[0]:
        raise UnsupportedError(
            f"@ of shapes {list(a.shape)} and {list(b.shape)}: it needs rows of one length, as in u[q_idx] @ w[kv_idx]"
        )
    return einsum(equation, a, b)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Result:
    """The sum of products along a dimension."""
    return reduced(elementwise(mul)(x, y), dim, False, summed)
