"""xFormers' memory_efficient_attention, whose tensors are [batch, length, heads, head_dim] or [batch, length, dim]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.arguments import Arguments
from pellucid.capture.sources.described import led, left_alone
from pellucid.capture.sources.opaque import Opaque
from pellucid.problem import is_autocast

_CAUSAL = "LowerTriangularMask"  # of xformers.ops.fmha.attn_bias; aligned as is_causal is, at the first query and key


def memory_efficient_attention(
    module: nn.Module,
    original: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Any = None,
    p: float = 0.0,
    scale: float | None = None,
    *,
    op: Any = None,
    output_dtype: Any = None,
) -> Tensor:
    """What xFormers' memory_efficient_attention gives.

    Args:
        module: what attends.
        original: xFormers' own function, which is called for what Pellucid does not compute.
        query: see xFormers', as for all that follow.
        key: see xFormers'.
        value: see xFormers'.
        attn_bias: see xFormers'; None, a tensor and LowerTriangularMask are computed.
        p: see xFormers'.
        scale: see xFormers'.
        op: see xFormers'; only handed on to `original`.
        output_dtype: see xFormers'; only None is computed.

    """
    own = partial(original, query, key, value, attn_bias, p, **_given(scale=scale, op=op, output_dtype=output_dtype))
    try:
        _check(query, key, value, output_dtype)
        bias = _added(attn_bias, query, key)
    except ValueError as error:
        return left_alone(module, own, error)
    causal = type(attn_bias).__name__ == _CAUSAL
    first = (_heads_first(query), _heads_first(key), _heads_first(value))
    asked = Arguments(*first, attn_mask=bias, dropout_p=p, is_causal=causal, scale=scale)
    output = led(module, lambda: _heads_first(own()), asked)
    output = output.transpose(1, 2).contiguous()
    return output.squeeze(2) if query.ndim == 3 else output


def _given(**options: Any) -> dict[str, Any]:
    """The options that are not None: older versions of the library do not know all of them."""
    return {name: value for name, value in options.items() if value is not None}


def _heads_first(tensor: Tensor) -> Tensor:
    """[batch, length, heads, dim] or [batch, length, dim] as [batch, heads, length, dim]."""
    return (tensor.unsqueeze(2) if tensor.ndim == 3 else tensor).transpose(1, 2)


def _check(query: Tensor, key: Tensor, value: Tensor, output_dtype: Any) -> None:
    """Raise ValueError for what xFormers refuses, or has another layout for."""
    if not query.ndim == key.ndim == value.ndim or query.ndim not in (3, 4):
        raise ValueError("query, key and value are not of three or four dimensions")
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        raise ValueError("query, key and value are not of one batch")
    if output_dtype is not None:
        raise ValueError("output_dtype is asked for")
    kind = query.device.type
    if is_autocast(kind) and query.dtype != torch.get_autocast_dtype(kind):
        raise ValueError(f"autocast would make its query of {query.dtype} another")


def _added(attn_bias: Any, query: Tensor, key: Tensor) -> Tensor | None:
    """What is added to the scores, [..., heads, q_len, k_len]; None where nothing is, or a causal mask is meant.

    Raises:
        ValueError: it is of another kind, or may be read in more ways than one.

    """
    if attn_bias is None or type(attn_bias).__name__ == _CAUSAL:
        return None
    if type(attn_bias) not in (Tensor, nn.Parameter):
        raise ValueError(f"attn_bias is a {type(attn_bias).__name__}")
    if not attn_bias.is_floating_point():
        raise ValueError(f"attn_bias is of {attn_bias.dtype}")
    if attn_bias.shape[-2:] != (query.shape[1], key.shape[1]):
        raise ValueError(f"attn_bias is of {list(attn_bias.shape)}, not of all queries and keys")
    if query.ndim == 3:
        if attn_bias.ndim > 3:
            raise ValueError("attn_bias has heads, which query has not")
        return attn_bias.unsqueeze(1) if attn_bias.ndim == 3 else attn_bias
    if attn_bias.ndim == 3 and query.shape[0] != 1 != attn_bias.shape[0]:
        raise ValueError("attn_bias has three dimensions: whether of sequences or of heads is not known")
    return attn_bias


XFORMERS = Opaque("xformers.ops", "memory_efficient_attention", memory_efficient_attention)
