"""The tensors that a profile adds up, a row a head. All are integers or exact sums, so order changes nothing.

docs/profiles.md says what each is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.profiles import exact
from pellucid.profiles.numbers import BINS, NUMBERS

Sums = Mapping[str, Tensor]

KINDS = ("sink", "previous token", "induction", "duplicate", "local", "focused", "diffuse", "mixed", "unknown")
NEAREST = 4  # distances up to here have a bin each
_OCTAVES = 26  # above, an octave each, up to the longest sequence that a record may have
POSITIONS = 16  # bins of queries, and of keys, each a part of the document


class Band(NamedTuple):
    """A bin of distances, of a query's position less its key's; both ends are in it."""

    least: int
    most: int


def _bands() -> tuple[Band, ...]:
    ahead = [Band(d, d) for d in range(1, NEAREST + 1)]
    ahead += [Band(NEAREST * 2**n + 1, NEAREST * 2 ** (n + 1)) for n in range(_OCTAVES)]
    return (*(Band(-b.most, -b.least) for b in reversed(ahead)), Band(0, 0), *ahead)


BANDS = _bands()


class _Kind(NamedTuple):
    """What a tensor is: its sizes after the heads, and how two of them become one."""

    sizes: tuple[str, ...]
    way: str  # "add", "exact", "min" or "max"


_KINDS_OF = {
    "documents": _Kind((), "add"),
    "rows": _Kind((), "add"),
    "count": _Kind(("numbers",), "add"),
    "sum": _Kind(("numbers",), "exact"),
    "squares": _Kind(("numbers",), "exact"),
    "least": _Kind(("numbers",), "min"),
    "most": _Kind(("numbers",), "max"),
    "histogram": _Kind(("numbers", "bins"), "add"),
    "total": _Kind(("numbers",), "exact"),
    "weight": _Kind(("numbers",), "exact"),
    "left_rows": _Kind(("numbers",), "add"),
    "kinds": _Kind(("kinds",), "add"),
    "kinds_without_sink": _Kind(("kinds",), "add"),
    "map_rows": _Kind((), "add"),
    "distance": _Kind(("bands",), "exact"),
    "distance_equal": _Kind(("bands",), "exact"),
    "position": _Kind(("positions", "positions"), "exact"),
    "position_rows": _Kind(("positions",), "add"),
    "classes": _Kind(("classes",), "exact"),
    "classes_equal": _Kind(("classes",), "exact"),
}
NAMES = tuple(_KINDS_OF)
_SIZES = {"numbers": len(NUMBERS), "bins": BINS, "kinds": len(KINDS), "bands": len(BANDS), "positions": POSITIONS}
_START = {"add": 0, "exact": 0, "min": math.inf, "max": -math.inf}
LARGEST = 1 << 62  # of a count


def nothing(heads: int, classes: int) -> dict[str, Tensor]:
    """The sums over no document."""
    return {
        name: torch.full(shape_of(name, heads, classes), _START[kind.way], dtype=dtype_of(name), device="cpu")
        for name, kind in _KINDS_OF.items()
    }


def shape_of(name: str, heads: int, classes: int) -> tuple[int, ...]:
    """The shape of a tensor."""
    kind = _KINDS_OF[name]
    own = tuple(classes if size == "classes" else _SIZES[size] for size in kind.sizes)
    return (heads, *own, *((exact.LIMBS,) if kind.way == "exact" else ()))


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a tensor."""
    return torch.float64 if _KINDS_OF[name].way in ("min", "max") else torch.int64


def is_exact(name: str) -> bool:
    """Whether a tensor is of exact sums."""
    return _KINDS_OF[name].way == "exact"


def merged(one: Sums, other: Sums) -> Sums:
    """The sums over the documents of both."""
    return {name: _merged(kind.way, one[name], other[name]) for name, kind in _KINDS_OF.items()}


def _merged(way: str, one: Tensor, other: Tensor) -> Tensor:
    if way == "min":
        return torch.minimum(one, other)
    if way == "max":
        return torch.maximum(one, other)
    return exact.carried(one + other) if way == "exact" else one + other


def fault(name: str, tensor: Tensor) -> str | None:
    """What is wrong with a tensor of the right shape and dtype, if anything."""
    way = _KINDS_OF[name].way
    if way == "exact" and not exact.is_carried(tensor):
        return "holds sums that are not carried"
    if way == "exact" and not bool((tensor[..., -1].abs() < LARGEST >> 32).all()):
        return "holds sums beyond what is counted"
    if way == "add" and not bool(((tensor >= 0) & (tensor < LARGEST)).all()):
        return "holds a number that is no count"
    return "holds NaN" if bool(tensor.isnan().any()) else None
