"""The documents of one watched run: their texts, and where in the batch they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.profiles.excerpts import Excerpt
from pellucid.profiles.measuring.classes import TokenClasses


@dataclass(frozen=True)
class Text:
    """The tokens of a document, without padding."""

    tokens: tuple[str, ...]
    special: tuple[bool, ...]


@dataclass(frozen=True)
class Document:
    """A document of a batch.

    Attributes:
        number: in its corpus.
        name: what it is called.
        text: what the model reads, or, if it writes from a source, what it writes.
        source: that source.

    """

    number: int
    name: str
    text: Text
    source: Text | None = None

    def of_keys(self, role: str) -> Text:
        """What the keys of a layer of a role stand for."""
        return self.text if self.source is None or role == "causal self" else self.source

    def excerpt(self, corpus: str) -> Excerpt:
        """The document with all of its tokens."""
        source = None if self.source is None else self.source.tokens
        length = None if source is None else len(source)
        tokens = dict(enumerate(self.text.tokens))
        return Excerpt(corpus, self.number, self.name, len(tokens), length, tokens, dict(enumerate(source or ())))


@dataclass(frozen=True)
class Side:
    """The texts of one axis of a layer, as they stand in the batch.

    Attributes:
        first: the position of each sequence's first token, int64 [batch].
        length: how many it has, int64 [batch].

    """

    first: Tensor
    length: Tensor

    @staticmethod
    def of(padding: Tensor | None, batch: int, length: int, start: int = 0) -> Side:
        """Where the texts of an axis stand.

        Args:
            padding: which positions are padding, bool [batch, length]; None where none is.
            batch: sequences.
            length: positions.
            start: the first of them.

        """
        if padding is None:
            whole = torch.full((batch,), length, dtype=torch.int64, device="cpu")
            return Side(torch.full_like(whole, start), whole)
        real = ~padding.cpu()
        return Side(real.to(torch.uint8).argmax(-1) + start, real.sum(-1))

    def places(self, length: int, start: int = 0) -> Tensor:
        """Which token of its text each position is, int64 [batch, length]; of padding a number that no token has."""
        return torch.arange(start, start + length, device="cpu") - self.first[:, None]

    def bins(self, length: int, count: int, start: int = 0) -> Tensor:
        """The part of its text, of `count`, that each position is in, one-hot, float64 [batch, length, count]."""
        places = self.places(length, start)
        own = places * count // self.length.clamp(min=1)[:, None]
        inside = (places >= 0) & (places < self.length[:, None])
        hot = torch.nn.functional.one_hot(own.clamp(0, count - 1), count).double()
        return hot * inside[..., None]


def flags_of(texts: Sequence[Text], classes: TokenClasses, side: Side, length: int) -> Tensor:
    """The classes of each key of a batch, float64 [batch, length, classes]; 0 at padding.

    Args:
        texts: what the keys of each sequence stand for.
        classes: the token classes.
        side: where the texts stand.
        length: keys of a sequence.

    """
    found = torch.zeros(len(texts), length, len(classes.names), dtype=torch.float64, device="cpu")
    for row, text, first in zip(found, texts, side.first.tolist(), strict=True):
        own = classes.of(text.tokens, text.special)[: length - first]
        row[first : first + len(own)] = own
    return found
