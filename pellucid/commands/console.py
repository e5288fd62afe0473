"""Where the commands print, and the one gate to it: no text of others commands the terminal, whatever printed it.

Pages go through `console`, single lines to standard error through `tell`.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from pellucid import legible


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave a closed pipe to `pellucid.cli.main`; rich would exit by itself, with status 1."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments, of which those that are rich's own commands alone hold any."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else legible.lines(text), style, control)


def console() -> Console:
    """A console that prints what it is given: no markup, no emoji codes, no guessed highlights."""
    return _Console(markup=False, emoji=False, highlight=False)


def tell(message: str) -> None:
    """Print a line of the command's own to standard error."""
    print(f"pellucid: {legible.message(message)}", file=sys.stderr)


@contextmanager
def warnings_told() -> Iterator[None]:
    """Tell the warnings to users of what runs inside, on one line each, once it is over."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning):
        tell(f"warning: {text}")


@contextmanager
def bar(label: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error, if that is a terminal, for what is told the share that is done; gone at the end."""
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as shown:  # fmt: skip
        task = shown.add_task(label, total=1.0)
        yield lambda done: shown.update(task, completed=done)


def tell_view(named: str) -> None:
    """Print, as the last line, the command that opens the same in the browser."""
    console().print(f"\nin the browser: pellucid view {_quoted(named)}", soft_wrap=True)


def _quoted(word: str) -> str:
    """A word of a command line: in double quotes, as every shell has them, where that is enough."""
    quoted = shlex.quote(word)
    return f'"{word}"' if quoted != word and not set(word) & set('"$`\\!%\n') else quoted
