"""The layers of the demo's Transformer, and the record that their attention can be kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid.demo.model.vocabulary import PADDING, SPECIAL, Vocabulary
from pellucid.nn import CrossAttention, KeyValueCache, SelfAttention

if TYPE_CHECKING:
    from pellucid.nn.positions import MaskMod
    from pellucid.observation import Observation
    from pellucid.readouts import Readout

KINDS = ("encoder", "decoder", "cross")


@dataclass
class Record:
    """Where attention is observed: the readouts to take, and what they told, by kind and layer."""

    readouts: Sequence[Readout] | None = None
    attention: dict[str, list[Observation]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def attend(self, kind: str, layer: nn.Module, *inputs: Tensor, **options: Any) -> Tensor:
        """The layer's output; its observation is kept if readouts are wanted.

        Args:
            kind: of attention, one of KINDS.
            layer: what attends, of `pellucid.nn`.
            *inputs: what it is called with.
            **options: the same, by name.
        """
        if self.readouts is None:
            return layer(*inputs, **options)
        output, observation = layer(*inputs, **options, observe=self.readouts)
        self.attention[kind].append(observation)
        return output


class CharacterEmbedding(nn.Module):
    """A vector for each character: its own plus its letter's, so that É, é and E need not be learned apart."""

    letter_of: Tensor

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.own = nn.Embedding(len(vocabulary), width, padding_idx=PADDING)
        self.letter = nn.Embedding(SPECIAL + len(vocabulary.letters), width, padding_idx=PADDING)
        self.register_buffer(
            "letter_of", torch.tensor(vocabulary.letter_of, device=torch.get_default_device()), persistent=False
        )

    def forward(self, characters: Tensor) -> Tensor:
        """[batch, length] numbers of characters as [batch, length, width]."""
        return self.own(characters) + self.letter(self.letter_of[characters])


class FeedForward(nn.Sequential):
    """Two linear maps with a GELU between: what each token makes of what it gathered."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """Self-attention over the text, then the feed-forward map, each added to its input (pre-norm).

    Args:
        width: of a character's vector.
        heads: of attention, which divide it.
        hidden: width between the two linear maps of the feed-forward map.
        rotary: base of the rotary positions.
    """

    def __init__(self, width: int, heads: int, hidden: int, rotary: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, rotary=rotary)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: Tensor, mask_mod: MaskMod | None, record: Record) -> Tensor:
        """`x` [batch, length, width] after the layer."""
        x = x + record.attend("encoder", self.attention, self.attention_norm(x), mask_mod=mask_mod)
        return x + self.feed_forward(self.feed_forward_norm(x))


@dataclass
class DecoderCache:
    """What a decoder layer keeps while it writes: its own tokens' keys and values, and the text's."""

    written: KeyValueCache = field(default_factory=KeyValueCache)
    text: KeyValueCache = field(default_factory=KeyValueCache)


class DecoderLayer(nn.Module):
    """Causal self-attention over what is written, cross-attention to the text, then the feed-forward map.

    Args:
        width: see `EncoderLayer`.
        heads: see `EncoderLayer`, of both attentions.
        hidden: see `EncoderLayer`.
        rotary: see `EncoderLayer`; of what is written, for cross-attention has no positions.
    """

    def __init__(self, width: int, heads: int, hidden: int, rotary: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, rotary=rotary, is_causal=True)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self, x: Tensor, text: Tensor, mask_mod: MaskMod | None, record: Record, cache: DecoderCache | None = None
    ) -> Tensor:
        """`x` [batch, written, width] after the layer.

        Args:
            x: vectors of what is written; with a cache, only of what that does not hold.
            text: what the encoder made of the text, [batch, length, width].
            mask_mod: which characters of the text are no padding; all if None.
            record: where attention is kept.
            cache: what the layer keeps from step to step.
        """
        written, of_text = (None, None) if cache is None else (cache.written, cache.text)
        x = x + record.attend("decoder", self.attention, self.attention_norm(x), cache=written)
        x = x + record.attend("cross", self.cross_attention, self.cross_norm(x), text, mask_mod=mask_mod, cache=of_text)
        return x + self.feed_forward(self.feed_forward_norm(x))
