"""The command line: `pellucid show`, `view`, `watch`, `profile`, `merge`, `explain`, `lesson` and `doctor`.

Options are declared here and checked as far as they can be on their own, with the standard library alone, so that help
comes at once; `pellucid.commands` carries them out. A command's module is imported when it runs, and torch with it.

Exit status: 0; 1 for input that cannot be read or shown; 2 for wrong usage; 130 after Ctrl-C; 141 when nobody reads
the pipe any more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import fill
from types import ModuleType
from typing import Any, NoReturn

from pellucid import legible
from pellucid._version import __version__
from pellucid.commands.errors import InputError
from pellucid.commands.loading import ending_quietly
from pellucid.commands.profiles import compare_options
from pellucid.commands.profiles import options as profile_options

KINDS = ("cross", "encoder", "decoder")
POOLS = ("mean", "max")
RANDOM_LESSON = {"tokens": 10, "dim": 4, "context": 6, "seed": 0, "scale": None}
MOST = 1_000  # tokens, and numbers a token
MOST_LAYERS = 1 << 27  # and heads
HELP_WIDTH = 80
LARGEST_SEED = 2**63 - 1
LARGEST_SCALE = 100

SHOW_EXAMPLES = """\
examples:
  pellucid show "3 mars 1997"
  pellucid show "1997年3月3日" --attention encoder --layer 0 --head 2
  pellucid show "3 mars 1997" --save picture.svg
  pellucid show --file dates.txt --json
  pellucid show run.attn --layer 2 --head 5
  pellucid show run.attn --layer 2 --head 5 --queries 100:140 --save head.svg
  pellucid show run.attn --save heads.png
  pellucid show all.heads --sort induction_without_sink
  pellucid show all.heads --layer 2 --head 5
  echo "3 mars 1997" | pellucid show
"""
VIEW_EXAMPLES = """\
examples:
  pellucid view run.attn
  pellucid view before.attn after.attn
  pellucid view all.heads
  pellucid view "3 mars 1997"
  pellucid view run.attn --port 8123 --no-browser
  pellucid view run.attn --save page.html
"""
WATCH_EXAMPLES = """\
examples:
  pellucid watch --model ./my-model --text essay.txt --out run.attn
  pellucid watch --model ./my-translator --text german.txt --target english.txt --out run.attn
  pellucid watch --model ./my-model --text prompt.txt --segment rules=0:40 --keep "*.3.*" --out run.attn
  echo "3 mars 1997" | pellucid watch --text - --out date.attn
  pellucid view run.attn
"""
EXPLAIN_EXAMPLES = """\
examples:
  pellucid explain
  pellucid explain --tokens 5 --dim 3 --seed 7
  pellucid explain --scale 2
  pellucid explain --text "3 mars 1997" --head 1
  pellucid explain --page
"""
LESSON_EXAMPLES = """\
examples:
  pellucid lesson
  pellucid lesson induction
  pellucid lesson needle --save needle.html
