"""The command: everything, or some groups of it, in one run.

python -m benchmarks [--only float32,decode] [--rounds 15] [--threads 2] [--json FILE] [--plots DIRECTORY] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import contenders
from benchmarks.limits import Limits
from benchmarks.limits.measure import measure
from benchmarks.measuring import machine, run
from benchmarks.measuring.timing import Plan
from benchmarks.reporting import plots, report
from benchmarks.reporting.report import Row
from benchmarks.work import Race, Work
from benchmarks.works import GROUPS

ROUNDS, QUICK_ROUNDS = 15, 5
WIDE = 240  # columns of the table where it is not printed to a terminal
SECONDS, QUICK_SECONDS = 15.0, 2.0  # of one race, after which five rounds are enough
Chosen = list[tuple[str, Work]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 130 if it was interrupted."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    os.environ["NPROC"] = str(options.threads)  # XLA's threads, read when it starts
    chosen = _chosen(options)
    plan = Plan(
        options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS), QUICK_SECONDS if options.quick else SECONDS
    )
    missing = contenders.missing()
    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    out, progress_out = Console(width=None if fits else WIDE), Console(stderr=True)
    for name, reason in missing.items():
        progress_out.print(f"{name} is left out: {reason}")
    with torch.no_grad():
        limits = measure(options.threads)
        out.print(machine.short(), report.limits_table(limits))
        rows: list[Row] = []
        interrupted = _collect(rows, chosen, limits, missing, plan, progress_out)
    _publish(rows, limits, missing, options, out)
    return 130 if interrupted else 0


def _collect(
    rows: list[Row], chosen: Chosen, limits: Limits, missing: dict[str, str], plan: Plan, console: Console
) -> bool:
    """Put a row for each piece of work into `rows`; whether Ctrl-C ended that early."""
    try:
        rows.extend(_measured(chosen, limits, missing, plan, console))  # keeps what came before an interruption
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(rows)} of {len(chosen)} measured")
        return True
    return False


def _measured(chosen: Chosen, limits: Limits, missing: dict[str, str], plan: Plan, console: Console) -> Iterator[Row]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(chosen))
        for group, work in chosen:
            progress.update(bar, description=f"{group}: {work.name}")
            yield _row(group, work, limits, missing, plan)
            progress.advance(bar)


def _row(group: str, work: Work, limits: Limits, missing: dict[str, str], plan: Plan) -> Row:
    if isinstance(work, Race):
        raced = run.race(work, limits, missing, plan)
        return Row(group, raced, [goal.judge(raced) for goal in work.goals])
    measured = run.measure(work)
    return Row(group, measured, [goal.judge(measured.values) for goal in work.goals])


def _publish(
    rows: list[Row], limits: Limits, missing: dict[str, str], options: argparse.Namespace, out: Console
) -> None:
    """Tables on standard output; JSON and pictures where they were asked for."""
    out.print(report.results_table(rows), report.summary(rows))
    document = report.document(rows, limits, machine.description(), missing)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plots:
        for path in plots.draw(document, options.plots):
            out.print(f"drawn: {path}")


def _chosen(options: argparse.Namespace) -> Chosen:
    return [(group, work) for group in options.only for work in GROUPS[group]()]


def _groups(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {number}")
    return number


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Attention side by side: pellucid and its peers on the same tensors, taking turns.",
        epilog=f"groups: {', '.join(GROUPS)}",
    )
    parser.add_argument("--only", metavar="GROUPS", type=_groups, default=list(GROUPS), help="separated by commas")
    parser.add_argument("--rounds", metavar="N", type=_positive, help=f"of each race, {ROUNDS} unless told")
    parser.add_argument("--threads", metavar="N", type=_positive, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything, with machine and versions")
    parser.add_argument("--plots", metavar="DIRECTORY", type=Path, help="draw pictures")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
