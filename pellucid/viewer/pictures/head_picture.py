"""A picture of one head, or of a layer's heads as one: tokens on the axes where they fit, a scale, a short title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from matplotlib import rc_context
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.legible import one_line
from pellucid.record.record import Record
from pellucid.record.studies.summary import Summary
from pellucid.viewer.labels import cut_middle, shorten
from pellucid.viewer.pictures.fonts import Lettering
from pellucid.viewer.pictures.sheet import PLAIN, Panel, Side, keeps_text, save_figure
from pellucid.viewer.record_map import UNLIKE, Axis, Look, Progress, axes_tokens, for_a_map, maps
from pellucid.viewer.titles import LONGEST_TITLE, model_note, record_title

MOST_CELLS = 512  # of a map, either way
MOST_LABELS = 150  # tokens that are written on an axis
_SIDE = 6.0  # inches of a large map
_SHORTEST = 1.2
_CELL = (0.085, 0.22)  # inches of a token that is written
_LETTER = 0.09  # inches of the title's letters
_SMALL = 0.065
_LEAST = 1e-4  # of the largest weight, where the scale of a large map begins
_LONGEST_NAME = 40


@dataclass(frozen=True)
class HeadPicture:
    """A map and what is written about it.

    Attributes:
        weights: [rows, columns] of cells.
        queries: downwards.
        keys: to the right.
        title: what it is of.
        about: smaller, below the title.
        scale: what a colour stands for.
        axes: what rows are, and columns.

    """

    weights: Tensor
    queries: Side
    keys: Side
    title: str
    about: str
    scale: str = "weight"
    axes: tuple[str, str] = ("queries", "keys")

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises OSError where the file cannot be written."""
        save_figure(self.draw(as_text=keeps_text(path)), path)

    @rc_context(PLAIN)
    def draw(self, *, as_text: bool = False) -> Figure:
        """The figure; `as_text` is `Lettering`'s."""
        texts = [self.title, self.about, *(self.queries.labels or ()), *(self.keys.labels or ())]
        lettering = Lettering(texts, as_text=as_text)
        lettering.warn()
        width, height = self.size
        figure = Figure(figsize=(width + 2.4, height + 1.9), layout="constrained")
        axes = figure.subplots()
        cell = min(width / self.keys.cells, height / self.queries.cells)
        panel = Panel(self.queries, self.keys, lettering, self.is_square, min(8.0, max(4.0, cell * 72 * 0.7)))
        image = panel.draw(axes, self.weights, self.norm)
        letters = int((width + 1.6) / _LETTER)
        title, about = fill(lettering.spell(self.title), letters), fill(lettering.spell(self.about), int(letters * 1.4))
        figure.suptitle(title, fontfamily=lettering.families, fontsize=11)
        axes.set_title(about, fontfamily=lettering.families, fontsize=7.5)
        axes.set_ylabel(self.axes[0], fontsize=9)
        axes.set_xlabel(self.axes[1], fontsize=9)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
        bar.set_label(fill(self.scale, max(12, int(height / _SMALL))), fontsize=7.5)
        bar.ax.tick_params(labelsize=7.5)
        return figure

    @property
    def is_square(self) -> bool:
        """Whether a token is as wide as high, so that the diagonal is at 45 degrees."""
        lengths = self.queries.length, self.keys.length
        return max(lengths) <= UNLIKE * min(lengths)

    @property
    def size(self) -> tuple[float, float]:
        """Inches of the map."""
        width, height = (self._inches(side) for side in (self.keys, self.queries))
        if not self.is_square:
            return width, height
        a_token = min(width / self.keys.length, height / self.queries.length)
        return max(a_token * self.keys.length, _SHORTEST), max(a_token * self.queries.length, _SHORTEST)

    @staticmethod
    def _inches(side: Side) -> float:
        least, most = _CELL
        if side.labels is None:
            return _SIDE
        return max(min(most, max(least, _SIDE / side.cells)) * side.cells, _SHORTEST)

    @property
    def norm(self) -> Normalize:
        """From 0 where each token is written; logarithmic of large maps, in which most weights are small."""
        finite = self.weights[self.weights > 0]
        top = float(finite.max()) if len(finite) else 1.0
        if self.queries.labels is not None and self.keys.labels is not None:
            return Normalize(0.0, top)
        least = float(finite.min()) if len(finite) else top
        return LogNorm(min(max(least, top * _LEAST), top * 0.5), top, clip=True)


def of_record(
    record: Record,
    number: int,
    look: Look,
    *,
    title: str | None = None,
    summary: Summary | None = None,
    progress: Progress | None = None,
) -> HeadPicture:
    """The picture of a head of a record.

    Args:
        record: what was watched.
        number: of the layer.
        look: what of it; all heads as one if it names none.
        title: in the place of the model, layer and head.
        summary: of the record, if the title is to say what kind of head it is.
        progress: called with the share that is computed.

    Raises:
        ValueError: the layer has nothing that the map could be made of.

    """
    layer = record[number]
    found = maps(layer, look, MOST_CELLS, progress)
    if found is None:
        raise ValueError(f"layer {number} kept neither query and key nor such a map; {for_a_map(look.pool)}")
    found = found.joined()
    own, source = axes_tokens(record, layer, look.sequence)
    role = layer.role if found.is_exact else f"{layer.role}; {found.cell}"
    return HeadPicture(
        found.weights[0],
        side_of(found.queries, own, layer.start),
        side_of(found.keys, source, 0),
        _title(record, number, look, summary) if title is None else shorten(one_line(title), LONGEST_TITLE),
        f"{cut_middle(layer.name, _LONGEST_NAME)}, {role}" + model_note(record),
        _scale(found.is_exact, look.pool),
    )


def side_of(axis: Axis, tokens: Sequence[str] | None, start: int, most: int = MOST_LABELS) -> Side:
    """The side of a picture that an axis of a map is.

    Args:
        axis: the bins.
        tokens: of the sequence, where they are known.
        start: the position of what the layer counts as 0.
        most: tokens that are written.

    """
    first, stop = start + axis.firsts[0], start + axis.stop
    if not axis.is_exact or len(axis.firsts) > most:
        return Side(first, axis.size, len(axis.firsts), stop)
    if tokens is None or len(tokens) < stop:
        return Side(first, 1.0, stop - first, stop, [str(place) for place in range(first, stop)])
    return Side.of_tokens([token.strip() or token for token in tokens[first:stop]], first)


def _title(record: Record, number: int, look: Look, summary: Summary | None) -> str:
    layer = record[number]
    begin = f"{record_title(record)}, layer {number}, "
    if look.head is None:
        return f"{begin}{'mean' if look.pool == 'mean' else 'largest'} of {layer.heads} heads"
    head = layer.head_numbers[look.head] if layer.head_numbers else look.head
    kinds = [row.kind for row in summary or () if row.layer == layer.name]
    return f"{begin}head {head}" + (f": {kinds[look.head]}" if kinds else "")


def _scale(is_exact: bool, pool: str) -> str:
    if is_exact:
        return "weight"
    return "mean over a cell's queries of their weight on its keys" if pool == "mean" else "largest weight of a cell"
