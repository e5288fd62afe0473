"""The embedded model, loaded for a command."""

from __future__ import annotations

from pellucid import demo
from pellucid.commands.errors import about


def embedded_reader() -> demo.DateReader:
    """The date reader.

    Raises:
        InputError: its weights are missing or damaged.
    """
    with about("embedded model: "):
        return demo.load_reader()
