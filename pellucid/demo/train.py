"""Train the model from nothing: `python -m pellucid.demo.train`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pellucid.demo import evaluate
from pellucid.demo.model.weights import load_reader, save_reader
from pellucid.demo.training.attending import ATTENTIONS
from pellucid.demo.training.steps import Settings, Training

SAVE_EVERY = 200
EXAMPLES = """examples:
  python -m pellucid.demo.train                         # about ten minutes on 2 cores; writes weights.safetensors
  python -m pellucid.demo.train --steps 300             # a minute, to see it learn
  python -m pellucid.demo.train                         # after Ctrl-C: goes on where it stopped
  python -m pellucid.demo.train --restart --seed 7      # forgets what was, starts from another seed
  python -m pellucid.demo.train --attention torch --out torch.safetensors   # on torch's attention, to compare the time
"""


@dataclass
class Interrupt:
    """Whether somebody asked to stop."""

    asked: bool = False


def train(training: Training, checkpoint: Path, console: Console, interrupt: Interrupt) -> bool:
    """Train to the end or until interrupted, saving on the way; whether the end was reached.

    Args:
        training: the model on its way, and how far it is to go.
        checkpoint: the file that it is saved in, every `SAVE_EVERY` steps and when it stops.
        console: where the bar is drawn.
        interrupt: asked before every step.
    """
    started, seconds_before = time.perf_counter(), training.seconds
    with _progress(console) as progress:
        bar = progress.add_task("Training", total=training.settings.steps, completed=training.step, loss="")
        while training.step < training.settings.steps and not interrupt.asked:
            loss = training.advance()
            training.seconds = seconds_before + time.perf_counter() - started
            progress.update(bar, completed=training.step, loss=f"loss {loss:.4f}")
            if training.step % SAVE_EVERY == 0:
                training.save(checkpoint)
    training.save(checkpoint)
    return training.step == training.settings.steps


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Turns the first Ctrl-C into a request, so that no step is torn apart; a second one ends the program."""
    interrupt = Interrupt()

    def ask(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the weights, print the table; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    evaluate.need_babel(parser)
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {str(options.out.parent)!r}. Make it first.")
    console = Console(markup=False, highlight=False, soft_wrap=True)
    torch.set_num_threads(options.threads)
    checkpoint = options.out.with_suffix(".checkpoint")
    settings = Settings(steps=options.steps, batch_size=options.batch, seed=options.seed, attention=options.attention)
    training = Training(settings)
    if checkpoint.exists() and not options.restart:
        try:
            training.restore(checkpoint)
        except ValueError as error:
            parser.error(str(error))
        console.print(f"Going on after step {training.step} of {checkpoint}")
    with interruptible() as interrupt:
        finished = train(training, checkpoint, console, interrupt)
    if not finished:
        console.print(
            f"Stopped after step {training.step}, saved in {checkpoint}. The same command goes on from there."
        )
        return 130
    save_reader(training.reader, options.out)
    minutes, seconds = divmod(round(training.seconds), 60)
    console.print(f"Trained in {minutes} min {seconds} s, on {settings.attention}'s attention.")
    console.print(f"Wrote {options.out} ({options.out.stat().st_size:,} bytes)")
    console.print(evaluate.table(list(evaluate.scores(load_reader(options.out), options.evaluate, console))))
    return 0


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pellucid.demo.train",
        description="Train the date reader on dates drawn from Babel's locale data, and print how well it reads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = Settings()
    parser.add_argument(
        "--out", type=Path, default=Path("weights.safetensors"), help="file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=evaluate.positive, default=defaults.steps, help="batches to learn from (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=evaluate.positive, default=defaults.batch_size, help="dates in a batch (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of weights and dates (default: %(default)s)")
    parser.add_argument(
        "--attention", choices=ATTENTIONS, default=defaults.attention, help="trained on whose (default: %(default)s)"
    )
    parser.add_argument("--threads", type=evaluate.positive, default=2, help="processor threads (default: %(default)s)")
    parser.add_argument(
        "--evaluate", type=evaluate.positive, default=2000, help="held-out dates a language (default: %(default)s)"
    )
    parser.add_argument(
        "--restart", action="store_true", help="start over even if there is a checkpoint beside the file"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
