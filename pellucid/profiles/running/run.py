"""A shard of a corpus, block after block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pellucid.profiles.corpus import Ranges
from pellucid.profiles.reading.texts import Document
from pellucid.profiles.running.blocks import Shard, blocks
from pellucid.profiles.running.keeping import Kept
from pellucid.profiles.running.reader import Reader
from pellucid.profiles.running.work import Missed, Work, block_profile


class Progress(NamedTuple):
    """How far a run is."""

    share: float  # of the corpus, of 1
    documents: int  # in the profile, read or not


def run(
    work: Work,
    reader: Reader,
    documents: Iterable[Document],
    kept: Kept,
    *,
    shard: Shard,
    elsewhere: Ranges = (),
    keeps_nothing: bool = True,
    told: Callable[[Progress], object],
) -> tuple[int, Missed]:
    """Read what a shard has still to read, and keep it.

    Args:
        work: how.
        reader: the model.
        documents: all of the corpus, in order.
        kept: what there is already, and where it is kept.
        shard: which part of the corpus.
        elsewhere: documents that others have read.
        keeps_nothing: whether there is a file too if the shard has no document to read.
        told: called after each block, with how far the run is.

    Returns:
        How many documents the corpus has, and the attention modules that were not observed.

    Raises:
        ProfileError: the file cannot be written.
        ValueError: the model has no attention that can be observed.

    """
    missed, total = Missed(), 0
    done = (*kept.profile.corpora[0].done, *elsewhere)
    for block in blocks(documents, shard, done):
        total = block.stop
        if block.documents:
            kept.add(block_profile(work, reader, block, missed))
        told(Progress(block.share, kept.done))
    if total and (keeps_nothing or kept.profile.corpora[0].done):
        kept.end(total)
    return total, missed
