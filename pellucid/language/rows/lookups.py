"""Look-ups among a few numbers, and in a captured tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pellucid.language.expression import FALSE, Expression
from pellucid.language.operands import UnsupportedError, apply
from pellucid.language.rows.reductions import summed, tree
from pellucid.language.rows.row import Part, Result, elementwise, row_of, simple


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
        return summed([apply("not", apply("gt" if right else "ge", end, x)) for end in ends])

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
