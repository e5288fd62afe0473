"""What `pellucid show run.attn` prints: the run, all heads at a glance, a layer's heads in numbers, a head's map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from pellucid import legible
from pellucid.legible import one_line
from pellucid.record.layer import Layer
from pellucid.record.record import Record
from pellucid.record.studies.segments import names_of, segment_mass
from pellucid.record.studies.summary import HeadSummary, Summary
from pellucid.viewer.labels import cut_middle, fit, shorten
from pellucid.viewer.record_map import Look, Maps, Progress, axes_tokens, for_a_map, labels, maps
from pellucid.viewer.terminal.attention_map import AttentionMap
from pellucid.viewer.terminal.shades import viridis

LETTERS = {
    "sink": "S", "previous token": "P", "induction": "I", "duplicate": "D", "local": "L", "focused": "F",
    "diffuse": "·", "mixed": "m", "unknown": "?",
}  # fmt: skip
MOST_TOKENS = 40  # of a map that shows each token
BINS = 32
LONGEST_NAME = 36
SHOWN_OF_MISSED = 3
UNLIMITED = 10_000  # columns

_COLUMNS = (
    ("entropy", "entropy", 2),
    ("rel.", "relative_entropy", 2),
    ("prev.", "previous", 2),
    ("dist.", "distance", 1),
    ("near", "nearby", 2),
    ("ind.", "induction", 2),
    ("same", "duplicate", 2),
    ("conc.", "concentration", 2),
)
_UNREAD = "no numbers: what they need was not read; watch without readouts=, or with more= in their place"


@dataclass(frozen=True)
class RecordView:
    """A record, and what of it is looked at.

    Attributes:
        record: what was watched.
        summary: its heads in numbers.
        layer: number of the layer, in the record's order.
        look: what of the layer: a head, a window, and how it is pooled.
        progress: called with the share of the map that is computed.

    """

    record: Record
    summary: Summary
    layer: int
    look: Look
    progress: Progress | None = None

    @property
    def head(self) -> int | None:
        """The place of the head among those that the layer has; None for all of them."""
        return self.look.head

    @property
    def shown(self) -> Layer:
        """The layer that is looked at."""
        return self.record[self.layer]


def record_page(view: RecordView) -> RenderableType:
    """The whole screen."""
    parts: list[RenderableType] = [_head(view.record), Text(), *wall(view.summary), Text(), *_layer(view)]
    if (segments := _segments(view)) is not None:
        parts += [Text(), *segments]
    return Group(*parts, Text(), *_map(view))


# The run.


def _head(record: Record) -> RenderableType:
    lines = [f"record   {legible.name(record.model)}"]
    for name, tokens in (("reads", record.source_tokens), ("tokens", record.tokens)):
        if tokens:
            text = shorten(one_line(" ".join(token.strip() or token for token in tokens[0])), 56)
            lines.append(f"{name.ljust(9)}{len(tokens[0])}: {text}")
    if record.segments:
        lines.append(
            f"segments {', '.join(f'{legible.name(name)} {_range(span)}' for name, span in record.segments.items())}"
        )
    if not record.complete:
        lines.append("         the run was interrupted: these are the layers that were complete")
    if record.missed:
        few = "; ".join(
            legible.message(f"{missed.name}: {missed.reason}") for missed in record.missed[:SHOWN_OF_MISSED]
        )
        more = len(record.missed) - SHOWN_OF_MISSED
        lines.append(f"missed   {few}" + (f"; and {more} more" if more > 0 else ""))
    lines += [f"note     {legible.message(note)}" for note in record.notes]
    return Text("\n".join(lines))


def _range(span: slice | list[slice]) -> str:
    if isinstance(span, list):
        return ", ".join(map(_range, span))
    return f"{span.start or 0}:{'' if span.stop is None else span.stop}"


# All heads.


def wall(summary: Summary) -> list[RenderableType]:
    """A line a layer, a letter a head: its kind beyond the sink, shaded by how much the sink takes."""
    layers: dict[str, list[HeadSummary]] = {}
    for row in summary:
        layers.setdefault(row.layer, []).append(row)
    names = {name: cut_middle(name, LONGEST_NAME) for name in layers}
    width = max(map(cell_len, names.values()), default=0)
    lines: list[RenderableType] = [Text("heads, by what they do with the weight beyond the sink", style="bold")]
    for number, (name, rows) in enumerate(layers.items()):
        line = Text(f"{number:>3} {fit(names[name], width)} {rows[0].role.ljust(11)} ")
        for row in rows:
            line.append(f" {LETTERS[row.kind_without_sink]}", _shade(row))
        lines.append(line)
    return [*lines, _legend(summary)]


def _legend(summary: Summary) -> Text:
    counts = Counter(row.kind_without_sink for row in summary)
    known = [f"{letter} {kind} {counts[kind]}" for kind, letter in LETTERS.items() if counts[kind]]
    sinks = sum(row.kind == "sink" for row in summary)
    park = f"   of them {sinks} put nine tenths on the sink" if sinks else ""
    return Text(f"{'   '.join(known)}{park}\nthe brighter, the more goes to the sink", style="dim")


def _shade(row: HeadSummary) -> Style:
    red, green, blue = viridis(0.25 + 0.75 * (0.0 if isnan(row.sink) else row.sink))
    return Style(color=f"#{red:02x}{green:02x}{blue:02x}", bold=row.kind == "sink")


# One layer.


def _layer(view: RecordView) -> list[RenderableType]:
    layer = view.shown
    title = f"layer {view.layer} of 0-{len(view.record) - 1}: {legible.name(layer.name)}, {layer.role}"
    shared = f", {layer.heads} heads share {layer.kv_heads} of keys" if layer.kv_heads != layer.heads else ""
    size = f"{layer.q_len} queries x {layer.k_len} keys{shared}"
    note = "numbers are beyond the sink, which is the learned sink and the first token"
    return [Text(title, style="bold"), Text(f"{size}; {note}", style="dim"), Text(), _FittingTable(view)]


@dataclass(frozen=True)
class _FittingTable:
    """The table of the heads, with the numbers of the whole in brackets where the terminal is wide enough."""

    view: RecordView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = head_table(self.view, whole=True)
        fits = console.measure(wide, options=options.update(width=UNLIMITED)).maximum <= options.max_width
        yield wide if fits else head_table(self.view)
        shown = _shown_columns(self.view)
        if fits and shown:
            yield Text("in brackets: the whole, the sink counted", style="dim")
        abbreviated = ", ".join(f"{heading} {name}" for heading, name, _ in shown if heading != name)
        legend = f"{abbreviated}; each without the sink, as NAME_without_sink in --json"
        yield Text(legend.removeprefix("; ") if shown else _UNREAD, style="dim")


def head_table(view: RecordView, *, whole: bool = False) -> Table:
    """The numbers of each head of the chosen layer, of the `whole` too if wanted; the chosen head is marked."""
    table = Table(box=None, pad_edge=False, padding=(0, 2 if whole else 1, 0, 0), header_style="bold")
    rows = [row for row in view.summary if row.layer == view.shown.name]
    shown = _shown_columns(view)
    for heading in ("head", "kind", "sink", *(heading for heading, _, _ in shown)):
        table.add_column(heading, justify="left" if heading in ("head", "kind") else "right")
    for place, row in enumerate(rows):
        chosen = place == view.head
        kind = _kinds(row) if whole else row.kind_without_sink
        cells = [f"{row.head} ◂" if chosen else str(row.head), kind, _number(row.sink, 2)]
        cells += [_cell(row, name, digits, whole) for _, name, digits in shown]
        table.add_row(*cells, style="bold" if chosen else None)
    return table


def _shown_columns(view: RecordView) -> list[tuple[str, str, int]]:
    """The columns of which a head of the chosen layer has a number."""
    rows = [row for row in view.summary if row.layer == view.shown.name]
    return [column for column in _COLUMNS if any(not isnan(getattr(row, column[1])) for row in rows)]


def _kinds(row: HeadSummary) -> str:
    return f"sink, then {row.kind_without_sink}" if row.kind == "sink" else row.kind


def _cell(row: HeadSummary, name: str, digits: int, whole: bool) -> str:
    rest = _number(getattr(row, f"{name}_without_sink"), digits)
    return f"{rest} ({_number(getattr(row, name), digits)})" if whole else rest


def _number(value: float, digits: int) -> str:
    return "-" if isnan(value) else f"{value:.{digits}f}"


# Segments.


def _segments(view: RecordView) -> list[RenderableType] | None:
    """Weight from segment to segment, of the chosen head or the mean of all; None where there are no segments."""
    names = names_of(view.record.segments, view.shown.role)
    if not names.queries or not names.keys:
        return None
    try:
        found = segment_mass(view.record, view.shown)
    except ValueError:
        return None  # neither read nor kept
    mass = found.mass.mean(0) if view.head is None else found.mass[view.head]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("from", *map(legible.name, found.keys)):
        table.add_column(heading, justify="left" if heading == "from" else "right")
    for name, row in zip(found.queries, mass.tolist(), strict=True):
        table.add_row(legible.name(name), *(_number(value, 3) for value in row))
    return [Text(f"weight from segment to segment, {_which(view)}", style="bold"), table]


# One head.


def _which(view: RecordView, pool: str = "mean") -> str:
    if view.head is None:
        return f"{'mean' if pool == 'mean' else 'largest'} of {view.shown.heads} heads"
    numbers = view.shown.head_numbers or range(view.shown.heads)
    return f"head {numbers[view.head]}"


def _map(view: RecordView) -> list[RenderableType]:
    layer, pool = view.shown, view.look.pool
    title = Text(f"{legible.name(layer.name)}, {_which(view, pool)}", style="bold")
    window = (range(layer.q_len)[view.look.queries], range(layer.k_len)[view.look.keys])
    fits = max(map(len, window)) <= MOST_TOKENS
    found = maps(layer, view.look, MOST_TOKENS if fits else BINS, view.progress)
    if found is None:
        kind = "neither query and key nor a pooled map" if pool == "mean" else "neither query and key nor maxima"
        return [title, Text(f"no map: {kind} were kept; {for_a_map(pool)}", style="dim")]
    found = found.joined()
    own, source = axes_tokens(view.record, layer)
    queries, keys = labels(own, found.queries, layer.start), labels(source, found.keys)
    drawn = AttentionMap(found.weights[0].nan_to_num().tolist(), _stripped(queries), _stripped(keys))
    return [title, Text(_note(found, layer), style="dim"), Text(), drawn]


def _note(found: Maps, layer: Layer) -> str:
    """What of the layer the map is, and what a cell of it."""
    note = found.resolution if found.is_exact else f"{found.resolution}; labels are each bin's first token"
    if (found.queries.length, found.keys.length) == (layer.q_len, layer.k_len):
        return note
    (q, q_stop), (k, k_stop) = ((axis.firsts[0], axis.stop) for axis in (found.queries, found.keys))
    return f"queries {q}:{q_stop}, keys {k}:{k_stop}; {note}"


def _stripped(tokens: Sequence[str]) -> list[str]:
    """Labels without the space before a word, which would be shown as a sign."""
    return [token.strip() or token for token in tokens]
