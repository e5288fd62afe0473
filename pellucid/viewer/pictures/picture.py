"""A picture of every head of one kind of attention: layers downwards, heads across, one scale, tokens on the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.cells import cell_len
from torch import Tensor

from pellucid.legible import one_line
from pellucid.viewer.labels import axis_label, shorten
from pellucid.viewer.pictures.fonts import Lettering
from pellucid.viewer.pictures.head_picture import HeadPicture
from pellucid.viewer.pictures.sheet import PLAIN, Side, check_path, keeps_text, save_figure
from pellucid.viewer.selection import TITLES, Reading, Selection

__all__ = ["check_path", "draw", "of_head", "save"]

_LONGEST_TITLE = 60
_AXES = {
    "cross": ("written", "read"),
    "encoder": ("characters", "read"),
    "decoder": ("written", "read: the start mark ^, then what was written before"),
}


def save(reading: Reading, kind: str, path: Path) -> None:
    """Write the picture of one kind of attention, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    save_figure(draw(reading, kind, as_text=keeps_text(path)), path)


@rc_context(PLAIN)
def draw(reading: Reading, kind: str, *, as_text: bool = False) -> Figure:
    """The figure: one panel a head, weights of exactly 0 left white. `as_text` is `Lettering`'s."""
    layers = [observation.weights()[0] for observation in reading.attention[kind]]  # each [heads, queries, keys]
    queries, keys = (list(map(axis_label, tokens)) for tokens in reading.axes(kind))
    title = shorten(one_line(reading.text), _LONGEST_TITLE)
    lettering = Lettering([*queries, *keys, title], as_text=as_text)
    lettering.warn()
    sheet = _Sheet(layers, [*map(lettering.spell, queries)], [*map(lettering.spell, keys)], lettering.families)
    # A line of its own for the text: one from right to left would turn the rest of the line round.
    return sheet.figure(f"{lettering.spell(title)}\nread as {reading.answer}: {TITLES[kind]}", _AXES[kind])


def of_head(reading: Reading, selection: Selection) -> HeadPicture:
    """The picture of one head, or of the mean of a layer's."""
    which = "mean of all heads" if selection.head is None else f"head {selection.head}"
    return HeadPicture(
        selection.weights(),
        Side.of_tokens(selection.queries),
        Side.of_tokens(selection.keys),
        f"{shorten(one_line(reading.text), _LONGEST_TITLE)}, read as {reading.answer}",
        f"{TITLES[selection.kind]}, its layer {selection.layer}, {which}",
        axes=_AXES[selection.kind],
    )


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
