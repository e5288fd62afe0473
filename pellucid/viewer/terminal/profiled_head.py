"""What `pellucid show all.heads --layer L --head H` prints: one head over a corpus, and where it does most."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from pellucid import legible
from pellucid.profiles.listing import Example
from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.profile import Profile
from pellucid.profiles.studies.corpus_kinds import corpus_kinds
from pellucid.profiles.studies.passages import Passage, Piece, passages
from pellucid.profiles.studies.tables import Mass, layer_numbers, spreads, telling_number, title_of, where
from pellucid.viewer.terminal.profile_page import (
    SPREAD_HEADINGS,
    about,
    number_cell,
    number_title,
    spread_cells,
    table_of,
)
from pellucid.viewer.terminal.shades import viridis

BARS = " ▁▂▃▄▅▆▇█"
CELLS = 24  # of a histogram
WIDE = 20  # columns of a bar
LEAST = 0.005  # of a weight that is marked
SHOWN = 3  # examples of a list


def head_page(profile: Profile, place: int, number: str | None) -> RenderableType:
    """One head.

    Args:
        profile: of a corpus.
        place: which head.
        number: what its strongest are the strongest by; None for the one that shows its kind best.

    """
    head = profile.heads[place]
    rest = corpus_kinds(profile, without_sink=True)[place]
    title = f"{title_of(head, layer_numbers(profile)[place])}: {legible.name(head.layer)}"
    lines = [f"beyond the sink  {rest}", f"as a whole       {corpus_kinds(profile)[place]}"]
    chosen = number or telling_number(rest.name)
    parts: list[RenderableType] = [*about(profile), Text(), Text(title, style="bold"), Text("\n".join(lines)), Text()]
    parts.append(_numbers(profile, place))
    going = where(profile)
    for group in (_distances(going.distances(place)), _classes(going.classes(place))):
        parts += [Text(), *group]
    return Group(*parts, Text(), *_examples(profile, place, chosen))


def _numbers(profile: Profile, place: int) -> Table:
    """Every number over the documents, with its histogram."""
    table = table_of("over the documents", *SPREAD_HEADINGS, "histogram", left=("over the documents", "histogram"))
    for number in NUMBERS:
        own = spreads(profile, number)[place]
        if own.documents:
            edges, counts = profile.histogram(number)
            bars = _histogram(counts[place].tolist(), edges.tolist(), number)
            table.add_row(number_title(number), *spread_cells(number, own), bars)
    return table


def _histogram(counts: list[int], edges: list[float], number: str) -> str:
    """The bins from the first that is not empty to the last, some of them joined."""
    taken = [place for place, count in enumerate(counts) if count]
    first, last = taken[0], taken[-1] + 1
    joined = -(-(last - first) // CELLS)
    cells = [sum(counts[at : min(at + joined, last)]) for at in range(first, last, joined)]
    most = max(cells)
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in cells)
    return f"{_edge(number, edges[first])} {bars} {_edge(number, edges[last])}"


def _edge(number: str, value: float) -> str:
    return f"{value:.3g}"


# Where the weight goes.


def _distances(rows: list[Mass]) -> list[RenderableType]:
    title = Text("mean weight by distance, in tokens back", style="bold")
    if not rows:
        return [title, Text("not known: maps were not read", style="dim")]
    return [title, _bars(rows, "back")]


def _classes(rows: list[Mass]) -> list[RenderableType]:
    return [Text("mean weight on tokens of a class", style="bold"), _bars(rows, "class")]


def _bars(rows: list[Mass], heading: str) -> Table:
    table = table_of(heading, "weight", "equal weights", "", left=("",))
    for name, mass, equal in rows:
        bar = "█" * round(WIDE * min(mass, 1.0))
        table.add_row(legible.name(name), f"{mass:.3f}", "-" if equal is None else f"{equal:.3f}", bar)
    return table


# The strongest.


def _examples(profile: Profile, place: int, number: str) -> list[RenderableType]:
    """The strongest queries by a number, keys, and documents."""
    lists = (
        (f"strongest queries by {number}, one a document", profile.strongest_queries(place, number)),
        (f"documents with most {number}, each at its strongest query", profile.strongest_documents(place, number)),
        ("keys that receive most, one a document", profile.strongest_keys(place)),
    )
    parts: list[RenderableType] = []
    for title, found in lists:
        parts += [Text(title, style="bold"), *(_example(number, one) for one in found[:SHOWN])]
        if not found:
            parts.append(Text("none were kept, or no query has this number", style="dim"))
    legend = (
        "[query], keys with their weight, «key» that the query looks at or that receives; … where tokens are left out"
    )
    return [*parts, Text(legend, style="dim")]


def _example(number: str, example: Example) -> Text:
    document = example.document
    at = "" if example.query is None else f", query {example.query}"
    if example.query is None and example.key is not None:
        at = f", key {example.key}"
    where = f"{legible.name(document.name)}{at} of {document.length:,} tokens"
    line = Text(f"{number_cell(number, example.value)}  {where}\n")
    for passage_number, passage in enumerate(passages(example)):
        line.append("    " if not passage_number else " … ", "dim")
        _append(line, passage)
    return line


def _append(line: Text, passage: Passage) -> None:
    for piece, space in passage.spaced():
        line.append(" " if space else "")
        line.append(*_shown(piece))


def _shown(piece: Piece) -> tuple[str, Style]:
    """A token as the text has it; of what is marked, spaces are shown."""
    token = " ".join(legible.one_line((piece.token or "").replace("\n", "⏎")).split("\t"))
    marked = token if token.strip() else token.replace(" ", legible.SPACE)
    if piece.is_query:
        return f"[{marked}]", Style(bold=True)
    if piece.weight is not None and piece.weight >= LEAST:
        red, green, blue = viridis(0.3 + 0.7 * min(piece.weight, 1.0))
        return f"{marked}({piece.weight:.2f})", Style(color=f"#{red:02x}{green:02x}{blue:02x}", bold=True)
    return (f"«{marked}»", Style(bold=True)) if piece.is_key else (token, Style())
