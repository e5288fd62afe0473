"""What `pellucid compare a.heads b.heads` prints: the two, what must be known, and every head's difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pellucid import legible
from pellucid.legible import several
from pellucid.profiles.layout import HeadName
from pellucid.profiles.profile import Profile
from pellucid.profiles.studies.comparing import ComparedHead, Comparison, Difference
from pellucid.profiles.studies.tables import title_of
from pellucid.viewer.terminal.profile_page import kind_cell, number_cell, number_title, table_of

SHOWN_OF_LEFT = 4
_LEGEND = (
    "b - a ± its interval of 95 %; no sink: NAME_without_sink; size: over the spread of the documents; "
    "p: of as much by chance, after Holm's correction for all that is compared; *: below 0.05"
)


@dataclass(frozen=True)
class ComparisonView:
    """A comparison, and what of it is looked at.

    Attributes:
        a: the first profile.
        b: the second.
        comparison: of both, in the order in which it is shown.
        heads: those that are shown.
        number: the number that is shown of each; None for what each differs most in.

    """

    a: Profile
    b: Profile
    comparison: Comparison
    heads: Sequence[ComparedHead]
    number: str | None = None


def comparison_page(view: ComparisonView) -> RenderableType:
    """The whole screen: one head in all numbers where it is alone, else a line a head."""
    parts: list[RenderableType] = [Text("\n".join(_about(view))), Text()]
    if len(view.heads) == 1 and view.number is None:
        parts += _one(view.heads[0])
    else:
        parts += _all(view)
    return Group(*parts, Text(_LEGEND, style="dim"))


def _about(view: ComparisonView) -> list[str]:
    lines = [
        f"{name}     {legible.name(one.model)}: {several(len(one.heads), 'head')}, {several(one.documents, 'document')}"
        for name, one in (("a", view.a), ("b", view.b))
    ]
    lines += [f"note  {note}" for note in view.comparison.notes]
    for name, left in (("a", view.comparison.only_a), ("b", view.comparison.only_b)):
        if left:
            lines.append(f"only in {name}: {_named(left)}")
    return lines


def _named(heads: Sequence[HeadName]) -> str:
    few = ", ".join(f"{legible.name(head.layer)} {head.head}" for head in heads[:SHOWN_OF_LEFT])
    more = len(heads) - SHOWN_OF_LEFT
    return f"{few} and {more} more" if more > 0 else few


def _all(view: ComparisonView) -> list[RenderableType]:
    what = view.number or "what each head differs most in"
    table = table_of("layer", "head", "kind beyond the sink", *_HEADINGS, left=("kind beyond the sink", "number"))
    for head in view.heads:
        one = head.differences[view.number] if view.number else head.strongest
        table.add_row(str(head.layer), str(head.a.head), _kinds(head), *_cells(one))
    sure = sum(any(one.sure for one in head.differences.values()) for head in view.heads)
    changed = sum(head.changed_kind for head in view.heads)
    title = f"{what}: {len(view.heads)} heads, {sure} with a sure difference, {changed} of another kind"
    return [Text(title, style="bold"), table]


_HEADINGS = ("number", "a", "b", "b - a", "size", "p")


def _one(head: ComparedHead) -> list[RenderableType]:
    kinds = [
        f"{name} {where}  {kind}"
        for where, pair in (("beyond the sink", head.kinds), ("as a whole     ", head.whole_kinds))
        for name, kind in zip("ab", pair, strict=True)
    ]
    table: Table = table_of(*_HEADINGS, "documents", left=("number",))
    for one in head.differences.values():
        if not isnan(one.difference):
            table.add_row(*_cells(one), " and ".join(f"{count:,}" for count in one.documents))
    title = f"{title_of(head.a, head.layer)}: {legible.name(head.a.layer)}"
    return [Text(title, style="bold"), Text("\n".join(kinds)), Text(), table]


def _kinds(head: ComparedHead) -> str:
    one, other = head.kinds
    if one.name == other.name:
        return f"{one.name} {100 * one.share:.0f} % → {100 * other.share:.0f} %"
    return f"{kind_cell(one)} → {kind_cell(other)}"


def _cells(one: Difference) -> list[str]:
    means = [number_cell(one.number, value) for value in (one.a, one.b)]
    half = "" if isnan(one.low) else f" ± {number_cell(one.number, (one.high - one.low) / 2)}"
    p = "-" if isnan(one.probability) else f"{_chance(one.probability)}{'*' if one.sure else ' '}"
    size = "-" if isnan(one.size) else f"{one.size:+.1f}"
    return [number_title(one.number), *means, f"{_signed(one.number, one.difference)}{half}", size, p]


def _signed(number: str, value: float) -> str:
    return number_cell(number, value) if isnan(value) or value < 0 else f"+{number_cell(number, value)}"


def _chance(probability: float) -> str:
    return f"{probability:.3f}" if probability >= 0.001 else "<0.001"
