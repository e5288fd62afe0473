"""A block of documents, run through the model: its profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pellucid.capture.watching import watch
from pellucid.profiles import merging
from pellucid.profiles.corpus import MOST_UNREAD, Corpus, Unread, joined
from pellucid.profiles.layout import EXAMPLES, TOP, Layout
from pellucid.profiles.measuring import batch as measuring
from pellucid.profiles.measuring.classes import TokenClasses
from pellucid.profiles.measuring.measure import Measuring
from pellucid.profiles.profile import Profile, nothing
from pellucid.profiles.reading.texts import Document
from pellucid.profiles.running.blocks import Block, batches
from pellucid.profiles.running.reader import Encoded, Reader
from pellucid.readouts import TopK
from pellucid.record.layer import Layer

BATCH_TOKENS = 4096
PACKING = "none: each document is a sequence of its own"
CUT, SKIP = "cut", "skip"


@dataclass(frozen=True)
class Work:
    """What every block is done with, whoever does it.

    Attributes:
        corpus: its name and identity.
        model: what the profile calls the model.
        identity: the fingerprint of its weights.
        settings: what else the numbers depend on.
        patterns: the user's token classes.
        long: what becomes of a document that is longer than allowed, CUT or SKIP.
        batch_tokens: the most tokens of a batch.
        examples: how long the lists of the strongest are.

    """

    corpus: Corpus
    model: str
    identity: str
    settings: dict[str, Any] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)
    long: str = CUT
    batch_tokens: int = BATCH_TOKENS
    examples: int = EXAMPLES

    def blank(self) -> Profile:
        """The profile of nothing."""
        told = self.settings | {
            "packing": PACKING,
            "long": self.long,
            "batch_tokens": self.batch_tokens,
            "patterns": self.patterns,
        }
        layout = Layout((), TokenClasses(self.patterns).names, told, self.examples)
        return nothing(self.model, self.identity, layout, (self.corpus,))


@dataclass
class Missed:
    """The attention modules that no run saw, each with the reason."""

    reasons: dict[str, str] = field(default_factory=dict)


def block_profile(work: Work, reader: Reader, block: Block, missed: Missed | None = None) -> Profile:
    """The profile of a block's documents.

    Args:
        work: how.
        reader: the model.
        block: documents, at least one.
        missed: takes the attention modules that were not observed.

    """
    given, encoded, unread = _encoded(work, reader, block.documents)
    left_out = [one.left_out + (0 if one.source is None else one.source.left_out) for one in encoded]
    corpus = replace(
        work.corpus,
        done=joined([(block.documents[0].number, block.stop)]),
        documents=len(given),
        tokens=sum(sum(one.sizes) for one in encoded),
        cut=sum(count > 0 for count in left_out),
        cut_tokens=sum(left_out),
        unread_count=len(unread),
        unread=tuple(unread[:MOST_UNREAD]),
    )
    found = blank = work.blank()
    for places in batches(encoded, work.batch_tokens, reader.pads):
        own = [(given[place], encoded[place]) for place in sorted(places, key=lambda place: given[place].number)]
        found = found.merged(_batch_profile(work, reader, blank, own, missed))
    return merging.without_spare(found.merged(replace(blank, corpora=(corpus,))))


def _encoded(
    work: Work, reader: Reader, documents: Sequence[Document]
) -> tuple[list[Document], list[Encoded], list[Unread]]:
    """The documents that can be read, as tokens, and those that cannot."""
    given, found, unread = [], [], []
    for document in documents:
        encoded = _tokens(work, reader, document)
        if isinstance(encoded, str):
            unread.append(Unread(document.number, document.name, encoded))
        else:
            given.append(document)
            found.append(encoded)
    return given, found, unread


def _tokens(work: Work, reader: Reader, document: Document) -> Encoded | str:
    """A document's tokens, or why it cannot be read."""
    if document.text is None:
        return document.reason
    try:
        encoded = reader.encode(document.text, document.target)
    except ValueError as error:
        return str(error)
    texts = [encoded] if encoded.source is None else [encoded.source, encoded]
    for text in texts:
        if text.left_out and work.long == SKIP:
            return f"has {len(text.ids) + text.left_out} tokens, and {len(text.ids)} are allowed"
    if encoded.source is not None and len(encoded.ids) == 1:  # its attention would not show that it is causal
        return "its target has no token but the first, which is given"
    return encoded if all(text.ids for text in texts) else "has no token"


def _text(encoded: Encoded) -> measuring.Text:
    return measuring.Text(encoded.tokens, encoded.special)


def _batch_profile(
    work: Work, reader: Reader, blank: Profile, own: list[tuple[Document, Encoded]], missed: Missed | None
) -> Profile:
    documents = [
        measuring.Document(document.number, document.name, _text(encoded), encoded.source and _text(encoded.source))
        for document, encoded in own
    ]
    found = Measuring(documents, TokenClasses(work.patterns), work.examples)

    def take(layer: Layer) -> Layer:
        found.add(layer)
        return replace(layer, readings={}, sums=[], over_heads=[], parts=[])  # nothing of it is kept

    with torch.inference_mode(), watch(reader.model, keep=True, more=[TopK(TOP)], on_layer=take) as record:
        reader.run([encoded for _, encoded in own])
    if missed is not None:
        missed.reasons.update({one.name: one.reason for one in record.missed})
    return found.profile(blank, work.corpus)
