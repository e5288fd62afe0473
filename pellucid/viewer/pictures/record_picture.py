"""A wall of every head of a record: layers downwards, heads across, one scale, the kind of each above its map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pellucid.record.record import Record
from pellucid.record.studies.summary import HeadSummary, Summary
from pellucid.viewer.labels import cut_middle
from pellucid.viewer.pictures.fonts import Lettering
from pellucid.viewer.pictures.head_picture import side_of
from pellucid.viewer.pictures.sheet import PLAIN, Panel, Side, check_path, keeps_text, save_figure
from pellucid.viewer.record_map import UNLIKE, Look, Maps, Progress, axes_tokens, for_a_map, maps
from pellucid.viewer.titles import model_note, record_title

__all__ = ["check_path", "draw", "save"]

MOST_BINS = 64  # of a map, either way
MOST_LABELS = 16  # tokens that are written on an axis
LEAST_WEIGHT = 1e-3  # what the scale begins with
_PANEL = 0.82  # inches
_CELL = 0.09  # inches of a token that is written
_LABEL = 5.0  # points
_LETTER = 0.06  # inches along the scale's label
_SCALES = {
    "mean": "weight, mean over a cell's queries of their sum over its keys; white: none",
    "max": "the largest weight of a cell; white: none",
}
_LONGEST_NAME = 34


def save(
    record: Record, summary: Summary, path: Path, *, look: Look | None = None, progress: Progress | None = None
) -> None:
    """Write the picture, whole or not at all.

    Args:
        record: what was watched.
        summary: of the record.
        path: of the picture.
        look: which part of each layer, and how it is pooled; its head plays no part.
        progress: called with the share of the maps that is computed.

    Raises:
        ValueError: no layer has what a map is drawn from.
        OSError: the file cannot be written.

    """
    save_figure(draw(record, summary, look or Look(), progress=progress, as_text=keeps_text(path)), path)


@rc_context(PLAIN)
def draw(
    record: Record,
    summary: Summary,
    look: Look | None = None,
    *,
    progress: Progress | None = None,
    as_text: bool = False,
) -> Figure:
    """The figure. Maps of more tokens than bins are pooled: means over queries of sums over keys, or maxima.

    Args:
        record: what was watched.
        summary: of the record.
        look: which part of each layer, and how it is pooled; its head plays no part.
        progress: called with the share of the maps that is computed.
        as_text: see `Lettering`.

    Raises:
        ValueError: no layer has what a map is drawn from.

    """
    look = (look or Look())._replace(head=None)
    found = {}
    for number, name in enumerate(record.layers):
        made = maps(record[name], look, MOST_BINS, _share(progress, number, len(record)))
        if made is not None:
            found[name] = made
    if not found:
        lacking = "query and key or a pooled map" if look.pool == "mean" else "query and key or maxima"
        raise ValueError(f"no layer kept {lacking}, so there is nothing to draw; {for_a_map(look.pool)}")
    rows: dict[str, list[HeadSummary]] = defaultdict(list)
    for row in summary:
        rows[row.layer].append(row)
    return _Wall(record, found, rows, look).figure(as_text)


def _share(progress: Progress | None, number: int, count: int) -> Progress | None:
    """What tells the share of all layers, given that of one."""
    return None if progress is None else lambda done: progress((number + done) / count)


@dataclass(frozen=True)
class _Wall:
    """The panels and what they share."""

    record: Record
    maps: dict[str, Maps]
    rows: dict[str, list[HeadSummary]]
    look: Look

    def figure(self, as_text: bool) -> Figure:
        heads = max(len(drawn.weights) for drawn in self.maps.values())
        panel, lines = self._inches, list(self.maps)
        size = (max(heads * (panel + 0.06) + 3.0, 6.0), len(lines) * (panel + 0.2) + 1.4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(lines), heads, squeeze=False)
        title, model = record_title(self.record), model_note(self.record)
        names = {name: cut_middle(name, _LONGEST_NAME) for name in lines}
        labels = [label for name in lines for side in self._sides(name) for label in side.labels or ()]
        lettering = Lettering([title, model, *names.values(), *labels], as_text=as_text)
        lettering.warn()
        image: AxesImage | None = None
        for line, name in zip(panels, lines, strict=True):
            label = f"{lettering.spell(names[name])}\n{self.record[name].role}"
            image = self._line(line, name, lettering)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7, fontfamily=lettering.families)
        above = f"{lettering.spell(title)}: {self._extent()}{lettering.spell(model)}"
        figure.suptitle(above, fontfamily=lettering.families, fontsize=11)
        figure.supxlabel("keys, to the right; queries, downwards", fontsize=9)
        assert image is not None
        bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, extend="min")
        bar.set_label(fill(_SCALES[self.look.pool], int(size[1] / _LETTER)), fontsize=7)
        return figure

    @property
    def _inches(self) -> float:
        """The side of a panel: as large as the tokens need that are written."""
        written = (len(side.labels or ()) for name in self.maps for side in self._sides(name))
        return max(_PANEL, max(written) * _CELL)

    def _sides(self, name: str) -> tuple[Side, Side]:
        """Queries and keys of a layer's maps."""
        layer, drawn = self.record[name], self.maps[name]
        own, source = axes_tokens(self.record, layer, self.look.sequence)
        return (
            side_of(drawn.queries, own, layer.start, MOST_LABELS),
            side_of(drawn.keys, source, 0, MOST_LABELS),
        )

    def _line(self, line: Sequence[Axes], name: str, lettering: Lettering) -> AxesImage:
        """A layer's panels; tokens stand at the first of them."""
        queries, keys = self._sides(name)
        lengths = queries.length, keys.length
        panel = Panel(queries, keys, lettering, max(lengths) <= UNLIKE * min(lengths), _LABEL)
        drawn = self.maps[name].weights
        for axes, weights, row in zip(line, drawn, self.rows[name], strict=False):
            image = panel.draw(axes, weights, LogNorm(LEAST_WEIGHT, 1.0, clip=True))
            kind = f"{row.kind}, {row.kind_without_sink}" if row.kind == "sink" else row.kind
            axes.set_title(f"{row.head} {kind}", fontsize=5.5, pad=1.5)
            if axes is not line[0] or queries.labels is None:
                axes.set_yticks([])
            if axes is not line[0] or keys.labels is None:
                axes.set_xticks([])
        for axes in line[len(drawn) :]:
            axes.axis("off")
        return image

    def _extent(self) -> str:
        lengths = {(drawn.queries.length, drawn.keys.length) for drawn in self.maps.values()}
        sizes = [f"{queries} x {keys}" for queries, keys in sorted(lengths)]
        return f"{', '.join(_few(sizes))} tokens"


def _few(sizes: Sequence[str]) -> Sequence[str]:
    return sizes if len(sizes) <= 3 else [*sizes[:2], "..."]
