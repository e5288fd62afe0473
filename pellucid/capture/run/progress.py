"""How far a watched run is: an event for each layer observed, and a bar that shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from pellucid import legible


class Progress(NamedTuple):
    """One layer was observed."""

    layer: str
    done: int  # layers observed of this pass
    expected: int  # attention modules there are
    planned_bytes: int  # memory that readings and what is kept will take
    graph_bytes: int = 0  # what the graph of readings with gradients will hold beside that, until backward


Listener = Callable[[Progress], Any]


class Bar:
    """A bar in the terminal, on standard error, that first says what memory will be kept."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bar = RichProgress(*columns, console=Console(file=sys.stderr))
        self._task: Any = None

    def __call__(self, event: Progress) -> None:
        """Show that a layer was observed."""
        if self._task is None:
            held = f", and {in_words(event.graph_bytes)} for gradients until backward" if event.graph_bytes else ""
            self._bar.console.print(f"Watching keeps about {in_words(event.planned_bytes)}{held}.", highlight=False)
            self._bar.start()
            self._task = self._bar.add_task("layers", total=event.expected)
        self._bar.update(self._task, completed=event.done, total=event.expected, description=legible.name(event.layer))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def in_words(size: int) -> str:
    """A number of bytes for a reader: "1.5 GB"."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:.1f} {unit}"
