"""The query of one request, read parameter by parameter; what cannot be used is refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pellucid import legible
from pellucid.record.layer import Layer
from pellucid.record.record import Record


class RefusedError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status that says what kind of refusal it is.

    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(legible.message(message))
        self.status = status


@dataclass(frozen=True)
class Asked:
    """A request: its parameters, text by name, and its path."""

    query: Mapping[str, str]
    path: str = ""

    def whole(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number of a parameter.

        Args:
            name: of the parameter.
            least: that it may be.
            most: that it may be.
            default: where it is not given; it must be if None.

        Raises:
            RefusedError: it is none.

        """
        text = self.query.get(name)
        if text is None and default is not None:
            return default
        number = int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 16 else -1
        if not least <= number <= most:
            raise RefusedError(f"{name}: must be a whole number from {least} to {most}, got {legible.quoted(text)}")
        return number

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """One of some words, the first where none is given. Raises RefusedError."""
        text = self.query.get(name, choices[0])
        if text not in choices:
            raise RefusedError(f"{name}: must be one of {', '.join(choices)}, got {legible.quoted(text)}")
        return text

    def span(self, name: str, length: int) -> slice:
        """A range `a:b` of neighbours within a length. Raises RefusedError."""
        text = self.query.get(name, f"0:{length}")
        start, colon, stop = text.partition(":")
        ends = [int(end) if end.isascii() and end.isdecimal() and len(end) < 16 else -1 for end in (start, stop)]
        if not colon or not 0 <= ends[0] < ends[1] <= length:
            raise RefusedError(
                f"{name}: must be a range a:b within 0:{length}, got {legible.quoted(self.query.get(name))}"
            )
        return slice(*ends)

    def layer(self, record: Record) -> Layer:
        """The layer of a record that is asked for by its number. Raises RefusedError."""
        if not len(record):
            raise RefusedError("layer: the record holds none yet", 404)
        return record[self.whole("layer", 0, len(record) - 1)]

    def heads(self, layer: Layer) -> list[int]:
        """Places of heads, as `3`, `0,2` or `all`. Raises RefusedError."""
        text = self.query.get("heads", "all")
        if text == "all":
            return list(range(layer.heads))
        parts = text.split(",")
        are_numbers = all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts)
        if len(parts) > layer.heads or not are_numbers or max(map(int, parts)) >= layer.heads:
            rule = f"must be all, or numbers from 0 to {layer.heads - 1}, each once"
            raise RefusedError(f"heads: {rule}; got {legible.quoted(text)}")
        return list(dict.fromkeys(map(int, parts)))

    def sequence(self, batch: int) -> int:
        """A sequence of the batch. Raises RefusedError."""
        return self.whole("sequence", 0, max(batch - 1, 0), 0)
