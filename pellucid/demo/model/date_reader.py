"""The model that reads dates: an encoder-decoder Transformer, small enough to ship with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid import masks
from pellucid.demo.model.layers import CharacterEmbedding, DecoderCache, DecoderLayer, EncoderLayer, Record
from pellucid.demo.model.reading import Reading, read
from pellucid.demo.model.vocabulary import END, START, TARGET_OF_TOKEN, TARGET_TOKENS, Vocabulary

if TYPE_CHECKING:
    from pellucid.nn.positions import MaskMod
    from pellucid.readouts import Readout

LONGEST_ANSWER = 11  # "1997-03-03" and the end mark


@dataclass(frozen=True)
class Sizes:
    """The model's shape.

    Attributes:
        width: of a token's vector.
        heads: of each attention.
        hidden: width between the two linear maps of a feed-forward map.
        encoder_layers: how many.
        decoder_layers: how many.
        rotary: base of the rotary positions.
    """

    width: int = 128
    heads: int = 4
    hidden: int = 256
    encoder_layers: int = 3
    decoder_layers: int = 2
    rotary: float = 100.0


class DateReader(nn.Module):
    """Reads a date as people write it and writes it in ISO 8601, character by character.

    Args:
        characters: every character that it knows.
        sizes: its shape.
    """

    def __init__(self, characters: str, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.vocabulary = Vocabulary(characters)
        self.sizes = sizes = sizes or Sizes()
        layer_sizes = (sizes.width, sizes.heads, sizes.hidden, sizes.rotary)
        self.source_embedding = CharacterEmbedding(self.vocabulary, sizes.width)
        self.target_embedding = nn.Embedding(len(TARGET_TOKENS), sizes.width)
        self.encoder = nn.ModuleList(EncoderLayer(*layer_sizes) for _ in range(sizes.encoder_layers))
        self.encoder_norm = nn.LayerNorm(sizes.width)
        self.decoder = nn.ModuleList(DecoderLayer(*layer_sizes) for _ in range(sizes.decoder_layers))
        self.decoder_norm = nn.LayerNorm(sizes.width)
        self.output = nn.Linear(sizes.width, len(TARGET_TOKENS))

    def forward(
        self, source: Tensor, written: Tensor, lengths: Tensor | None = None, record: Record | None = None
    ) -> Tensor:
        """The score of every token as the next, after each token written.

        Args:
            source: numbers of the text's characters, `[batch, length]`.
            written: numbers of the start mark and the tokens after it, `[batch, written]`.
            lengths: characters of each text, `[batch]`, where some are padded.
            record: where attention is kept.

        Returns:
            Logits, `[batch, written, target tokens]`.
        """
        record = record or Record()
        return self.decode(written, self.encode(source, lengths, record), lengths, record)

    def encode(self, source: Tensor, lengths: Tensor | None = None, record: Record | None = None) -> Tensor:
        """What the encoder makes of the texts: `[batch, length, width]`."""
        x = self.source_embedding(source)
        for layer in self.encoder:
            x = layer(x, _padding_mask(lengths), record or Record())
        return self.encoder_norm(x)

    def decode(
        self,
        written: Tensor,
        text: Tensor,
        lengths: Tensor | None = None,
        record: Record | None = None,
        caches: Sequence[DecoderCache] | None = None,
    ) -> Tensor:
        """Logits of the next token after each of `written`, `[batch, written, target tokens]`.

        Args:
            written: numbers of the tokens, `[batch, written]`; with caches, only of those that they do not hold.
            text: what `encode` made of the texts, `[batch, length, width]`.
            lengths: characters of each text, `[batch]`, where some are padded.
            record: where attention is kept.
            caches: one for each layer of the decoder.
        """
        x = self.target_embedding(written)
        for index, layer in enumerate(self.decoder):
            x = layer(x, text, _padding_mask(lengths), record or Record(), caches[index] if caches else None)
        return self.output(self.decoder_norm(x))

    @torch.inference_mode()
    def write(self, source: Tensor, lengths: Tensor | None = None) -> list[str]:
        """The likeliest token, one after the other, until the end mark or the length of an answer.

        Args:
            source: numbers of the texts' characters, `[batch, length]`.
            lengths: characters of each text, `[batch]`, where some are padded.

        Returns:
            What was written for each text, end mark included.
        """
        text = self.encode(source, lengths)
        caches = [DecoderCache() for _ in self.decoder]
        token = torch.full_like(source[:, :1], TARGET_OF_TOKEN[START])
        answers = [""] * len(source)
        for _ in range(LONGEST_ANSWER):
            token = self.decode(token, text, lengths, caches=caches).argmax(-1)  # [batch, 1]
            answers = [
                answer if answer.endswith(END) else answer + TARGET_TOKENS[number]
                for answer, number in zip(answers, token[:, 0].tolist(), strict=True)
            ]
        return answers

    def read(self, text: str, readouts: Sequence[Readout] | None = None) -> Reading:
        """The date in a text, and how attention found it; see `reading.read`."""
        return read(self, text, readouts)


def _padding_mask(lengths: Tensor | None) -> MaskMod | None:
    return None if lengths is None else masks.key_lengths(lengths)
