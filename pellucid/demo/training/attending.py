"""Whose attention a model is trained on: ours, or torch's in its place, for comparison."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

import pellucid

ATTENTIONS = ("pellucid", "torch")


def attending(attention: str) -> AbstractContextManager[Any]:
    """A context inside which `pellucid.attention` is what is named, one of ATTENTIONS.

    Raises:
        ValueError: it is none of them.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention: must be one of {', '.join(ATTENTIONS)}, got {attention!r}.")
    return _OnTorch() if attention == "torch" else nullcontext()


class _OnTorch(TorchFunctionMode):
    """Gives every call of `pellucid.attention` to SDPA, a mask of keys as a tensor."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        return _by_torch(*args, **named) if function is pellucid.attention else function(*args, **named)


def _by_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    *,
    score_mod: Any,
    mask_mod: Any,
    sinks: Any,
) -> Tensor:
    if score_mod is not None or sinks is not None:
        raise ValueError("attention: torch's has no score functions and no sinks.")
    if mask_mod is not None:
        batch = torch.arange(len(key), device=key.device)[:, None, None, None]
        keys = torch.arange(key.shape[-2], device=key.device)
        attn_mask = mask_mod(batch, 0, 0, keys)  # [batch, 1, 1, keys]: all that these models mask is padding
    return scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
