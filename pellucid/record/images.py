"""Pictures whose patches are tokens: an Image is a grid of positions in a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.record.belonging import layer_names


@dataclass(frozen=True)
class Image:
    """A picture, a tile of one or a frame of a film, as the positions of its patches in a sequence.

    Tokens that are no patches, such as CLS, registers and the ends of rows, are in no grid.

    Args:
        rows: of the grid.
        columns: of the grid.
        segment: the positions of the patches, row by row: a slice, or (start, stop) without the stop.
        positions: the position of each patch, row by row, where that is no such range.
        sequence: number of the sequence in the batch.
        source: whether the positions are of the sequence that cross-attention looks at.
        layers: the layers that attend in that sequence: names, which stand for the modules inside of them too, or
            patterns with `*`; `#2` after a name means second calls. All if None, where they attend in one sequence.
        picture: uint8 [height, width, 3], red, green and blue, over the whole of which the grid lies; if there is one.
        name: what to call it.

    Raises:
        TypeError, ValueError: these are not what is said above, or the positions are not one for each patch.

    Example:
        >>> import pellucid
        >>> image = pellucid.Image(2, 3, slice(1, 7))
        >>> image.patches
        tensor([[1, 2, 3],
                [4, 5, 6]])

    """

    rows: int
    columns: int
    segment: Any = None  # (start, stop) once it is made; None where there are positions
    _: KW_ONLY
    positions: Any = None  # a tuple of numbers once it is made, or None
    sequence: int = 0
    source: bool = False
    layers: Any = None  # a tuple of names once it is made, or None
    picture: Any = field(default=None, compare=False)  # a Tensor once it is made, or None
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            _check_number(name, getattr(self, name), 1)
        _check_number("sequence", self.sequence, 0)
        if (self.segment is None) == (self.positions is None):
            raise ValueError("segment, positions: one of them is needed, to say where the patches are")
        self._set("segment", None if self.segment is None else span("segment", self.segment))
        self._set("positions", None if self.positions is None else _positions(self.positions))
        count = self._count()
        if count != self.rows * self.columns:
            raise ValueError(
                f"{'segment' if self.positions is None else 'positions'}: {self.rows} x {self.columns} patches are "
                f"at {self.rows * self.columns} positions, got {count}"
            )
        self._set("layers", layer_names(self.layers))
        self._set("picture", None if self.picture is None else _picture(self.picture))

    def __repr__(self) -> str:
        where = f"segment={self.segment}" if self.positions is None else f"{len(self.positions)} positions"
        size = "" if self.picture is None else f", picture {self.picture.shape[0]} x {self.picture.shape[1]}"
        named = f"{self.name!r}, " if self.name else ""
        layers = "" if self.layers is None else f", {len(self.layers)} layers"
        return f"Image({named}{self.rows} x {self.columns}, {where}, sequence={self.sequence}{size}{layers})"

    @property
    def limits(self) -> tuple[int, int]:
        """The first position of a patch, and the one after the last."""
        if self.positions is None:
            return (int(self.segment[0]), int(self.segment[1]))
        return min(self.positions), max(self.positions) + 1

    @property
    def patches(self) -> Tensor:
        """The position of each patch, int64 [rows, columns]."""
        found = (
            torch.arange(*self.segment, device="cpu")
            if self.positions is None
            else torch.tensor(self.positions, device="cpu")
        )
        return found.view(self.rows, self.columns)

    def _count(self) -> int:
        return self.segment[1] - self.segment[0] if self.positions is None else len(self.positions)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def span(argument: str, value: Any) -> tuple[int, int]:
    """The start and the stop of a range of positions, of a slice or a pair. Raises ValueError."""
    if isinstance(value, slice) and value.step in (None, 1):
        value = (value.start or 0, value.stop)
    if not isinstance(value, Sequence) or len(value) != 2 or not all(map(_is_number, value)):
        raise ValueError(f"{argument}: slice(start, stop) or (start, stop) is needed, got {value!r}")
    start, stop = map(int, value)
    if not 0 <= start < stop:
        raise ValueError(f"{argument}: must go forward from 0 or later, got {value!r}")
    return start, stop


def _positions(value: Any) -> tuple[int, ...]:
    found = value.flatten().tolist() if isinstance(value, Tensor) else value
    if not isinstance(found, Sequence) or not all(map(_is_number, found)) or min(found, default=0) < 0:
        raise ValueError(f"positions: numbers from 0, one for each patch, are needed, got {value!r}")
    if len(set(found)) < len(found):
        raise ValueError("positions: two patches are at one position")
    return tuple(map(int, found))


def _picture(value: Any) -> Tensor:
    found = value.detach() if isinstance(value, Tensor) else _of_array(value)
    if found.dtype != torch.uint8 or found.ndim != 3 or found.shape[2] != 3 or not found.numel():
        raise ValueError(f"picture: must be uint8 [height, width, 3], got {found.dtype} {list(found.shape)}")
    return found.cpu()


def _of_array(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value.copy(), device="cpu")
    except (AttributeError, TypeError, RuntimeError):
        kind = type(value).__name__
        raise TypeError(f"picture: a tensor or numpy.asarray(picture) is needed, got a {kind}") from None


def _check_number(argument: str, value: Any, least: int) -> None:
    if not _is_number(value) or value < least:
        raise ValueError(f"{argument}: a whole number from {least} is needed, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
