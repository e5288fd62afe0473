"""The documents that a profile's lists name, with the tokens around what they name and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.profiles.entries import Entries
from pellucid.record.disk import schema

BEFORE, AFTER = 24, 8  # tokens around a query
AROUND = 4  # tokens on either side of a key
LARGEST = 1 << 28  # of a position

Tokens = Mapping[int, str]  # by position


@dataclass(frozen=True, order=True)
class Excerpt:
    """A document, and some of its tokens.

    Attributes:
        corpus: the identity of its corpus.
        number: its number there.
        name: what it is called.
        length: its tokens, as the model was given them.
        source_length: those of what cross-attention looks at; None where there is no such text.
        tokens: some of its tokens, by position.
        source_tokens: some of those, by position.

    """

    corpus: str
    number: int
    name: str = field(compare=False)
    length: int = field(compare=False)
    source_length: int | None = field(default=None, compare=False)
    tokens: Tokens = field(default_factory=dict, compare=False)
    source_tokens: Tokens = field(default_factory=dict, compare=False)

    def text(self, start: int, stop: int, *, source: bool = False) -> list[str | None]:
        """The tokens of positions `start` to before `stop`, None where they were not kept."""
        known = self.source_tokens if source else self.tokens
        return [known.get(position) for position in range(start, stop)]

    def of_tokens(self, own: Iterable[int], source: Iterable[int]) -> Excerpt:
        """The same with the tokens of these positions, as far as they are known."""
        kept = {p: self.tokens[p] for p in own if p in self.tokens}
        kept_source = {p: self.source_tokens[p] for p in source if p in self.source_tokens}
        plain = (self.corpus, self.number, self.name, self.length, self.source_length)
        return Excerpt(*plain, kept, kept_source)


def needed(entries: Entries, reads_source: Tensor, sees_source: Tensor) -> Tensor:
    """The tokens that lists of heads name, ascending int64: (2 · document + (1 if of the source)) · LARGEST + position.

    Args:
        entries: lists [heads, ...].
        reads_source: whether the queries of each head are of the source, bool [heads].
        sees_source: the same of its keys.

    """
    found = []
    shape = (-1, *[1] * (entries.value.ndim - 1))
    of_query, of_key = reads_source.view(shape), sees_source.view(shape)
    rows = torch.arange(entries.keys.shape[-2], device="cpu")
    own_rows = entries.start[..., None] + rows
    is_row = (entries.query[..., None] >= 0) & (entries.keys[..., 0] >= 0)
    around = torch.arange(-BEFORE, AFTER + 1, device="cpu")
    near = torch.arange(-AROUND, AROUND + 1, device="cpu")
    found.append(_codes(entries, entries.query[..., None] + around, entries.query[..., None] >= 0, of_query))
    found.append(_codes(entries, own_rows, is_row, of_query))
    found.append(_codes(entries, entries.key[..., None] + near, entries.key[..., None] >= 0, of_key))
    keys = entries.keys.flatten(-2)
    found.append(_codes(entries, keys, keys >= 0, of_key))
    return torch.unique(torch.cat(found))


def _codes(entries: Entries, positions: Tensor, known: Tensor, of_source: Tensor) -> Tensor:
    documents = entries.document[..., None]
    codes = (2 * documents + of_source[..., None]) * LARGEST + positions
    return codes[known.expand_as(codes) & (documents >= 0) & (positions >= 0) & (positions < LARGEST)]


def kept(documents: list[Excerpt], codes: Tensor) -> tuple[list[Excerpt], Tensor]:
    """The documents that are named, with the tokens that are, and where each of the given ones stands now.

    Args:
        documents: in order.
        codes: what `needed` found.

    """
    places = torch.full((len(documents),), -1, dtype=torch.int64, device="cpu")
    wanted: dict[int, tuple[list[int], list[int]]] = {}
    for code in codes.tolist():
        text, position = divmod(code, LARGEST)
        wanted.setdefault(text // 2, ([], []))[text % 2].append(position)
    for new, old in enumerate(sorted(wanted)):
        places[old] = new
    return [documents[old].of_tokens(*wanted[old]) for old in sorted(wanted)], places


# In a file.

_SPANS = schema.list_of(schema.fields({"start": schema.whole(0, LARGEST), "tokens": schema.list_of(schema.text, 1)}))
_LENGTH = schema.whole(0, LARGEST)
SCHEMA = schema.fields(
    {
        "corpus": schema.text,
        "number": schema.whole(0, 1 << 60),
        "name": schema.text,
        "length": _LENGTH,
        "source_length": schema.nullable(_LENGTH),
        "text": _SPANS,
        "source_text": _SPANS,
    }
)


def as_json(excerpt: Excerpt) -> dict[str, Any]:
    """What a file says of a document."""
    return {
        "corpus": excerpt.corpus,
        "number": excerpt.number,
        "name": excerpt.name,
        "length": excerpt.length,
        "source_length": excerpt.source_length,
        "text": _spans(excerpt.tokens),
        "source_text": _spans(excerpt.source_tokens),
    }


def excerpt_of(entry: dict[str, Any]) -> Excerpt:
    """What a file, of which SCHEMA was asked, says of a document."""
    plain = (entry["corpus"], entry["number"], entry["name"], entry["length"], entry["source_length"])
    return Excerpt(*plain, _tokens(entry["text"]), _tokens(entry["source_text"]))


def _spans(tokens: Tokens) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for position in sorted(tokens):
        if found and found[-1]["start"] + len(found[-1]["tokens"]) == position:
            found[-1]["tokens"].append(tokens[position])
        else:
            found.append({"start": position, "tokens": [tokens[position]]})
    return found


def _tokens(spans: list[dict[str, Any]]) -> dict[int, str]:
    return {span["start"] + place: token for span in spans for place, token in enumerate(span["tokens"])}
