"""Train the lessons' models from nothing: `python -m pellucid.lessons.train all`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pellucid.lessons.model import save_decoder
from pellucid.lessons.training import TASKS, Training

EXAMPLES = """examples:
  python -m pellucid.lessons.train all                # some minutes on one core; writes lists and stories.safetensors
  python -m pellucid.lessons.train lists --seed 7     # one of them, from another seed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the weights; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.out.is_dir():
        parser.error(f"--out: there is no folder {str(options.out)!r}. Make it first.")
    torch.set_num_threads(options.threads)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for name in TASKS if options.name == "all" else [options.name]:
        training = Training(TASKS[name], steps=options.steps, seed=options.seed)
        cost = _run(name, training, console)
        path = options.out / f"{name}.safetensors"
        save_decoder(training.model, path)
        console.print(f"wrote {path} ({path.stat().st_size:,} bytes); at the end a word cost {cost:.4f} nats")
    return 0


def _run(name: str, training: Training, console: Console) -> float:
    """Train to the end; the last step's cost."""
    cost = float("nan")
    with _progress(console) as progress:
        bar = progress.add_task(name, total=training.steps, cost="")
        while training.step < training.steps:
            cost = training.advance()
            progress.update(bar, completed=training.step, cost=f"{cost:.4f} nats a word")
    return cost


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[cost]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pellucid.lessons.train",
        description="Train the models of the lessons: lists, for sink, previous and induction; stories, for needle.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*TASKS, "all"], help="which model")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--steps", type=positive, metavar="N", help="batches to learn from (default: the task's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and texts (default: 0)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="processor threads (default: 1)")
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
