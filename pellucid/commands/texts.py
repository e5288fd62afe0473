"""The dates that a command is given: on the command line, in a file, or through standard input, one on each line."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.commands.errors import about

LARGEST = 1 << 20  # bytes: some fifty thousand dates


@dataclass(frozen=True)
class GivenText:
    """One text, and where it stood if that was a line of a file or of standard input."""

    text: str
    source: str = ""
    line: int | None = None

    @property
    def place(self) -> str:
        """What a message about this text begins with."""
        return "" if self.line is None else f"{self.source}, line {self.line}: "


def from_words(words: Sequence[str]) -> list[GivenText]:
    """The words of the command line as one text, so that a date may go without quotes."""
    return [GivenText(" ".join(words))]


def from_file(path: str) -> list[GivenText]:
    """The lines of a UTF-8 file that are not blank.

    Raises:
        InputError: it cannot be read, is no UTF-8 text, is too large, or has no line but blank ones.
    """
    source = f"--file {path}"
    with about(f"{source}: "), open(path, "rb") as file:
        return _lines(file.read(LARGEST + 1), source)


def from_standard_input() -> list[GivenText]:
    """The lines of standard input, as `from_file` reads those of a file.

    Raises:
        InputError: see `from_file`.

    """
    source = "standard input"
    with about(f"{source}: "):
        return _lines(sys.stdin.buffer.read(LARGEST + 1), source)


def _lines(content: bytes, source: str) -> list[GivenText]:
    if len(content) > LARGEST:
        raise ValueError(f"is larger than {LARGEST >> 20} MiB; give fewer dates at a time")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at position {error.start}"
        raise ValueError(f"is no UTF-8 text ({byte}); save it as UTF-8") from error
    lines = enumerate(io.StringIO(text, newline=None), start=1)
    given = [GivenText(line.rstrip("\n"), source, number) for number, line in lines if line.strip()]
    if not given:
        raise ValueError("holds no date; write one on each line")
    return given
