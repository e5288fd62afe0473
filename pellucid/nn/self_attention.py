"""Self-attention: queries, keys and values are projected from one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid import masks
from pellucid.distributed.asked import is_shared_here
from pellucid.nn.cache import KeyValueCache
from pellucid.nn.from_torch import check_supported, projections
from pellucid.nn.heads import HeadedAttention, HeadSizes, check_tokens
from pellucid.nn.positions import MaskMod, ScoreMod, function_from, readouts_from
from pellucid.nn.rotary import Rotary

if TYPE_CHECKING:
    from pellucid.observation import Observation
    from pellucid.readouts.base import Readout

__all__ = ["SelfAttention"]


class SelfAttention(HeadedAttention):
    """Attention of a sequence to itself.

        query, key, value = projections of x, split into heads
        query, key        = RMS-normalised per head (qk_norm), then turned by their positions (rotary)
        output            = output projection of the heads' softmax(query @ key.T / sqrt(head_dim)) @ value

    The layer is batch-first: x is `[batch, length, embed_dim]`, or `[length, embed_dim]` for one sequence. One head of
    width 4 and nothing else, as textbooks begin, is `SelfAttention(4, 1, bias=False, output_projection=False)`.

    Args:
        embed_dim: width of a token.
        num_heads: query heads.
        kv_heads: key and value heads, each shared by a group of num_heads / kv_heads query heads; default num_heads.
        head_dim: width of a head; default embed_dim / num_heads.
        bias: whether the projections, the output's too, have one.
        output_projection: whether heads are mixed back to embed_dim; else the output is num_heads * head_dim wide.
        rotary: a `Rotary` (several layers may share one), or the base of a new one; default no positions.
        qk_norm: whether each head's queries and keys are RMS-normalised with a learned scale, before rotary.
        is_causal: whether a token attends only to itself and those before it.
        dropout: probability of dropping a weight in training mode.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: sizes that are not positive or do not divide, or a rotary of another head_dim.

    Example:
        >>> layer = SelfAttention(12, 6, kv_heads=2, rotary=10_000.0, is_causal=True)
        >>> layer(torch.rand(5, 7, 12)).shape
        torch.Size([5, 7, 12])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        output_projection: bool = True,
        rotary: Rotary | float | None = None,
        qk_norm: bool = False,
        is_causal: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            HeadSizes.resolve(embed_dim, num_heads, kv_heads, head_dim, context_dim=None),
            bias=bias,
            output_projection=output_projection,
            qk_norm=qk_norm,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )
        self.is_causal = is_causal
        self.rotary = _resolve_rotary(rotary, self.head_dim)

    @classmethod
    def from_torch(cls, source: nn.MultiheadAttention, *, is_causal: bool = False) -> SelfAttention:
        """A layer with copies of the weights of `source`, that gives the same numbers on the same sequence.

        Two things differ in the call: this layer is batch-first whatever `source.batch_first` says, and a bool
        `attn_mask` is True where attention is *allowed*, as in `scaled_dot_product_attention`; MultiheadAttention means
        the opposite. Its `key_padding_mask` is `attn_mask=~key_padding_mask[:, None, None]` here.

        Raises:
            ValueError: add_bias_kv, add_zero_attn, or keys of another width than embed_dim (see CrossAttention).
        """
        check_supported(source)
        if source.kdim != source.embed_dim:
            raise ValueError(
                f"source: its keys are {source.kdim} wide and its queries {source.embed_dim}, "
                "which is no self-attention. Use CrossAttention.from_torch."
            )
        layer = cls(
            source.embed_dim,
            source.num_heads,
            bias=source.in_proj_bias is not None,
            is_causal=is_causal,
            dropout=source.dropout,
            device="meta",
        )
        layer.load_state_dict(projections(source), assign=True)
        return layer.train(source.training)

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{super().extra_repr()}, is_causal={self.is_causal}"

    def forward(
        self,
        x: Tensor,
        *,
        attn_mask: Tensor | None = None,
        mask_mod: MaskMod | None = None,
        score_mod: ScoreMod | None = None,
        cache: KeyValueCache | None = None,
        observe: Sequence[Readout] | None = None,
    ) -> Tensor | tuple[Tensor, Observation]:
        """What each token gathered from the tokens it attends to.

        With a cache, x holds the tokens after those cached: they stand at positions `cache.length`, ..., attend to the
        cached keys too, and are added to the cache. Decoding a causal layer in steps of any size gives what one pass
        over the whole sequence gives. All functions of positions count queries and keys from the start of the sequence,
        so a mask_mod, a score_mod or an Expect readout means the same in a step as in one pass; tensors and slices
        (attn_mask, `Received(queries=...)`) count the queries of this call.

        Args:
            x: `[batch, length, embed_dim]` or `[length, embed_dim]`.
            attn_mask: bool (True: allowed) or added to the scores; broadcasts to `[batch, heads, length, keys]`.
            mask_mod: `(b, h, q_idx, kv_idx) -> bool`, in addition to is_causal and attn_mask.
            score_mod: `(score, b, h, q_idx, kv_idx) -> score`.
            cache: this layer's own, for these sequences; it is extended.
            observe: readouts to compute on the way.

        Returns:
            `[batch, length, embed_dim]` (num_heads * head_dim without output projection), unbatched as x is; with
            `observe` a pair of that and the Observation.

        Raises:
            ValueError: x of another rank or width, a cache filled with other shapes, or a filled one inside
                `context_parallel`.
            TypeError: x is not of a floating dtype.
        """
        check_tokens("x", x, self.embed_dim)
        start = 0 if cache is None else cache.length
        if start and is_shared_here():
            raise ValueError("cache: inside context_parallel it cannot be gone on with; its keys are this rank's alone")
        query = self._project_query(x)
        key, value = self._project_key_value(x)
        if self.rotary is not None:
            query, key = self.rotary(query, start), self.rotary(key, start)
        if cache is not None:
            key, value = cache.append(key, value)
        try:
            return self._attend(
                query,
                key,
                value,
                observe=observe if cache is None else readouts_from(observe, start),
                attn_mask=attn_mask,
                score_mod=function_from(score_mod, start),
                **self._masking(mask_mod, start, x.shape[-2]),
            )
        except BaseException:
            # A call that was refused or interrupted leaves the cache as it was, so that it can be made again.
            if cache is not None:
                cache.truncate(start)
            raise

    def _masking(self, mask_mod: MaskMod | None, start: int, length: int) -> dict[str, Any]:
        # is_causal is aligned at the first key, so it serves only a sequence that starts there; and a single query
        # at the end may look at all keys.
        if start == 0 or not self.is_causal:
            return {"mask_mod": function_from(mask_mod, start), "is_causal": self.is_causal}
        if length == 1:
            return {"mask_mod": function_from(mask_mod, start)}
        causal = masks.causal()
        return {"mask_mod": function_from(causal if mask_mod is None else causal & mask_mod, start)}


def _resolve_rotary(rotary: Rotary | float | None, head_dim: int) -> Rotary | None:
    if rotary is None:
        return None
    if isinstance(rotary, bool):
        raise TypeError("rotary: must be a Rotary or the base of one, as in rotary=10_000.0, got a bool.")
    if not isinstance(rotary, Rotary):
        return Rotary(head_dim, base=rotary)
    if rotary.head_dim != head_dim:
        raise ValueError(f"rotary: its head_dim {rotary.head_dim} must be the layer's {head_dim}.")
    return rotary
