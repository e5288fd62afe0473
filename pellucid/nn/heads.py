"""What self- and cross-attention share: the way into heads, the attention call, and the way back.

Nothing here knows where keys come from, how positions are told apart or what is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid.functional import attention
from pellucid.functional import observe as observed_attention
from pellucid.nn import sharded

if TYPE_CHECKING:
    from pellucid.observation import Observation
    from pellucid.readouts.base import Readout

__all__ = ["HeadNorm", "HeadSizes", "HeadedAttention", "check_tokens", "merge_heads", "split_heads"]


def split_heads(x: Tensor, heads: int, head_dim: int) -> Tensor:
    """`[..., length, heads * head_dim]` as `[..., heads, length, head_dim]`, without a copy."""
    return x.view(*x.shape[:-1], heads, head_dim).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """`[..., heads, length, head_dim]` as `[..., length, heads * head_dim]`."""
    return x.transpose(-3, -2).flatten(-2)


@dataclass(frozen=True)
class HeadSizes:
    """The sizes of a layer: `num_heads` query heads in groups that share one of `kv_heads` key and value heads.

    Attributes:
        embed_dim: width of a token that asks.
        num_heads: query heads.
        kv_heads: key and value heads, which divide them.
        head_dim: width of a head, in query, key and value.
        context_dim: width of a token that keys and values come from.
    """

    embed_dim: int
    num_heads: int
    kv_heads: int
    head_dim: int
    context_dim: int

    @classmethod
    def resolve(
        cls, embed_dim: int, num_heads: int, kv_heads: int | None, head_dim: int | None, context_dim: int | None
    ) -> HeadSizes:
        """The sizes with their defaults filled in.

        Args:
            embed_dim: width of a token that asks.
            num_heads: query heads.
            kv_heads: key and value heads; num_heads if None.
            head_dim: width of a head; embed_dim / num_heads if None.
            context_dim: width of a token that keys and values come from; embed_dim if None.

        Raises:
            ValueError: a size is not positive, the groups are unequal, or the heads do not divide embed_dim.
        """
        given = {
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "kv_heads": num_heads if kv_heads is None else kv_heads,
            "context_dim": embed_dim if context_dim is None else context_dim,
        }
        for name, size in given.items():
            if size <= 0:
                raise ValueError(f"{name}: must be positive, got {size}.")
        if num_heads % given["kv_heads"]:
            raise ValueError(f"kv_heads: must divide the {num_heads} heads of num_heads, got {kv_heads}.")
        return cls(**given, head_dim=_head_dim(embed_dim, num_heads, head_dim))


def _head_dim(embed_dim: int, num_heads: int, head_dim: int | None) -> int:
    if head_dim is None and embed_dim % num_heads:
        raise ValueError(
            f"embed_dim: {embed_dim} does not split into {num_heads} equal heads. "
            "Choose a multiple of num_heads, or give head_dim."
        )
    if head_dim is not None and head_dim <= 0:
        raise ValueError(f"head_dim: must be positive, got {head_dim}.")
    return embed_dim // num_heads if head_dim is None else head_dim


def check_tokens(name: str, x: Tensor, width: int) -> None:
    """Raise unless `x` is `[batch, length, width]` or `[length, width]` of a floating dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: must be a tensor, got {type(x).__name__}.")
    if x.ndim not in (2, 3) or x.shape[-1] != width:
        raise ValueError(
            f"{name}: must be [batch, length, {width}] or [length, {width}] for this layer, got {list(x.shape)}."
        )
    if not x.is_floating_point():
        raise TypeError(f"{name}: must have a floating dtype, got {x.dtype}. Embed token numbers first.")


