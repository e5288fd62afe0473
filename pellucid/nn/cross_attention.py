"""Cross-attention: queries are projected from one sequence, keys and values from another, the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pellucid.nn.cache import KeyValueCache
from pellucid.nn.from_torch import check_supported, projections
from pellucid.nn.heads import HeadedAttention, HeadSizes, check_tokens
from pellucid.nn.positions import MaskMod, ScoreMod

if TYPE_CHECKING:
    from pellucid.observation import Observation
    from pellucid.readouts.base import Readout

__all__ = ["CrossAttention"]


class CrossAttention(HeadedAttention):
    """Attention of a sequence to another one, as of a decoder to the encoder's output.

        query      = projection of x, split into heads
        key, value = projections of the context, split into heads
        output     = output projection of the heads' softmax(query @ key.T / sqrt(head_dim)) @ value

    The layer is batch-first: x is `[batch, q_len, embed_dim]` and the context `[batch, k_len, context_dim]`, or both
    without batch.

    Args:
        embed_dim: width of a token of x.
        num_heads: query heads.
        context_dim: width of a token of the context; default embed_dim.
        kv_heads: key and value heads, each shared by a group of num_heads / kv_heads query heads; default num_heads.
        head_dim: width of a head; default embed_dim / num_heads.
        bias: whether the projections, the output's too, have one.
        output_projection: whether heads are mixed back to embed_dim; else the output is num_heads * head_dim wide.
        qk_norm: whether each head's queries and keys are RMS-normalised with a learned scale.
        dropout: probability of dropping a weight in training mode.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: sizes that are not positive or do not divide.

    Example:
        >>> layer = CrossAttention(12, 6, context_dim=5)
        >>> layer(torch.rand(3, 7, 12), torch.rand(3, 11, 5)).shape
        torch.Size([3, 7, 12])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        output_projection: bool = True,
        qk_norm: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            HeadSizes.resolve(embed_dim, num_heads, kv_heads, head_dim, context_dim),
            bias=bias,
            output_projection=output_projection,
            qk_norm=qk_norm,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_torch(cls, source: nn.MultiheadAttention) -> CrossAttention:
        """A layer with copies of the weights of `source`, that gives the same numbers on the same query and context.

        The context is both the key and the value of `source`, so its kdim and vdim must be equal. Two things differ in
        the call: this layer is batch-first whatever `source.batch_first` says, and a bool `attn_mask` is True where
        attention is *allowed*, as in `scaled_dot_product_attention`; MultiheadAttention means the opposite. Its
        `key_padding_mask` is `attn_mask=~key_padding_mask[:, None, None]` here.

        Raises:
            ValueError: add_bias_kv, add_zero_attn, or kdim and vdim that differ.
        """
        check_supported(source)
        layer = cls(
            source.embed_dim,
            source.num_heads,
            context_dim=source.kdim,
            bias=source.in_proj_bias is not None,
            dropout=source.dropout,
            device="meta",
        )
        layer.load_state_dict(projections(source), assign=True)
        return layer.train(source.training)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        mask_mod: MaskMod | None = None,
        score_mod: ScoreMod | None = None,
        cache: KeyValueCache | None = None,
        observe: Sequence[Readout] | None = None,
    ) -> Tensor | tuple[Tensor, Observation]:
        """What each token of x gathered from the context.

        An empty cache is filled with the context's keys and values, and a filled one is used instead of projecting the
        context again: the context may then be left out, and if it is given its numbers are not looked at. Positions
        of queries count from 0 in each call, because nothing here knows how many came before.

        Args:
            x: `[batch, q_len, embed_dim]` or `[q_len, embed_dim]`.
            context: `[batch, k_len, context_dim]` or `[k_len, context_dim]`, of the rank of x; a batch of 1 is shared.
            attn_mask: bool (True: allowed) or added to the scores; broadcasts to `[batch, heads, q_len, k_len]`.
            mask_mod: `(b, h, q_idx, kv_idx) -> bool`, in addition to attn_mask.
            score_mod: `(score, b, h, q_idx, kv_idx) -> score`.
            cache: this layer's own, for this context.
            observe: readouts to compute on the way.

        Returns:
            `[batch, q_len, embed_dim]` (num_heads * head_dim without output projection), unbatched as x is; with
            `observe` a pair of that and the Observation.

        Raises:
            ValueError: x or context of another rank or width, no context and no filled cache, or a context of another
                length than the cache's.
            TypeError: x or context is not of a floating dtype.
        """
        check_tokens("x", x, self.embed_dim)
        key, value = self._keys_of(context, cache)
        _check_same_batch(x, key)
        return self._attend(
            self._project_query(x),
            key,
            value,
            observe=observe,
            attn_mask=attn_mask,
            mask_mod=mask_mod,
            score_mod=score_mod,
        )

    def _keys_of(self, context: Tensor | None, cache: KeyValueCache | None) -> tuple[Tensor, Tensor]:
        if context is not None:
            check_tokens("context", context, self.context_dim)
        if cache is not None and cache.length > 0:
            _check_same_length(context, cache)
            return cache.key, cache.value
        if context is None:
            raise ValueError("context: missing. Give it, or a cache that an earlier call has filled.")
        key, value = self._project_key_value(context)
        return (key, value) if cache is None else cache.append(key, value)


def _check_same_batch(x: Tensor, key: Tensor) -> None:
    batch, context_batch = x.shape[:-2], key.shape[:-3]
    if len(batch) != len(context_batch) or (batch != context_batch and 1 not in (*batch, *context_batch)):
        raise ValueError(
            f"context: its batch {list(context_batch)} must be that of x, {list(batch)}, or [1]. "
            "Add a batch dimension with context[None]."
        )


def _check_same_length(context: Tensor | None, cache: KeyValueCache) -> None:
    if context is not None and context.shape[-2] != cache.length:
        raise ValueError(
            f"context: it has {context.shape[-2]} tokens and the cache was filled from {cache.length}. "
            "Start a new KeyValueCache for a new context."
        )
