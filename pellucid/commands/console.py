"""Where the commands print: a terminal with colours, or plain text for a pipe or a file."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave a closed pipe to `pellucid.cli.main`; rich would exit by itself, with status 1."""
        raise BrokenPipeError


def console() -> Console:
    """A console that prints what it is given: no markup, no emoji codes, no guessed highlights."""
    return _Console(markup=False, emoji=False, highlight=False)
