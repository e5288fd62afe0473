"""A wall of every head of a record: layers downwards, heads across, one scale, the kind of each above its map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from pellucid.legible import one_line
from pellucid.record.record import Record
from pellucid.record.studies.summary import HeadSummary, Summary
from pellucid.viewer.labels import cut_middle, shorten
from pellucid.viewer.pictures.fonts import Lettering
from pellucid.viewer.pictures.picture import PLAIN, check_path, save_figure
from pellucid.viewer.record_map import FOR_A_MAP, all_maps

__all__ = ["check_path", "draw", "save"]

MOST_BINS = 64  # of a map, either way
LEAST_WEIGHT = 1e-3  # what the scale begins with
_PANEL = 0.82  # inches
_LETTER = 0.06  # inches along the scale's label
_SCALE = "weight, mean over a cell's queries of their sum over its keys; white: none"
_LONGEST_NAME = 34
_LONGEST_TITLE = 70


def save(record: Record, summary: Summary, path: Path) -> None:
    """Write the picture, whole or not at all.

    Raises:
        ValueError: no layer has what a map is drawn from.
        OSError: the file cannot be written.

    """
    save_figure(draw(record, summary), path)


@rc_context(PLAIN)
def draw(record: Record, summary: Summary) -> Figure:
    """The figure. Maps of more tokens than bins are pooled: means over queries of sums over keys.

    Raises:
        ValueError: no layer has what a map is drawn from.

    """
    maps = {name: drawn for name in record.layers if (drawn := all_maps(record[name], MOST_BINS)) is not None}
    if not maps:
        raise ValueError(f"no layer kept query and key or a pooled map, so there is nothing to draw; {FOR_A_MAP}")
    rows: dict[str, list[HeadSummary]] = defaultdict(list)
    for row in summary:
        rows[row.layer].append(row)
    return _Wall(record, maps, rows).figure()


@dataclass(frozen=True)
class _Wall:
    """The panels and what they share."""

    record: Record
    maps: dict[str, Tensor]  # each [heads, rows, columns]
    rows: dict[str, list[HeadSummary]]

    def figure(self) -> Figure:
        heads = max(len(drawn) for drawn in self.maps.values())
        size = (max(heads * _PANEL + 3.0, 6.0), len(self.maps) * (_PANEL + 0.18) + 1.3)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(self.maps), heads, squeeze=False)
        image: AxesImage | None = None
        title = shorten(one_line(self.record.model), _LONGEST_TITLE)
        names = {name: cut_middle(name, _LONGEST_NAME) for name in self.maps}
        lettering = Lettering([title, *names.values()])
        for line, (name, drawn) in zip(panels, self.maps.items(), strict=True):
            label = f"{lettering.spell(names[name])}\n{self.record[name].role}"
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7, fontfamily=lettering.families)
            for panel, weights, row in zip(line, drawn, self.rows[name], strict=False):
                image = self._panel(panel, weights, row)
            for panel in line[len(drawn) :]:
                panel.axis("off")
        figure.suptitle(f"{lettering.spell(title)}: {self._extent()}", fontfamily=lettering.families, fontsize=11)
        figure.supxlabel("keys, to the right; queries, downwards", fontsize=9)
        assert image is not None
        bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, extend="min")
        bar.set_label(fill(_SCALE, int(size[1] / _LETTER)), fontsize=7)
        return figure

    def _panel(self, panel: Axes, weights: Tensor, row: HeadSummary) -> AxesImage:
        values = np.ma.masked_invalid(weights.numpy())
        values = np.ma.masked_less_equal(values, 0.0)
        image = panel.imshow(
            values, cmap="viridis", norm=LogNorm(LEAST_WEIGHT, 1.0, clip=True), aspect="auto", interpolation="nearest"
        )
        kind = f"{row.kind}, {row.kind_without_sink}" if row.kind == "sink" else row.kind
        panel.set_title(f"{row.head} {kind}", fontsize=5.5, pad=1.5)
        panel.set_xticks([])
        panel.set_yticks([])
        return image

    def _extent(self) -> str:
        lengths = {(self.record[name].q_len, self.record[name].k_len) for name in self.maps}
        sizes = [f"{queries} x {keys}" for queries, keys in sorted(lengths)]
        return f"{', '.join(_few(sizes))} tokens"


def _few(sizes: Sequence[str]) -> Sequence[str]:
    return sizes if len(sizes) <= 3 else [*sizes[:2], "..."]
