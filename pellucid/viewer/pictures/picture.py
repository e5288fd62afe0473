"""A picture of every head of one kind of attention: layers downwards, heads across, one scale, tokens on the axes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.cells import cell_len
from torch import Tensor

from pellucid.legible import one_line
from pellucid.viewer.labels import axis_label, shorten
from pellucid.viewer.pictures.fonts import Lettering
from pellucid.viewer.selection import TITLES, Reading

# Fixed metadata: the same reading gives the same bytes.
_METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": "pellucid"},
    ".svg": {"Date": None, "Creator": "pellucid"},
    ".pdf": {"CreationDate": None, "Creator": "pellucid", "Producer": None},
}
PLAIN: dict[Any, Any] = {"text.usetex": False}  # whatever the user's settings: LaTeX reads files that a label names
_DOTS_PER_INCH = 160
_LONGEST_TITLE = 60
_AXES = {
    "cross": ("written", "read"),
    "encoder": ("characters", "read"),
    "decoder": ("written", "read: the start mark ^, then what was written before"),
}


def check_path(path: Path) -> None:
    """Raise ValueError unless a picture can be written at `path`, before any work is done for it."""
    if path.suffix.lower() not in _METADATA:
        raise ValueError(f"must end in {', '.join(_METADATA)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {str(path.parent)!r} does not exist; create it first")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; name a file")


def save(reading: Reading, kind: str, path: Path) -> None:
    """Write the picture of one kind of attention, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    save_figure(draw(reading, kind), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, with the same bytes for the same figure.

    Raises:
        OSError: the file cannot be written.
    """
    extension = path.suffix.lower()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with rc_context({"svg.hashsalt": "pellucid", **PLAIN}):
            figure.savefig(unfinished, format=extension[1:], dpi=_DOTS_PER_INCH, metadata=_METADATA[extension])
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@rc_context(PLAIN)
def draw(reading: Reading, kind: str) -> Figure:
    """The figure: one panel a head, weights of exactly 0 left white."""
    layers = [observation.weights()[0] for observation in reading.attention[kind]]  # each [heads, queries, keys]
    queries, keys = (list(map(axis_label, tokens)) for tokens in reading.axes(kind))
    title = shorten(one_line(reading.text), _LONGEST_TITLE)
    lettering = Lettering([*queries, *keys, title])
    sheet = _Sheet(layers, [*map(lettering.spell, queries)], [*map(lettering.spell, keys)], lettering.families)
    # A line of its own for the text: one from right to left would turn the rest of the line round.
    return sheet.figure(f"{lettering.spell(title)}\nread as {reading.answer}: {TITLES[kind]}", _AXES[kind])


@dataclass(frozen=True)
class _Sheet:
    """The panels and what they share."""

    layers: Sequence[Tensor]  # each [heads, queries, keys]
    queries: Sequence[str]
    keys: Sequence[str]
    fonts: Sequence[str]

    def figure(self, title: str, axes: tuple[str, str]) -> Figure:
        heads = max(len(layer) for layer in self.layers)
        width, height = len(self.keys) * self.cell, len(self.queries) * self.cell  # inches of one panel
        size = (heads * (width + 0.15) + 2.2, len(self.layers) * (height + 0.15) + 1.4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(self.layers), heads, sharex=True, sharey=True, squeeze=False)
        for layer, weights in enumerate(self.layers):
            for panel, head in zip(panels[layer], weights, strict=True):
                self._panel(panel, head)
            panels[layer][0].set_ylabel(f"layer {layer}")
        for head, panel in enumerate(panels[0]):
            panel.set_title(f"head {head}", fontsize=10)
        figure.suptitle(title, fontfamily=self.fonts, fontsize=12)
        figure.supylabel(axes[0], fontsize=10)
        figure.supxlabel(axes[1], fontsize=10)
        figure.colorbar(panels[0][0].images[0], ax=panels, label="weight", shrink=0.8, aspect=30)
        return figure

    @property
    def cell(self) -> float:
        """Inches a token: smaller for longer texts, never too small for its label."""
        return min(0.22, max(0.13, 3.6 / max(len(self.keys), len(self.queries))))

    @property
    def top(self) -> float:
        """The largest weight of all: the one scale of every panel."""
        return max(float(layer.max()) for layer in self.layers)

    def _panel(self, panel: Axes, weights: Tensor) -> None:
        panel.imshow(np.ma.masked_equal(weights.float().cpu().numpy(), 0.0), cmap="viridis", vmin=0.0, vmax=self.top)
        size = self.cell * 72 * 0.7  # points: a label fills most of its cell
        turn = 90 if any(cell_len(label) > 2 for label in self.keys) else 0
        panel.set_xticks(range(len(self.keys)), self.keys, rotation=turn, fontfamily=self.fonts, fontsize=size)
        panel.set_yticks(range(len(self.queries)), self.queries, fontfamily=self.fonts, fontsize=size)
        panel.tick_params(length=0, pad=2)
        panel.label_outer()
