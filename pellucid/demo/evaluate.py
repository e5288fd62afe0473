"""How often the model reads held-out dates exactly, by language: `python -m pellucid.demo.evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from pellucid.demo.data import cldr
from pellucid.demo.data.dates import LANGUAGE_CODES, Example, held_out_examples
from pellucid.demo.data.languages import LANGUAGE_OF_CODE
from pellucid.demo.model.date_reader import DateReader
from pellucid.demo.model.vocabulary import END
from pellucid.demo.model.weights import SHIPPED, load_reader
from pellucid.demo.training.batches import make_batch

BATCH_SIZE = 250
EXAMPLES = """examples:
  python -m pellucid.demo.evaluate
  python -m pellucid.demo.evaluate --count 200 --mistakes
  python -m pellucid.demo.evaluate --markdown > table.md
"""


@dataclass(frozen=True)
class Score:
    """How a model did on one language's held-out dates."""

    language: str
    count: int
    mistakes: tuple[tuple[Example, str], ...]  # what was read otherwise, and how

    @property
    def exact(self) -> float:
        """The share read exactly."""
        return 1.0 - len(self.mistakes) / self.count


def score(reader: DateReader, language: str, count: int = 2000, seed: int = 0) -> Score:
    """The model's score on `count` distinct held-out strings of a language.

    Args:
        reader: the model.
        language: its code, one of LANGUAGE_CODES.
        count: how many.
        seed: that they are drawn by.
    """
    examples = sorted(held_out_examples(language, count, seed), key=lambda example: len(example.text))
    answers = [
        answer
        for start in range(0, count, BATCH_SIZE)
        for answer in _read(reader, examples[start : start + BATCH_SIZE])
    ]
    pairs = zip(examples, answers, strict=True)
    return Score(language, count, tuple((example, answer) for example, answer in pairs if answer != example.iso))


def scores(reader: DateReader, count: int, console: Console) -> Iterator[Score]:
    """Every language's score, with a progress bar."""
    for language in track(LANGUAGE_CODES, "Reading held-out dates", console=console, transient=True):
        yield score(reader, language, count)


def table(results: Sequence[Score]) -> Table:
    """The scores as a table, with a last row for all languages together."""
    drawn = Table("language", show_footer=True)
    drawn.columns[0].footer = "all"
    drawn.add_column("held-out strings", f"{sum(result.count for result in results):,}", justify="right")
    drawn.add_column("exact", f"{_mean(results):.2%}", justify="right")
    for result in results:
        drawn.add_row(LANGUAGE_OF_CODE[result.language].name, f"{result.count:,}", f"{result.exact:.2%}")
    return drawn


def markdown(results: Sequence[Score]) -> str:
    """The same table for a page."""
    rows = [
        f"| {LANGUAGE_OF_CODE[result.language].name} | {result.count:,} | {result.exact:.2%} |" for result in results
    ]
    total = f"| **all** | {sum(result.count for result in results):,} | {_mean(results):.2%} |"
    return "\n".join(["| language | held-out strings | exact |", "| --- | ---: | ---: |", *rows, total])


def positive(text: str) -> int:
    """The whole number above 0 that an option was given."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def need_babel(parser: argparse.ArgumentParser) -> None:
    """End the program, saying why, where dates cannot be drawn."""
    try:
        cldr.babel()
    except ModuleNotFoundError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the shipped model, or of another one."""
    parser = _parser()
    options = parser.parse_args(arguments)
    need_babel(parser)
    console = Console(stderr=True)
    try:
        reader = load_reader(options.weights)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error).replace("path:", "--weights:"))
    results = list(scores(reader, options.count, console))
    if options.markdown:
        print(markdown(results))
    else:
        Console().print(table(results))
    if options.mistakes:
        for result in results:
            for example, answer in result.mistakes:
                print(f"{result.language}: {example.text!r} is {example.iso}, read {answer}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pellucid.demo.evaluate",
        description="Read held-out dates of every language and print how many were read exactly.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="the model's file (default: the shipped one)")
    parser.add_argument("--count", type=positive, default=2000, help="strings a language (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table for a Markdown page")
    parser.add_argument("--mistakes", action="store_true", help="list what was misread")
    return parser


def _read(reader: DateReader, examples: Sequence[Example]) -> list[str]:
    batch = make_batch(examples, reader.vocabulary)
    return [written.removesuffix(END) for written in reader.write(batch.source, batch.lengths)]


def _mean(results: Sequence[Score]) -> float:
    return sum(result.exact for result in results) / len(results)


if __name__ == "__main__":
    main()