class HeadNorm(nn.RMSNorm):
    """Each head's vectors divided by their root mean square, times a learned scale; of the input's dtype, always.

    torch's own warns, or answers in float32, where autocast hands it a lower precision than its weight's.
    """

    def __init__(
        self, head_dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(head_dim, eps=1e-6, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`x / sqrt(mean(x²) + 1e-6) * weight` over the last dimension."""
        weight = sharded.replicated(self.weight, x).to(x.dtype)
        return nn.functional.rms_norm(x, self.normalized_shape, weight, self.eps).to(x.dtype)


class HeadedAttention(nn.Module):
    """Projections into heads, attention, and the projection back: the part that both layers have.

    Weights start from Xavier's uniform distribution and biases from 0.

    Args:
        sizes: of the layer.
        bias: whether the projections, the output's too, have one.
        output_projection: whether heads are mixed back to embed_dim.
        qk_norm: whether each head's queries and keys are RMS-normalised with a learned scale.
        dropout: probability of dropping a weight in training mode.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: dropout is not at least 0 and less than 1.
    """

    query_norm: HeadNorm | None
    key_norm: HeadNorm | None
    output_projection: nn.Linear | None

    def __init__(
        self,
        sizes: HeadSizes,
        *,
        bias: bool,
        output_projection: bool,
        qk_norm: bool,
        dropout: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: must be at least 0 and less than 1, got {dropout}.")
        self.embed_dim = sizes.embed_dim
        self.context_dim = sizes.context_dim
        self.num_heads = sizes.num_heads
        self.kv_heads = sizes.kv_heads
        self.head_dim = sizes.head_dim
        self.dropout = dropout
        self._grouped = sizes.kv_heads != sizes.num_heads

        query_width, key_width = sizes.num_heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        self.query_projection = nn.Linear(sizes.embed_dim, query_width, bias=bias, device=device, dtype=dtype)
        self.key_projection = nn.Linear(sizes.context_dim, key_width, bias=bias, device=device, dtype=dtype)
        self.value_projection = nn.Linear(sizes.context_dim, key_width, bias=bias, device=device, dtype=dtype)
        self.output_projection = None
        if output_projection:
            self.output_projection = nn.Linear(query_width, sizes.embed_dim, bias=bias, device=device, dtype=dtype)
        self.query_norm = self.key_norm = None
        if qk_norm:
            self.query_norm = HeadNorm(sizes.head_dim, device=device, dtype=dtype)
            self.key_norm = HeadNorm(sizes.head_dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start all weights afresh."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, HeadNorm):
                module.reset_parameters()

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"num_heads={self.num_heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"

    def _project_query(self, x: Tensor) -> Tensor:
        query = self._heads_of("query_projection", x, self.num_heads)
        return query if self.query_norm is None else self.query_norm(query)

    def _project_key_value(self, context: Tensor) -> tuple[Tensor, Tensor]:
        key = self._heads_of("key_projection", context, self.kv_heads)
        value = self._heads_of("value_projection", context, self.kv_heads)
        return key if self.key_norm is None else self.key_norm(key), value

    def _heads_of(self, name: str, x: Tensor, heads: int) -> Tensor:
        projection = getattr(self, name)
        projected = sharded.as_sharded(name, projection(x), projection)
        if sharded.is_sharded(projected):
            return sharded.split(name, projected, heads, self.head_dim)
        return split_heads(projected, heads, self.head_dim)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, observe: Sequence[Readout] | None, **problem: Any
    ) -> Tensor | tuple[Tensor, Observation]:
        """The layer's output from queries, keys and values in heads; `problem` goes to `pellucid.attention`."""
        problem["dropout_p"] = self.dropout if self.training else 0.0
        problem["enable_gqa"] = self._grouped
        query, key, value = sharded.alike(query, key, value)
        if observe is None:
            return self._back(attention(query, key, value, **problem))
        output, observation = observed_attention(query, key, value, **problem, readouts=observe)
        return self._back(output), observation

    def _back(self, output: Tensor) -> Tensor:
        if sharded.is_sharded(output):
            return sharded.back(output, self.output_projection)
        merged = merge_heads(output)
        return merged if self.output_projection is None else self.output_projection(merged)
