"""What all pictures share: where they are written, their letters, one map of weights in its panel."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len
from torch import Tensor

from pellucid.viewer.labels import axis_label, shorten
from pellucid.viewer.pictures.fonts import Lettering

# Fixed metadata: the same picture gives the same bytes.
_METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": "pellucid"},
    ".svg": {"Date": None, "Creator": "pellucid"},
    ".pdf": {"CreationDate": None, "Creator": "pellucid", "Producer": None},
}
# Whatever the user's settings: LaTeX reads files that a label names, and text of an SVG is to be text.
PLAIN: dict[Any, Any] = {"text.usetex": False, "svg.fonttype": "none", "svg.hashsalt": "pellucid"}
_DOTS_PER_INCH = 160
_LONGEST_LABEL = 20
_POSITIONS = 7.0  # points


def check_path(path: Path) -> None:
    """Raise ValueError unless a picture can be written at `path`, before any work is done for it."""
    if path.suffix.lower() not in _METADATA:
        raise ValueError(f"must end in {', '.join(_METADATA)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {str(path.parent)!r} does not exist; create it first")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; name a file")


def keeps_text(path: Path) -> bool:
    """Whether text is written as text, for the fonts of whoever looks at it."""
    return path.suffix.lower() == ".svg"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, with the same bytes for the same figure.

    Raises:
        OSError: the file cannot be written.

    """
    extension = path.suffix.lower()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with rc_context(PLAIN), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # of text that stays text
            figure.savefig(unfinished, format=extension[1:], dpi=_DOTS_PER_INCH, metadata=_METADATA[extension])
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class Side:
    """The queries or keys of a map: where it lies in the sequence, and what stands at its cells.

    Attributes:
        first: position of the first.
        size: positions a cell.
        cells: how many cells.
        stop: position of the end; the last cell is cut there.
        labels: of each cell, where there is room for them; else positions are written.

    """

    first: int
    size: float
    cells: int
    stop: int
    labels: Sequence[str] | None = None

    @classmethod
    def of_tokens(cls, tokens: Sequence[str], first: int = 0) -> Side:
        """A cell a token."""
        labels = [shorten(axis_label(token), _LONGEST_LABEL) for token in tokens]
        return cls(first, 1.0, len(tokens), first + len(tokens), labels)

    @property
    def length(self) -> int:
        """How many positions there are."""
        return self.stop - self.first

    @property
    def ends(self) -> tuple[float, float]:
        """Where the map begins and ends, a position being at the middle of its cell."""
        return self.first - 0.5, self.stop - 0.5

    @property
    def drawn(self) -> tuple[float, float]:
        """The same of its cells, the last one whole."""
        return self.first - 0.5, self.first + self.cells * self.size - 0.5


@dataclass(frozen=True)
class Panel:
    """One map in its panel, weights of exactly 0 and what is NaN left white.

    Attributes:
        queries: downwards.
        keys: to the right.
        lettering: of its labels.
        square: whether a token is as wide as it is high.
        label_size: points.

    """

    queries: Side
    keys: Side
    lettering: Lettering
    square: bool = True
    label_size: float = 8.0

    def draw(self, axes: Axes, weights: Tensor, norm: Normalize) -> AxesImage:
        """The map [queries, keys] in `axes`, with its labels."""
        values = weights.float().cpu().numpy()
        shown = np.ma.masked_where(~(values > 0), values)
        (left, right), (top, bottom) = self.keys.drawn, self.queries.drawn
        image = axes.imshow(
            shown, cmap="viridis", norm=norm, extent=(left, right, bottom, top), interpolation="nearest",
            aspect="equal" if self.square else "auto",
        )  # fmt: skip
        axes.set_xlim(*self.keys.ends)
        axes.set_ylim(*reversed(self.queries.ends))
        self.label(axes)
        return image

    def label(self, axes: Axes) -> None:
        """The labels, or positions where there are none."""
        families, size = self.lettering.families, self.label_size
        axes.tick_params(labelsize=_POSITIONS, pad=2)
        if self.keys.labels is None:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        else:
            turned = 90 if any(cell_len(label) > 2 for label in self.keys.labels) else 0
            places, labels = self._ticks(self.keys, self.keys.labels)
            axes.set_xticks(places, labels, rotation=turned, fontfamily=families, fontsize=size)
        if self.queries.labels is None:
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        else:
            axes.set_yticks(*self._ticks(self.queries, self.queries.labels), fontfamily=families, fontsize=size)

    def _ticks(self, side: Side, labels: Sequence[str]) -> tuple[list[int], list[str]]:
        return list(range(side.first, side.first + side.cells)), [*map(self.lettering.spell, labels)]
