"""Attention that a model calls as a function of torch or of Pellucid."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as torch_sdpa

from pellucid import functional
from pellucid.capture.attending import beside
from pellucid.capture.sources.base import Source
from pellucid.capture.sources.described import attended, call_of, led


def scaled_dot_product_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What torch.nn.functional.scaled_dot_product_attention gives.

    Args:
        module: what attends.
        query: see torch's, as for all that follow.
        key: see torch's.
        value: see torch's.
        attn_mask: see torch's.
        dropout_p: see torch's.
        is_causal: see torch's.
        scale: see torch's.
        enable_gqa: see torch's.

    """
    asked = (query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    own = partial(
        torch_sdpa, *asked[:3], attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale,
        enable_gqa=enable_gqa,
    )  # fmt: skip
    return led(module, own, *asked)


def attention(module: nn.Module, *args: Any, **arguments: Any) -> Tensor:
    """What pellucid.attention gives."""
    return attended(module, *args, **arguments)


def observe(module: nn.Module, *args: Any, readouts: Any = None, **arguments: Any) -> Any:
    """What pellucid.observe gives: the model's own observation, beside that of whoever watches.

    Args:
        module: what attends.
        *args: those of `pellucid.observe`, in order.
        readouts: see `pellucid.observe`.
        **arguments: the others, by name.

    """
    own = partial(functional.observe, *args, readouts=readouts, **arguments)
    return beside(module, own, partial(call_of, *args, **arguments))


TORCH = Source({torch_sdpa: scaled_dot_product_attention, functional.attention: attention, functional.observe: observe})
