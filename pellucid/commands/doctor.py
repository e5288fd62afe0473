"""`pellucid doctor`: one screen to paste into a bug report."""

from __future__ import annotations

import argparse

from pellucid import legible
from pellucid.commands import machine
from pellucid.commands.errors import InputError
from pellucid.commands.reader import embedded_reader

DATE, ANSWER = "3 mars 1997", "1997-03-03"


def run(options: argparse.Namespace) -> int:
    """Print the report; the status is 1 if what it tried did not work."""
    lines = machine.report() | {"date reader": _reader_check()}
    width = max(map(len, lines))
    for name, value in lines.items():
        print(legible.one_line(f"{name.ljust(width)}  {value}"))
    return 0 if all(lines[check].startswith("ok") for check in ("self check", "date reader")) else 1


def _reader_check() -> str:
    try:
        answer = embedded_reader().read(DATE).answer
    except InputError as error:
        return f"FAILED: {error}"
    except Exception as error:  # whatever is broken here is what the bug report is about
        return f"FAILED: {type(error).__name__}: {error}"
    return f"{'ok' if answer == ANSWER else 'WRONG'}: reads {DATE!r} as {answer}"
