"""What `pellucid show all.heads` prints: the corpus, all heads at a glance, each in one number over the documents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pellucid import legible
from pellucid.legible import several
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.profile import Profile
from pellucid.profiles.studies.corpus_kinds import CorpusKind, corpus_kinds
from pellucid.profiles.studies.tables import Spread, layer_numbers, ordered, spreads
from pellucid.record.studies.summary import Summary
from pellucid.viewer.terminal.record_page import wall

USUAL = "sink"  # the number that is shown where none is chosen
SHOWN_OF_UNREAD = 3


@dataclass(frozen=True)
class ProfileView:
    """A profile, and what of it is looked at.

    Attributes:
        profile: of a corpus.
        places: the heads.
        number: what they are ordered by, most first; None for layer by layer.

    """

    profile: Profile
    places: list[int]
    number: str | None = None


def profile_page(view: ProfileView) -> RenderableType:
    """The whole screen."""
    return Group(*about(view.profile), Text(), *_wall(view), Text(), *_heads(view))


# The corpus.


def about(profile: Profile) -> list[RenderableType]:
    """What was read of which corpus, and what was not."""
    layers = len(dict.fromkeys(head.layer for head in profile.heads))
    lines = [
        f"profile  {legible.name(profile.model)}: {several(len(profile.heads), 'head')} in {several(layers, 'layer')}"
    ]
    for corpus in profile.corpora:
        lines += _corpus(corpus)
    settings = sorted(profile.layout.settings.items())
    if settings:
        told = ((name, " and ".join(map(str, one)) if isinstance(one, list) else one) for name, one in settings)
        lines.append(f"settings {legible.message(', '.join(f'{name} {value}' for name, value in told))}")
    return [Text("\n".join(lines))]


def _corpus(corpus: Corpus) -> list[str]:
    parts = [f"{several(corpus.documents, 'document')}, {several(corpus.tokens, 'token')}"]
    if corpus.cut:
        parts.append(f"{corpus.cut:,} cut, by {several(corpus.cut_tokens, 'token')}")
    if corpus.unread_count:
        parts.append(f"{corpus.unread_count:,} not read")
    lines = [f"corpus   {legible.name(corpus.name)}: {'; '.join(parts)}"]
    lines += [f"not read {legible.message(f'{one.name}: {one.reason}')}" for one in corpus.unread[:SHOWN_OF_UNREAD]]
    if corpus.unread_count > SHOWN_OF_UNREAD:
        lines.append(f"         and {corpus.unread_count - SHOWN_OF_UNREAD:,} more")
    if not corpus.is_complete:
        done = sum(stop - start for start, stop in corpus.done)
        why = "its end was not seen" if corpus.total is None else f"not all {corpus.total:,} documents were reached"
        lines.append(f"         {why}: every number is of the {done:,} that are in")
    return lines


# All heads.


def _wall(view: ProfileView) -> list[RenderableType]:
    """A letter a head: its kind in most documents."""
    rows = view.profile.summary().rows
    kinds = zip(rows, corpus_kinds(view.profile), corpus_kinds(view.profile, without_sink=True), strict=True)
    shown = [replace(row, kind=whole.name, kind_without_sink=rest.name) for row, whole, rest in kinds]
    lines = wall(Summary(shown))[1:]  # under a title of our own
    return [Text("heads, by what they do in most documents beyond the sink", style="bold"), *lines]


def _heads(view: ProfileView) -> list[RenderableType]:
    """The table, in one number."""
    number = view.number or USUAL
    order = "most first" if view.number else "layer by layer, --sort NUMBER for another"
    title = Text(f"{number} over the documents, {order}", style="bold")
    legend = "spread: standard deviation; in brackets: where the share lies with 95 %; ?: another kind may be ahead"
    return [title, _table(view, number), Text(legend, style="dim")]


def _table(view: ProfileView, number: str) -> Table:
    profile, layers = view.profile, layer_numbers(view.profile)
    kinds, own = corpus_kinds(profile, without_sink=True), spreads(profile, number)
    table = table_of("layer", "head", "kind beyond the sink", *SPREAD_HEADINGS, left=("kind beyond the sink",))
    for place in ordered(profile, view.places, view.number):
        cells = (str(layers[place]), str(profile.heads[place].head), kind_cell(kinds[place]))
        table.add_row(*cells, *spread_cells(number, own[place]))
    return table


SPREAD_HEADINGS = ("documents", "mean", "spread", "5 %", "median", "95 %")


def table_of(*headings: str, left: tuple[str, ...] = ()) -> Table:
    """An empty table without lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading not in left)
    return table


def kind_cell(kind: CorpusKind) -> str:
    """A kind, and the share of the documents with its interval."""
    if not kind.documents:
        return kind.name
    sure = "" if kind.leads or kind.second is None else "?"
    return f"{kind.name}{sure} {100 * kind.share:.0f} % ({100 * kind.low:.0f}-{100 * kind.high:.0f})"


def spread_cells(number: str, one: Spread) -> list[str]:
    """The cells under SPREAD_HEADINGS."""
    low, _, middle, _, high = one.quantiles
    return [f"{one.documents:,}", *(number_cell(number, value) for value in (one.mean, one.spread, low, middle, high))]


def number_cell(number: str, value: float) -> str:
    """A number in few digits."""
    if isnan(value):
        return "-"
    return f"{value:.{1 if number.startswith('distance') and abs(value) >= 10 else 3}f}"


def number_title(number: str) -> str:
    """A number's name in a cell, where a line may end in it."""
    return number.replace("_without_sink", ", no sink")