"""
LESSONS = ("sink", "previous", "induction", "alignment", "needle")

Commands = Any  # argparse has no public name for what add_subparsers returns


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        _replace_what_cannot_be_encoded()
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except InputError as error:
        _tell(str(error))
        return 1
    except KeyboardInterrupt as interrupt:
        print(file=sys.stderr)
        _tell("; ".join(["interrupted", *map(str, interrupt.args)]))
        return 130
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _tell(message: str) -> None:
    from pellucid.commands.console import tell

    tell(message)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave with the usage and what is wrong, in which arguments are quoted."""
        super().error(legible.message(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pellucid", description="Exact attention that can be seen through.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"pellucid {__version__}")
    parser.set_defaults(run=lambda options: _no_command(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_show(commands)
    _add_view(commands)
    _add_watch(commands)
    profile_options.declare(partial(_add, commands, folder="profiles."))
    compare_options.declare(partial(_add, commands, folder="profiles."), _whole(0, MOST_LAYERS))
    _add_explain(commands)
    _add_lesson(commands)
    _add(commands, "doctor", "versions, processor and a self check, to paste into a bug report")
    return parser


def _no_command(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 2


def _add_show(commands: Commands) -> None:
    parser = _add(
        commands,
        "show",
        "read a date and show where the model looked, or show a record or a profile",
        "Reads dates as people write them, and prints each in ISO 8601 with the attention that found it: shaded by "
        "weight, a row for each query and a column for each key. Given a record, a folder that pellucid watch wrote, "
        "it shows what each of the model's heads did, and one head's map; given a profile, a file that pellucid "
        "profile wrote, what each did over a corpus.",
        SHOW_EXAMPLES,
    )
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="a date, a record or a profile; nothing or -: lines of stdin"
    )
    parser.add_argument("--file", metavar="PATH", help="read dates from a UTF-8 file, one on each line")
    parser.add_argument(
        "--attention", choices=KINDS, default="cross", help="a date's kind of attention (default: cross)"
    )
    layer = "the layer, counted from 0: of a date among those of its kind of attention (default: the last)"
    parser.add_argument("--layer", type=int, metavar="N", help=layer)
    parser.add_argument("--head", type=_head, metavar="N", help="the head, counted from 0 (default: the mean of all)")
    parser.add_argument("--json", action="store_true", help="print readouts of every layer and head as JSON")
    parser.add_argument("--sort", metavar="NUMBER", help="of a profile: order heads by a number, such as induction")
    parser.add_argument("--pool", choices=POOLS, help="of a record: what a cell of many weights shows (default: mean)")
    for axis in ("queries", "keys"):
        parser.add_argument(
            f"--{axis}", type=_span, metavar="A:B", help=f"of a record: only {axis} A up to B, counted from 0"
        )
    parser.add_argument(
        "--save", type=Path, metavar="PATH", help="draw every head, or with --head that one, into a .png, .svg or .pdf"
    )
    _check_with(parser, _check_show)


def _check_show(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.file is not None and options.text:
        parser.error("--file: replaces TEXT; give one of the two")
    if options.file is None and not options.text and (sys.stdin is None or sys.stdin.isatty()):
        parser.error('TEXT: give a date, as in: pellucid show "3 mars 1997"')


def _add_view(commands: Commands) -> None:
    parser = _add(
        commands,
        "view",
        "look at records, a profile or a date in the browser",
        "Opens records, folders that pellucid watch wrote, side by side on a page in the browser, or a profile, a file "
        "that pellucid profile wrote; without one the embedded model on a date. The page is served on this machine "
        "alone, at the address that is printed, until Ctrl-C.",
        VIEW_EXAMPLES,
    )
    parser.add_argument(
        "text", nargs="*", metavar="RECORD", help="records, a profile, or a date (default: 3 mars 1997)"
    )
    add_page_options(parser)


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """The options of whatever opens a page."""
    port = _whole(1, 65_535)
    parser.add_argument("--port", type=port, default=0, metavar="N", help="serve at this port (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    parser.add_argument("--save", type=Path, metavar="PATH", help="write one page that opens from disk, and end")


def _add_watch(commands: Commands) -> None:
    parser = _add(
        commands,
        "watch",
        "run a model over a text and keep what its attention did",
        "Runs a model over a text and writes what each head of each layer did to a folder, a record: entropy, where "
        "the weight went, what each token received, the strongest keys, a map, and with query and key any exact part. "
        "The model is one of the transformers library, or without --model the embedded date reader.",
        WATCH_EXAMPLES,
    )
    parser.add_argument("--model", metavar="PATH", help="a model's folder, or a name that transformers finds")
    parser.add_argument("--text", metavar="FILE", required=True, help="UTF-8 text to read; - for standard input")
    parser.add_argument("--target", metavar="FILE", help="what an encoder-decoder writes")
    parser.add_argument("--out", metavar="DIR", required=True, help="the record, such as run.attn")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace a record that is there")
    again.add_argument("--resume", action="store_true", help="go on with a record that is not complete")
    parser.add_argument(
        "--layers", metavar="NAME", nargs="+", help="only these layers; * stands for anything (default: all)"
    )
    parser.add_argument(
        "--keep",
        metavar="NAME",
        nargs="+",
        help="layers that keep query and key for exact weights; all, none (default: all for up to 4096 tokens)",
    )
    parser.add_argument(
        "--segment", type=_segment, action="append", metavar="NAME=A:B", help="name tokens A to B; may be repeated"
    )
    parser.add_argument("--truncate", action="store_true", help="cut a text that is longer than the model allows")


def _segment(text: str) -> tuple[str, slice]:
    """A named range of tokens: `prompt=0:10`, `answer=10:`."""
    name, _, place = text.partition("=")
    span = _range(place)
    if not name or span is None:
        raise argparse.ArgumentTypeError(f"must be a name and tokens, as in prompt=0:10, got {text!r}")
    return name, span


def _span(text: str) -> slice:
    """A range of tokens: `0:10`, `10:`."""
    span = _range(text)
    if span is None:
        raise argparse.ArgumentTypeError(f"must be a range, as in 0:10, got {text!r}")
    return span


def _range(text: str) -> slice | None:
    start, colon, stop = text.partition(":")
    numbers = [int(number) if number.strip().isdecimal() else None for number in (start, stop)]
    if not colon or any(n is None and text.strip() for n, text in zip(numbers, (start, stop), strict=True)):
        return None
    if None not in numbers and numbers[0] >= numbers[1]:  # type: ignore[operator]
        raise argparse.ArgumentTypeError(f"must end after it begins, got {text!r}")
    return slice(*numbers)


def _add_explain(commands: Commands) -> None:
    parser = _add(
        commands,
        "explain",
        "self- and cross-attention step by step, on small numbers",
        "Computes self-attention, then cross-attention, and shows every matrix on the way. The numbers are random, or "
        "with --text those of the embedded model's first layers.",
        EXPLAIN_EXAMPLES,
    )
    tokens = _whole(1, MOST)
    parser.add_argument("--tokens", type=tokens, metavar="N", help="length of the sequence (default: 10)")
    parser.add_argument("--dim", type=tokens, metavar="N", help="width of a token (default: 4)")
    parser.add_argument("--context", type=tokens, metavar="N", help="length of the second sequence (default: 6)")
    parser.add_argument("--seed", type=_whole(0, LARGEST_SEED), metavar="N", help="of the random numbers (default: 0)")
    parser.add_argument(
        "--scale",
        type=_scale,
        metavar="X",
        help="draw numbers around 0, those of W_q and W_k X times as large: 2 makes rows sharp (default: from 0 to 1)",
    )
    parser.add_argument("--text", metavar="TEXT", help="explain how the embedded model reads this date")
    parser.add_argument("--head", type=int, metavar="N", help="with --text, the head, counted from 0 (default: 0)")
    parser.add_argument("--page", action="store_true", help="in the browser, with numbers that can be changed")
    parser.add_argument("--no-browser", action="store_true", help="with --page, write the page and open nothing")
    parser.add_argument("--save", type=Path, metavar="PATH", help="write that page to a file, such as explain.html")
    _check_with(parser, _check_explain)


def _check_explain(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    given = [f"--{name}" for name in RANDOM_LESSON if getattr(options, name) is not None]
    if options.text is not None and given:
        parser.error(f"{given[0]}: is for random tokens; leave it out with --text")
    if options.text is None and options.head is not None:
        parser.error("--head: is for --text; random tokens have one head")
    if options.no_browser and not options.page:
        parser.error("--no-browser: is for --page")
    for name, default in RANDOM_LESSON.items():
        if getattr(options, name) is None:
            setattr(options, name, default)


def _add_lesson(commands: Commands) -> None:
    parser = _add(
        commands,
        "lesson",
        "what attention does in trained models, in five lessons",
        "Opens a lesson in the browser: a small trained model's attention, and a few steps through it. Without a name "
        "it lists the lessons.",
        LESSON_EXAMPLES,
    )
    parser.add_argument("name", nargs="?", choices=LESSONS, metavar="NAME", help=", ".join(LESSONS))
    add_page_options(parser)


def _add(
    commands: Commands,
    name: str,
    summary: str,
    description: str | None = None,
    examples: str | None = None,
    folder: str = "",
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=fill(description or f"{summary[0].upper()}{summary[1:]}.", HELP_WIDTH),
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=lambda options: _loaded(f"{folder}{name}").run(options))
    return parser


def _loaded(name: str) -> ModuleType:
    """A command's module."""
    with ending_quietly():
        return import_module(f"pellucid.commands.{name}")


def _check_with(
    parser: argparse.ArgumentParser, check: Callable[[argparse.ArgumentParser, argparse.Namespace], None]
) -> None:
    """Have options that depend on one another checked before the command runs."""
    run = parser.get_default("run")

    def checked(options: argparse.Namespace) -> int:
        check(parser, options)
        return int(run(options))

    parser.set_defaults(run=checked)


def _whole(least: int, most: int) -> Callable[[str], int]:
    """A converter to a whole number within limits."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text!r}")
        return number

    return convert


def _scale(text: str) -> float:
    """A factor of random numbers."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= LARGEST_SCALE:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to {LARGEST_SCALE}, got {text!r}")
    return number


def _head(text: str) -> int | str:
    """The number of a head, or `mean`."""
    if text == "mean":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be the number of a head, or mean, got {text!r}") from None


def _replace_what_cannot_be_encoded() -> None:
    """Print ? on an output that cannot hold a character, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
