"""What the lists of a profile say, as objects with their text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pellucid.profiles.entries import Entries
from pellucid.profiles.excerpts import Excerpt


@dataclass(frozen=True)
class Row:
    """A query, and the keys that took most of it."""

    query: int  # position
    keys: tuple[int, ...]  # positions, strongest first
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Example:
    """One of the strongest of a head.

    Attributes:
        value: the number that it is strongest by.
        document: where it is from, with the tokens around it: `document.tokens` by position.
        query: the position of the query; None where it is about a key alone.
        key: the position of the key that took most of it; None where that is not known.
        weight: what that key took; NaN where that is not known.
        rows: the strongest keys of the query, and in a sequence of those around it.
        reads_source: whether queries are positions of `document.source_tokens`.
        sees_source: whether keys are.

    """

    value: float
    document: Excerpt
    query: int | None
    key: int | None
    weight: float
    rows: tuple[Row, ...]
    reads_source: bool = False
    sees_source: bool = False

    @property
    def query_token(self) -> str | None:
        """The query's token, if it is known."""
        return self._tokens(self.reads_source).get(-1 if self.query is None else self.query)

    @property
    def key_token(self) -> str | None:
        """The key's token, if it is known."""
        return self._tokens(self.sees_source).get(-1 if self.key is None else self.key)

    def _tokens(self, of_source: bool) -> dict[int, str]:
        return dict(self.document.source_tokens if of_source else self.document.tokens)


def examples(entries: Entries, documents: tuple[Excerpt, ...], reads_source: bool, sees_source: bool) -> list[Example]:
    """The entries of one list, strongest first.

    Args:
        entries: the list.
        documents: those that it names.
        reads_source: whether the head attends from the source.
        sees_source: whether it attends to the source.

    """
    found = []
    for place in range(entries.size):
        one = Entries(*(part[place] for part in entries))
        if int(one.document) >= 0:
            found.append(_example(one, documents, reads_source, sees_source))
    return found


def _example(one: Entries, documents: tuple[Excerpt, ...], reads_source: bool, sees_source: bool) -> Example:
    query, key = (None if int(part) < 0 else int(part) for part in (one.query, one.key))
    weight = torch.nan if key is None or query is None else float(one.weight)
    plain = (float(one.value), documents[int(one.document)], query, key, weight)
    return Example(*plain, tuple(_rows(one)), reads_source, sees_source)


def _rows(one: Entries) -> Iterator[Row]:
    for place, (keys, weights) in enumerate(zip(one.keys.tolist(), one.weights.tolist(), strict=True)):
        kept = [(key, weight) for key, weight in zip(keys, weights, strict=True) if key >= 0]
        if kept:
            yield Row(int(one.start) + place, *map(tuple, zip(*kept, strict=True)))
