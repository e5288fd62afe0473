"""The results as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.goals import Verdict
from benchmarks.limits import Limits
from benchmarks.results import Measured, Raced

MARKS = {True: "✓", False: "✗", None: "?"}
COLOURS = {True: "green", False: "red", None: "yellow"}


@dataclass(frozen=True)
class Row:
    """One piece of work: what was measured and what was hoped for."""

    group: str
    result: Raced | Measured
    verdicts: list[Verdict]


def limits_table(limits: Limits) -> Table:
    """What the machine can do."""
    table = Table(title="the machine's limits", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in limits.per_second.items():
        table.add_row(name, f"{value / 1e9:.0f} {'GB/s' if 'read' in name else 'GFLOP/s'}")
    for size, value in limits.read_by_size.items():
        table.add_row(f"reading {_size(size)} again and again", f"{value / 1e9:.0f} GB/s")
    table.add_row("last cache", _size(limits.last_cache) if limits.last_cache else "unknown")
    return table


def results_table(rows: Iterable[Row]) -> Table:
    """A line for every contender: its time, its rate, how many times as long as ours it took, and the goal for that."""
    table = Table(title="attention side by side", title_justify="left", caption_justify="left")
    for heading in ("work", "contender", "median", "±", "rate", "of limit", "ratio", "error", "goal, measured"):
        table.add_column(heading, justify="left" if heading in ("work", "contender", "goal, measured") else "right")
    for row in rows:
        lines = _raced(row) if isinstance(row.result, Raced) else _measured(row)
        for number, line in enumerate(lines):
            table.add_row(row.result.name if number == 0 else "", *line, end_section=number == len(lines) - 1)
    table.caption = "ratio: how many times as long as the first line's; ±: half of the middle half of the rounds"
    return table


def summary(rows: Iterable[Row]) -> Text:
    """How many goals were met, and which were not, with what part of the limit a multiple of a peer would be."""
    told = [(row.result, verdict) for row in rows for verdict in row.verdicts]
    met = sum(verdict.met is True for _, verdict in told)
    open_ = sum(verdict.met is None for _, verdict in told)
    text = Text(f"{met} of {len(told)} goals met, {open_} not judged")
    for result, verdict in told:
        if verdict.met is not True:
            measured = verdict.reason if verdict.measured is None else f"{verdict.measured:.4g}"
            line = f"{MARKS[verdict.met]} {result.name}: {verdict.goal} ({verdict.beside}): {measured}"
            text.append(f"\n{line}{_asked_of_machine(result, verdict)}", COLOURS[verdict.met])
    return text


def _asked_of_machine(result: Raced | Measured, verdict: Verdict) -> str:
    """Of a goal that is a multiple of a peer's speed, what part of the machine's limit that speed is."""
    if not isinstance(result, Raced) or not verdict.at_least or verdict.beside == result.ours:
        return ""
    share = result.share(verdict.beside)
    return f"; asks for {verdict.bound * share:.0%} of the limit" if share is not None else ""


def document(rows: Iterable[Row], limits: Limits, machine: dict[str, str], missing: dict[str, str]) -> dict[str, Any]:
    """Everything, for JSON: seconds, operations a second, shares from 0 to 1."""
    return {
        "machine": machine,
        "limits": {
            "per_second": limits.per_second,
            "read_by_size": {str(size): value for size, value in limits.read_by_size.items()},
            "last_cache_bytes": limits.last_cache,
        },
        "missing": missing,
        "rows": [_as_json(row) for row in rows],
    }


def _as_json(row: Row) -> dict[str, Any]:
    result = row.result
    told: dict[str, Any] = {"group": row.group, "name": result.name, "notes": list(result.notes)}
    told["goals"] = [verdict._asdict() for verdict in row.verdicts]
    if isinstance(result, Measured):
        return told | {"quantities": result.values, "refused": result.refused}
    told |= {"amount": result.amount, "unit": result.unit, "limit": result.limit and result.limit.name}
    told["limit_per_second"] = result.limit and result.limit.per_second
    return told | {"contenders": [_contender(result, label) for label in result.labels]}


def _contender(result: Raced, label: str) -> dict[str, Any]:
    if label not in result.timed:
        return {"name": label, "refused": result.reason(label)}
    times = result.timed[label]
    return {
        "name": label,
        "median_s": times.median,
        "spread": times.spread,
        "seconds": times.seconds,
        "rate": result.rate(label),
        "share": result.share(label),
        "ratio": None if result.why_not(label) else result.ratio(label),
        "error": result.errors.get(label),
    }


def _raced(row: Row) -> list[list[Text | str]]:
    result = row.result
    assert isinstance(result, Raced)
    lines: list[list[Text | str]] = []
    for label in (label for label in result.labels if label not in result.absent):
        goals = _goals(row.verdicts, label)
        if label not in result.timed:
            lines.append([label, Text(result.reason(label), "red"), *[""] * 5, goals])
            continue
        times, share = result.timed[label], result.share(label)
        lines.append(
            [
                label,
                _seconds(times.median),
                f"{times.spread:.0%}",
                _rate(result, label),
                f"{share:.0%}" if share is not None else "",
                "" if result.why_not(label) else f"{result.ratio(label):.2f}",
                f"{result.errors[label]:.1e}" if label in result.errors else "",
                goals,
            ]
        )
    if result.absent:
        lines.append(
            [Text(f"not run: {', '.join(result.absent)}", "dim"), *[""] * 6, _goals(row.verdicts, *result.absent)]
        )
    lines.extend([Text(note, "dim"), *[""] * 7] for note in result.notes)
    return lines


def _measured(row: Row) -> list[list[Text | str]]:
    result = row.result
    assert isinstance(result, Measured)
    if result.refused:
        return [[Text(result.refused, "red"), *[""] * 6, _goals(row.verdicts)]]
    return [[name, f"{value:.3g}", *[""] * 5, _goals(row.verdicts, name)] for name, value in result.values.items()]


def _goals(verdicts: list[Verdict], *beside: str) -> Text:
    """Those that are printed beside these contenders or quantities; all of them if none is named."""
    text = Text()
    for verdict in verdicts:
        if not beside or verdict.beside in beside:
            measured = f", {verdict.measured:.4g}" if verdict.measured is not None else f", {verdict.reason}"
            text.append(f"{', ' if text else ''}{MARKS[verdict.met]} {verdict.goal}{measured}", COLOURS[verdict.met])
    return text


def _rate(result: Raced, label: str) -> str:
    rate = result.rate(label)
    return f"{rate / 1e9:.3g} {'GB/s' if result.unit == 'B' else 'GFLOP/s'}" if rate else ""


def _seconds(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _size(size: int) -> str:
    return f"{size // 2**20} MB" if size >= 2**20 else f"{size // 2**10} kB"
