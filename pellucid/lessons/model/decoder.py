"""A small causal Transformer of `pellucid.nn`: it reads words and says which comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid.nn import SelfAttention

if TYPE_CHECKING:
    from pellucid.observation import Observation
    from pellucid.readouts import Readout

START = "<s>"  # the first token of every text


@dataclass(frozen=True)
class Sizes:
    """The model's shape.

    Attributes:
        width: of a token's vector.
        heads: of each layer.
        layers: how many, each of attention alone.
        rotary: base of the first layer's rotary positions. The layers after it have none and match by content, so that
            the model reads texts far longer than those that it was trained on.
    """

    width: int = 64
    heads: int = 2
    layers: int = 2
    rotary: float = 100.0


class Decoder(nn.Module):
    """Reads words and scores every word as the next.

    Args:
        words: all that it knows.
        sizes: its shape.
    """

    def __init__(self, words: Sequence[str], sizes: Sizes | None = None) -> None:
        super().__init__()
        self.words = tuple(words)
        self.sizes = sizes = sizes or Sizes()
        self._number_of = {word: number for number, word in enumerate(self.words)}
        self.embedding = nn.Embedding(len(self.words), sizes.width)
        self.layers = nn.ModuleList(_Layer(sizes, None if number else sizes.rotary) for number in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.output = nn.Linear(sizes.width, len(self.words))

    def forward(self, numbers: Tensor) -> Tensor:
        """The scores of every word as the next after each, `[batch, length, words]`, of `numbers` [batch, length]."""
        return self.observe(numbers, ())[0]

    def observe(self, numbers: Tensor, readouts: Sequence[Readout]) -> tuple[Tensor, list[Observation]]:
        """The same, and an observation a layer where there are readouts."""
        x, seen = self.embedding(numbers), []
        for layer in self.layers:
            x, *observed = layer(x, readouts)
            seen.append(observed)
        return self.output(self.norm(x)), list(chain.from_iterable(seen))

    def encode(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """The numbers of texts of one length, `[batch, length]`.

        Raises:
            ValueError: a word that the model does not know.
        """
        unknown = {word for text in texts for word in text} - self._number_of.keys()
        if unknown:
            raise ValueError(f"texts: the model knows no {min(unknown)!r}; it knows {', '.join(self.words[:8])}, …")
        return torch.tensor([[self._number_of[word] for word in text] for text in texts], device="cpu")


class _Layer(nn.Module):
    """Causal self-attention, added to its input (pre-norm)."""

    def __init__(self, sizes: Sizes, rotary: float | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes.width)
        self.attention = SelfAttention(sizes.width, sizes.heads, rotary=rotary, is_causal=True)

    def forward(self, x: Tensor, readouts: Sequence[Readout]) -> tuple[Tensor, ...]:
        if not readouts:
            return (x + self.attention(self.norm(x)),)
        gathered, seen = self.attention(self.norm(x), observe=readouts)
        return x + gathered, seen
