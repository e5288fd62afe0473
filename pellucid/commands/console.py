"""Where the commands print, and the one gate to it: no text of others commands the terminal, whatever printed it.

Pages go through `console`, single lines to standard error through `tell`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
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
