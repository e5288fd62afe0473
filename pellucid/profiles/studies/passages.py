"""The text of an example: stretches of tokens around its query and the keys that it names, in the order of the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pellucid.profiles.excerpts import AFTER, AROUND, BEFORE
from pellucid.profiles.listing import Example


@dataclass(frozen=True)
class Piece:
    """A token of a passage.

    Attributes:
        position: in its text.
        token: None where it was not kept.
        weight: what it takes of the query, in a sequence of any; None where it is none of the strongest keys.
        is_query: whether it is the query.
        is_key: whether it is the key that the example is about.

    """

    position: int
    token: str | None
    weight: float | None = None
    is_query: bool = False
    is_key: bool = False


@dataclass(frozen=True)
class Passage:
    """Tokens that follow one another.

    Attributes:
        of_source: whether it is of the text that cross-attention looks at.
        pieces: its tokens.
        apart: whether tokens of the text hold no spaces of their own, and have one between them to be read.

    """

    of_source: bool
    pieces: tuple[Piece, ...]
    apart: bool = False

    def spaced(self) -> Iterator[tuple[Piece, bool]]:
        """Its tokens, each with whether a space is to stand before it; before none that goes on a word, as ##s does."""
        for place, piece in enumerate(self.pieces):
            yield piece, self.apart and place > 0 and not (piece.token or "").startswith("##")

    @property
    def text(self) -> str:
        """Its tokens as a text."""
        return "".join((" " if space else "") + (piece.token or "") for piece, space in self.spaced())

    def as_json(self) -> dict[str, Any]:
        """The same in plain values."""
        pieces = [[p.position, p.token, p.weight, p.is_query, p.is_key] for p in self.pieces]
        return {"of_source": self.of_source, "apart": self.apart, "pieces": pieces}


def passages(example: Example) -> list[Passage]:
    """The passages of an example; none of what was not kept."""
    weights = _weights(example)
    found = []
    for of_source in (False, True):
        known = dict(example.document.source_tokens if of_source else example.document.tokens)
        apart = not any(character.isspace() for token in known.values() for character in token)
        wanted = {at for at in _wanted(example, weights, of_source) if at in known}
        for run in _runs(sorted(wanted)):
            pieces = tuple(_piece(example, weights, of_source, at, known[at]) for at in run)
            found.append(Passage(of_source, pieces, apart))
    return found


def _weights(example: Example) -> dict[int, float]:
    """What each of the strongest keys takes of the query; of a sequence, the most that it takes of any."""
    found: dict[int, float] = {}
    for row in example.rows:
        for key, weight in zip(row.keys, row.weights, strict=True):
            found[key] = max(weight, found.get(key, 0.0))
    return found


def _wanted(example: Example, weights: dict[int, float], of_source: bool) -> Iterator[int]:
    """The positions of one text that the passages show."""
    if example.query is not None and example.reads_source is of_source:
        yield from range(example.query - BEFORE, example.query + AFTER + 1)
        yield from (row.query for row in example.rows)
    if example.sees_source is of_source:
        for key in {*weights, *([] if example.key is None else [example.key])}:
            yield from range(key - AROUND, key + AROUND + 1)


def _runs(positions: list[int]) -> Iterator[list[int]]:
    """Positions in runs of neighbours."""
    run: list[int] = []
    for at in positions:
        if run and at != run[-1] + 1:
            yield run
            run = []
        run.append(at)
    if run:
        yield run


def _piece(example: Example, weights: dict[int, float], of_source: bool, at: int, token: str) -> Piece:
    sees = example.sees_source is of_source
    return Piece(
        at,
        token,
        weights.get(at) if sees else None,
        is_query=example.reads_source is of_source and at == example.query,
        is_key=sees and at == example.key,
    )
