"""Which documents of which corpus a profile has read, and which it could not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pellucid import legible
from pellucid.record.disk import schema

MOST_UNREAD = 1_000  # named in a profile; the others are counted

Ranges = tuple[tuple[int, int], ...]  # of documents, in order, apart from one another


class Unread(NamedTuple):
    """A document that was not read."""

    number: int  # in the corpus, from 0
    name: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """What was read of a corpus, whose documents are counted from 0 in the order in which it gives them.

    Attributes:
        name: what it is called.
        identity: a text that is another for another corpus.
        done: the documents that are in, read or not, as ranges `(start, stop)`.
        total: how many it has, if it was seen to its end.
        documents: how many were read.
        tokens: how many tokens they had, as the model was given them.
        cut: how many were longer than was allowed, and cut.
        cut_tokens: the tokens that were left out for that.
        unread_count: how many were not read.
        unread: the first of them.

    """

    name: str
    identity: str
    done: Ranges = ()
    total: int | None = None
    documents: int = 0
    tokens: int = 0
    cut: int = 0
    cut_tokens: int = 0
    unread_count: int = 0
    unread: tuple[Unread, ...] = field(default=())

    @property
    def is_complete(self) -> bool:
        """Whether all of it is in."""
        return self.total is not None and self.done == joined([(0, self.total)])

    def merged(self, other: Corpus) -> Corpus:
        """What both have read of one corpus.

        Raises:
            ValueError: a document is in both, or they disagree on how many there are.

        """
        twice = overlap(self.done, other.done)
        if twice is not None:
            raise ValueError(f"document {twice} of {legible.name(self.name)} is in both, and would count twice")
        if None not in (self.total, other.total) and self.total != other.total:
            raise ValueError(
                f"{legible.name(self.name)} has {self.total} documents in one and {other.total} in the other"
            )
        return replace(
            self,
            done=joined([*self.done, *other.done]),
            total=other.total if self.total is None else self.total,
            **{name: getattr(self, name) + getattr(other, name) for name in _ADDED},
            unread=tuple(sorted([*self.unread, *other.unread])[:MOST_UNREAD]),
        )

    def as_json(self) -> dict[str, Any]:
        """What a file says of it."""
        plain = {name: getattr(self, name) for name in ("name", "identity", "total", *_ADDED)}
        return plain | {"done": [list(one) for one in self.done], "unread": [one._asdict() for one in self.unread]}


_ADDED = ("documents", "tokens", "cut", "cut_tokens", "unread_count")
_COUNT = schema.whole(0, 1 << 60)
SCHEMA = schema.fields(
    {
        "name": schema.text,
        "identity": schema.text,
        "total": schema.nullable(_COUNT),
        **dict.fromkeys(_ADDED, _COUNT),
        "done": schema.list_of(schema.list_of(_COUNT, 2)),
        "unread": schema.list_of(schema.fields({"number": _COUNT, "name": schema.text, "reason": schema.text})),
    }
)


def corpus_of(entry: dict[str, Any]) -> Corpus:
    """What a file, of which SCHEMA was asked, says of a corpus.

    Raises:
        ValueError: its ranges are none, or are not as many documents as it says.

    """
    done = tuple((start, stop) for start, stop, *_ in entry["done"])
    if done != joined(done) or any(len(one) != 2 for one in entry["done"]):
        raise ValueError("done must be ranges that follow one another")
    unread = tuple(Unread(one["number"], one["name"], one["reason"]) for one in entry["unread"])
    added = {name: entry[name] for name in _ADDED}
    found = Corpus(entry["name"], entry["identity"], done, entry["total"], unread=unread, **added)
    if sum(stop - start for start, stop in done) != found.documents + found.unread_count:
        raise ValueError("documents and unread_count must be those of done")
    if len(found.unread) != min(found.unread_count, MOST_UNREAD) or list(found.unread) != sorted(found.unread):
        raise ValueError("unread must name those that unread_count counts, in order")
    return found


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same documents in as few ranges as can be, in order."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return tuple(found)


def overlap(one: Ranges, other: Ranges) -> int | None:
    """The first document that is in both, or None."""
    end = 0
    for start, stop in sorted([*one, *other]):
        if start < end:
            return start
        end = max(end, stop)
    return None


def holds(ranges: Ranges, number: int) -> bool:
    """Whether a document is in one of the ranges."""
    return any(start <= number < stop for start, stop in ranges)
