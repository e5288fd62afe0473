"""Documents in blocks, and a block's documents in batches.

What goes into a batch is decided by the corpus alone: a model computes a document's last digits a little differently in
another batch, and so every division of a corpus among processes, and every resuming, runs the same batches. A block is
the least that is done or not done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pellucid.profiles.corpus import Ranges, holds
from pellucid.profiles.reading.texts import Document
from pellucid.profiles.running.reader import Encoded

SIZE = 32  # documents of a block
FULLEST = 0.8  # no document of a batch is shorter than this share of the longest,
SPARE = 16  # unless it is no more tokens shorter than this


class Block(NamedTuple):
    """Documents that follow one another; none where they are another's to read, or done."""

    number: int
    documents: list[Document]
    stop: int  # the number after its last document
    share: float  # how much of the corpus has been read at its end


@dataclass(frozen=True)
class Shard:
    """Every `count`-th block, from the `index`-th on."""

    index: int = 0
    count: int = 1

    def owns(self, block: int) -> bool:
        """Whether a block is of the shard."""
        return block % self.count == self.index


def blocks(documents: Iterable[Document], shard: Shard, done: Ranges) -> Iterator[Block]:
    """All blocks of a corpus in order, with the documents of those that are to be read.

    Args:
        documents: all of the corpus.
        shard: which blocks.
        done: documents that were read before.

    """
    number, stop, share = 0, 0, 0.0
    held: list[Document] = []
    for document in documents:
        number, stop, share = document.number // SIZE, document.number + 1, document.share
        if shard.owns(number) and not holds(done, number * SIZE):
            held.append(document)
        if stop % SIZE == 0:
            yield Block(number, held, stop, share)
            held = []
    if stop % SIZE:
        yield Block(number, held, stop, share)


def batches(encoded: Sequence[Encoded], tokens: int, pads: bool) -> Iterator[list[int]]:
    """The places of the documents of each batch: those of about one length, longest first.

    Args:
        encoded: the documents.
        tokens: the most that a batch holds, padding counted; a longer document is alone.
        pads: whether lengths may differ within a batch.

    """
    order = sorted(range(len(encoded)), key=lambda place: ([-size for size in encoded[place].sizes], place))
    held: list[int] = []
    for place in order:
        sizes = encoded[place].sizes
        if held:
            most = encoded[held[0]].sizes
            fits = sizes[0] >= min(FULLEST * most[0], most[0] - SPARE) if pads else sizes == most
            if not fits or (len(held) + 1) * sum(most) > tokens:
                yield held
                held = []
        held.append(place)
    if held:
        yield held
