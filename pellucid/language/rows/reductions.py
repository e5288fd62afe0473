"""Several expressions into one: sums, means, extrema, variances, along some dimensions of a row or of all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pellucid.language.composed import floating, logaddexp, over, square, sub, where
from pellucid.language.expression import FALSE, TRUE, Expression, cast, constant
from pellucid.language.operands import UnsupportedError, apply
from pellucid.language.rows.row import Place, Result, Row, row_of, simple


def tree(
    op: str | Callable[[Any, Any], Expression], terms: Sequence[Expression], empty: Expression | None
) -> Expression:
    """The terms combined pair by pair, or `empty` if there are none.

    Raises UnsupportedError if there are none and `empty` is None.
    """
    if not terms:
        if empty is None:
            raise UnsupportedError("a reduction of no elements has no value")
        return empty
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        joined = [apply(op, a, b) if isinstance(op, str) else op(a, b) for a, b in pairs]
        terms = [*joined, *terms[len(terms) - len(terms) % 2 :]]
    return terms[0]


def dimensions(row: Row, dim: Any) -> tuple[int, ...]:
    """Which dimensions are meant, counted from the first. Raises UnsupportedError for one that there is not."""
    ndim = max(len(row.shape), 1)
    dims = range(ndim) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    if any(not -ndim <= d < ndim for d in dims):
        raise UnsupportedError(f"a row of shape {list(row.shape)} has no dimension {dim}")
    return tuple(d % ndim for d in dims)


def reduced(input: Any, dim: Any, keepdim: bool, combine: Callable[[list[Expression]], Expression]) -> Result:
    """`combine` of the elements along some dimensions, or of all.

    Args:
        input: a row, a captured tensor, or one number or expression.
        dim: one or several; all if None.
        keepdim: whether they stay, with size 1.
        combine: makes one expression of several.

    Returns:
        An expression, or a row of the dimensions that are left.

    Raises:
        UnsupportedError: no such dimension.

    """
    row = row_of(input)
    if not row.shape:
        return combine(list(row.elements))
    dims = dimensions(row, dim)
    kept = [d for d in range(len(row.shape)) if d not in dims]

    def of_place(place: Place) -> Expression:
        along = Row.of(tuple(row.shape[d] for d in dims), lambda other: row.at(merged(kept, place, dims, other)))
        return combine(list(along.elements))

    found = Row.of(tuple(row.shape[d] for d in kept), of_place)
    if keepdim:
        return found.reshaped(tuple(1 if d in dims else size for d, size in enumerate(row.shape)))
    return simple(found)


def merged(kept: Sequence[int], place: Place, dims: Sequence[int], other: Place) -> Place:
    """The place in a row that two are parts of.

    Args:
        kept: some of the row's dimensions.
        place: where in them.
        dims: the row's others.
        other: where in those.

    """
    both = dict(zip(kept, place, strict=True)) | dict(zip(dims, other, strict=True))
    return tuple(both[d] for d in sorted(both))


def _reduction(combine: Callable[[list[Expression]], Expression]) -> Callable[..., Result]:
    """A function with torch's arguments of a reduction."""

    def reduction(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Result:
        if dtype is not None:
            raise UnsupportedError("a reduction has no dtype here; convert with .to(...) before")
        return reduced(input, dim, keepdim, combine)

    return reduction


def _countable(terms: list[Expression]) -> list[Expression]:
    return [cast(t, "int") if t.kind == "bool" else t for t in terms]


def summed(terms: list[Expression]) -> Expression:
    """The sum of the terms, bools as numbers."""
    return tree("add", _countable(terms), constant(0))


def _mean(terms: list[Expression]) -> Expression:
    if any(t.kind != "float" for t in terms):
        raise UnsupportedError("mean of whole numbers is not defined; convert with .float()")
    return over(summed(terms), float(len(terms)))


def _variance(terms: list[Expression], correction: Any) -> Expression:
    mean = _mean(terms)
    return over(summed([square(sub(t, mean)) for t in terms]), float(max(len(terms) - correction, 0)))


def _spread(finish: Callable[[Expression], Expression]) -> Callable[..., Result]:
    def spread(
        input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
    ) -> Result:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        less = int(unbiased) if correction is None else correction
        return reduced(input, dim, keepdim, lambda terms: finish(_variance(terms, less)))

    return spread


def root(squared: Expression) -> Expression:
    """The square root, with slope 0 at 0, as torch gives a norm."""
    zero = apply("eq", squared, 0)
    return where(zero, 0.0, apply("sqrt", where(zero, 1.0, squared)))


amax = _reduction(lambda terms: tree("maximum", terms, None))
amin = _reduction(lambda terms: tree("minimum", terms, None))

REDUCTIONS: dict[str, Callable[..., Result]] = {
    "sum": _reduction(summed),
    "mean": _reduction(_mean),
    "prod": _reduction(lambda terms: tree("mul", _countable(terms), constant(1))),
    "amax": amax,
    "amin": amin,
    "any": _reduction(lambda terms: tree("or", [cast(t, "bool") for t in terms], FALSE)),
    "all": _reduction(lambda terms: tree("and", [cast(t, "bool") for t in terms], TRUE)),
    "count_nonzero": _reduction(lambda terms: summed([apply("ne", t, 0) for t in terms])),
    "logsumexp": _reduction(lambda terms: tree(logaddexp, [floating(t) for t in terms], None)),
    "var": _spread(lambda variance: variance),
    "std": _spread(root),
}
