"""Functions of rows: sums, extrema, norms, products of vectors, look-ups among a few numbers, and other shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pellucid.language.composed import floating, logaddexp, mul, over, square, sub, where
from pellucid.language.expression import FALSE, TRUE, Expression, cast, constant
from pellucid.language.operands import UnsupportedError, apply
from pellucid.language.rows.row import Part, Place, Row, elementwise, row_of, simple

Result = Row | Expression
Function = Callable[..., Expression]
MOST_TERMS = 256  # of one product of matrices


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


def _dimensions(row: Row, dim: Any) -> tuple[int, ...]:
    ndim = max(len(row.shape), 1)
    dims = range(ndim) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    if any(not -ndim <= d < ndim for d in dims):
        raise UnsupportedError(f"a row of shape {list(row.shape)} has no dimension {dim}")
    return tuple(d % ndim for d in dims)


def _reduced(input: Any, dim: Any, keepdim: bool, combine: Callable[[list[Expression]], Expression]) -> Result:
    """`combine` of the elements along some dimensions, or of all."""
    row = row_of(input)
    if not row.shape:
        return combine(list(row.elements))
    dims = _dimensions(row, dim)
    kept = [d for d in range(len(row.shape)) if d not in dims]

    def of_place(place: Place) -> Expression:
        along = Row.of(tuple(row.shape[d] for d in dims), lambda other: row.at(_merged(kept, place, dims, other)))
        return combine(list(along.elements))

    found = Row.of(tuple(row.shape[d] for d in kept), of_place)
    if keepdim:
        return found.reshaped(tuple(1 if d in dims else size for d, size in enumerate(row.shape)))
    return simple(found)


def _merged(kept: Sequence[int], place: Place, dims: Sequence[int], other: Place) -> Place:
    both = dict(zip(kept, place, strict=True)) | dict(zip(dims, other, strict=True))
    return tuple(both[d] for d in sorted(both))


def _reduction(combine: Callable[[list[Expression]], Expression]) -> Callable[..., Result]:
    """A function with torch's arguments of a reduction."""

    def reduction(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Result:
        if dtype is not None:
            raise UnsupportedError("a reduction has no dtype here; convert with .to(...) before")
        return _reduced(input, dim, keepdim, combine)

    return reduction


def _countable(terms: list[Expression]) -> list[Expression]:
    return [cast(t, "int") if t.kind == "bool" else t for t in terms]


def _sum(terms: list[Expression]) -> Expression:
    return tree("add", _countable(terms), constant(0))


def _mean(terms: list[Expression]) -> Expression:
    if any(t.kind != "float" for t in terms):
        raise UnsupportedError("mean of whole numbers is not defined; convert with .float()")
    return over(_sum(terms), float(len(terms)))


def _variance(terms: list[Expression], correction: Any) -> Expression:
    mean = _mean(terms)
    return over(_sum([square(sub(t, mean)) for t in terms]), float(max(len(terms) - correction, 0)))


def _spread(finish: Callable[[Expression], Expression]) -> Callable[..., Result]:
    def spread(
        input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
    ) -> Result:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        less = int(unbiased) if correction is None else correction
        return _reduced(input, dim, keepdim, lambda terms: finish(_variance(terms, less)))

    return spread


def root(squared: Expression) -> Expression:
    """The square root, with slope 0 at 0, as torch gives a norm."""
    zero = apply("eq", squared, 0)
    return where(zero, 0.0, apply("sqrt", where(zero, 1.0, squared)))


def _norm_of(terms: list[Expression], power: Any) -> Expression:
    terms = [floating(t) for t in terms]
    if power in (None, "fro", 2):
        return root(_sum([square(t) for t in terms]))
    if isinstance(power, str):
        raise UnsupportedError(f"a norm of order {power!r} is not of a row; use a number")
    sizes = [apply("abs", t) for t in terms]
    if math.isinf(power):
        return tree("maximum" if power > 0 else "minimum", sizes, None)
    if power == 0:
        return floating(_sum([apply("ne", t, 0) for t in terms]))
    if power == 1:
        return _sum(sizes)
    total = _sum([apply("pow", size, float(power)) for size in sizes])
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
    return _reduced(x, dim, keepdim, lambda terms: _norm_of(terms, ord))


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
    return vector_norm(_minus(input, other), p)


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
    return _reduced(elementwise(mul)(a, b), dim, False, _sum)


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


_minus = elementwise(sub)


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
    summed = [x for x in sizes if x not in result]
    if math.prod(list(sizes.values())) > MOST_TERMS:
        raise UnsupportedError(f"einsum {equation!r} has more than {MOST_TERMS} products; compute it before")

    def term(place: dict[str, int]) -> Expression:
        return tree("mul", [row.at(tuple(place[x] for x in n)) for n, row in zip(names, rows, strict=True)], None)

    def total(kept: Place) -> Expression:
        own = dict(zip(result, kept, strict=True))
        along = Row.of(tuple(sizes[x] for x in summed), lambda p: term(own | dict(zip(summed, p, strict=True))))
        return _sum(list(along.elements))

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
    return _reduced(elementwise(mul)(x, y), dim, False, _sum)


# Look-ups among a few numbers.


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Result:
    """Whether each element is one of the others.

    Args:
        elements: a row, or one number or expression.
        test_elements: the others, as few as a row may have.
        assume_unique: torch's, without meaning here.
        invert: whether it is told of which element it is not so.

    Returns:
        Bools, in the shape of `elements`.

    """
    among = row_of(test_elements).elements

    def one(x: Any) -> Expression:
        found = tree("or", [apply("eq", x, other) for other in among], FALSE)
        return apply("not", found) if invert else found

    return simple(row_of(elementwise(one)(elements)))


def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Result:
    """How many of the boundaries, which rise, lie before x.

    Args:
        input: x, or a row of them.
        boundaries: a row.
        out_int32: torch's, without meaning here.
        right: whether a boundary that is equal to x counts too.

    Returns:
        Ints, in the shape of `input`.

    """
    ends = row_of(boundaries).elements

    def one(x: Any) -> Expression:
        return _sum([apply("not", apply("gt" if right else "ge", end, x)) for end in ends])

    return simple(row_of(elementwise(one)(input)))


def searchsorted(
    sorted_sequence: Any, input: Any, *, out_int32: bool = False, right: bool = False, side: str = "left"
) -> Result:
    """Where x would be put in a sorted sequence.

    Args:
        sorted_sequence: a row whose elements rise.
        input: x, or a row of them.
        out_int32: torch's, without meaning here.
        right: whether it is put behind what is equal to it.
        side: "right" says the same.

    Returns:
        Ints, in the shape of `input`.

    """
    return bucketize(input, sorted_sequence, right=right or side == "right")


def take(input: Any, index: Any) -> Any:
    """An element by its place among all. Raises UnsupportedError for what is no captured tensor."""
    return Part.of(_captured(input).reshape(-1)).indexed(index)


def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """An element of a captured row.

    Args:
        input: a captured tensor of one dimension.
        dim: that one; it is not looked at.
        index: an int, an expression of one, or a row of them.
        sparse_grad: torch's, without meaning here.

    Raises:
        UnsupportedError: `input` is no captured tensor, or one of other dimensions.

    """
    if _captured(input).ndim != 1:
        raise UnsupportedError("gather: index the tensor instead, tensor[h, index]")
    return Part.of(input).indexed(index)


def index_select(input: Any, dim: int, index: Any) -> Any:
    """A captured tensor at one place of a dimension, which stays with size 1.

    Raises UnsupportedError for what is no captured tensor.
    """
    tensor = _captured(input)
    own = dim % tensor.ndim
    return Part.of(tensor.unsqueeze(own)).indexed((slice(None),) * (own + 1) + (index,))


def embedding(input: Any, weight: Any, **options: Any) -> Any:
    """A row of a captured table. Raises UnsupportedError for max_norm, scale_grad_by_freq and sparse."""
    if any(options.get(name) for name in ("max_norm", "scale_grad_by_freq", "sparse")):
        raise UnsupportedError("embedding: only the table itself is read; index it, table[index]")
    return Part.of(_captured(weight)).indexed(input)


def _captured(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise UnsupportedError("only a captured tensor is looked up by an index")
    return value


# Other shapes.


def stack(tensors: Sequence[Any], dim: int = 0) -> Row:
    """Values side by side along a new dimension. Raises UnsupportedError for rows of several shapes."""
    rows = [row_of(t) for t in tensors]
    if any(row.shape != rows[0].shape for row in rows):
        raise UnsupportedError(f"stack: one shape is needed, got {[list(row.shape) for row in rows]}")
    own = dim % (len(rows[0].shape) + 1)
    shape = (*rows[0].shape[:own], len(rows), *rows[0].shape[own:])
    return Row.of(shape, lambda p: rows[p[own]].at((*p[:own], *p[own + 1 :])))


def cat(tensors: Sequence[Any], dim: int = 0) -> Row:
    """Rows one after another. Raises UnsupportedError for rows that have not one dimension."""
    rows = [row_of(t) for t in tensors]
    if any(len(row.shape) != 1 for row in rows):
        raise UnsupportedError("cat: rows of one dimension are needed; use torch.stack")
    elements = [e for row in rows for e in row.elements]
    return Row.of((len(elements),), lambda place: elements[place[0]])


def reshape(input: Any, *shape: Any) -> Result:
    """The same elements in another shape. Raises UnsupportedError for a shape of more elements or fewer."""
    row = row_of(input)
    sizes = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    if sizes.count(-1) == 1:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(row.elements) // rest if rest else 0
    if math.prod(sizes) != len(row.elements):
        raise UnsupportedError(f"a row of shape {list(row.shape)} has no shape {sizes}")
    return simple(row.reshaped(tuple(sizes)))


def unsqueeze(input: Any, dim: int) -> Row:
    """With one more dimension of size 1."""
    row = row_of(input)
    own = dim % (len(row.shape) + 1)
    return row.reshaped((*row.shape[:own], 1, *row.shape[own:]))


def squeeze(input: Any, dim: Any = None) -> Result:
    """Without dimensions of size 1. Raises UnsupportedError for a dimension that there is not."""
    row = row_of(input)
    dims = _dimensions(row, dim) if row.shape else ()
    return simple(row.reshaped(tuple(n for d, n in enumerate(row.shape) if n != 1 or d not in dims)))


def permute(input: Any, *dims: Any) -> Result:
    """The dimensions in another order. Raises UnsupportedError for a dimension that there is not."""
    row = row_of(input)
    order = _dimensions(row, dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    shape = tuple(row.shape[d] for d in order)
    return simple(Row.of(shape, lambda p: row.at(_merged(order, p, (), ()))))


def transpose(input: Any, dim0: int, dim1: int) -> Result:
    """Two dimensions exchanged."""
    ndim = max(len(row_of(input).shape), 1)
    order = list(range(ndim))
    order[dim0 % ndim], order[dim1 % ndim] = order[dim1 % ndim], order[dim0 % ndim]
    return permute(input, order) if row_of(input).shape else simple(row_of(input))


def transposed(input: Any) -> Result:
    """The dimensions in reverse order."""
    row = row_of(input)
    return permute(row, list(reversed(range(len(row.shape))))) if row.shape else simple(row)


def unbind(input: Any, dim: int = 0) -> tuple[Result, ...]:
    """The rows along a dimension. Raises UnsupportedError for a dimension that there is not."""
    row = row_of(input)
    (own,) = _dimensions(row, dim)
    return tuple(row.indexed((slice(None),) * own + (i,)) for i in range(row.shape[own]))


def flatten(input: Any) -> Result:
    """In one dimension."""
    return row_of(input).reshaped((len(row_of(input).elements),))


amax = _reduction(lambda terms: tree("maximum", terms, None))
amin = _reduction(lambda terms: tree("minimum", terms, None))

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _reduction(_sum),
    "mean": _reduction(_mean),
    "prod": _reduction(lambda terms: tree("mul", _countable(terms), constant(1))),
    "amax": amax,
    "amin": amin,
    "any": _reduction(lambda terms: tree("or", [cast(t, "bool") for t in terms], FALSE)),
    "all": _reduction(lambda terms: tree("and", [cast(t, "bool") for t in terms], TRUE)),
    "count_nonzero": _reduction(lambda terms: _sum([apply("ne", t, 0) for t in terms])),
    "logsumexp": _reduction(lambda terms: tree(logaddexp, [floating(t) for t in terms], None)),
    "var": _spread(lambda variance: variance),
    "std": _spread(root),
    "norm": norm,
    "linalg_vector_norm": vector_norm,
    "linalg_norm": linalg_norm,
    **{f.__name__: f for f in (dist, normalize, cosine_similarity, pairwise_distance, einsum, matmul)},
    **dict.fromkeys(("__matmul__", "dot", "vdot", "inner", "mv", "mm", "linalg_matmul"), matmul),
    "__rmatmul__": lambda a, b: matmul(b, a),
    "outer": lambda input, vec2: einsum("i,j->ij", input, vec2),
    "linalg_vecdot": vecdot,
    **{f.__name__: f for f in (isin, bucketize, searchsorted, take, gather, index_select, embedding)},
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), cat),
    **{f.__name__: f for f in (stack, unsqueeze, squeeze, permute, transpose, unbind, flatten)},
    **dict.fromkeys(("reshape", "view"), reshape),
    "t": transposed,
}
