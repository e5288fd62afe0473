"""The two functions that models of transformers call: for attention, and before it for the mask."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import graph
from pellucid.watch.attending import attend, refuse, sessions_of
from pellucid.watch.mask import LazyMask, MaskRule
from pellucid.watch.transformers_call import ESSENTIAL, UnknownArgumentError, call_of


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Any]:
    """The library's attention function: output [batch, q_len, heads, value_dim], and an Observation if asked for.

    Where torch.compile looks on, it is the operator of `pellucid.graph`, a part of its graph.
    """
    observed = bool(arguments.get("output_attentions")) or _is_collected()
    if torch.compiler.is_compiling():
        if observed:  # outside of the graph
            return torch.compiler.disable(attention_forward)(module, query, key, value, attention_mask, **arguments)
        call = call_of(module, query, key, value, attention_mask, **arguments)
        return graph.run(call.posed()).output.transpose(1, 2).contiguous(), None
    try:
        call = call_of(module, query, key, value, attention_mask, **arguments)
    except UnknownArgumentError as error:
        return _as_the_library(module, error, query, key, value, attention_mask, arguments)
    seen = attend(module, call, observe=observed)
    return seen.output.transpose(1, 2).contiguous(), seen.observation if observed else None


def _is_collected() -> bool:
    """Whether the library is collecting attentions in this forward."""
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    collected: Any = capturing._active_collector.get() if capturing is not None else None
    return bool(collected) and any("attentions" in key for key in collected)


def _as_the_library(
    module: nn.Module,
    error: UnknownArgumentError,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, Any]:
    """What the model's own eager function gives for a call that is not understood, and a warning."""
    name = type(module).__name__
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    unsaid = mask is None and query.shape[2] > 1 and getattr(module, "is_causal", False)  # what eager takes from a mask
    if eager is None or unsaid or any(arguments.get(essential) is not None for essential in ESSENTIAL):
        raise UnknownArgumentError(f"{name} cannot be computed by Pellucid. {error}") from None
    refuse(module, f"{name} passes {error}")
    if not sessions_of(module):
        warnings.warn(f"{name} is computed by the model's own eager function. It passes {error}", stacklevel=3)
    allowed = mask.rule.dense() if isinstance(mask, LazyMask) else mask
    if allowed is not None and allowed.dtype == torch.bool:
        mask = query.new_zeros(()).masked_fill(~allowed, torch.finfo(query.dtype).min)
    return eager(module, query, key, value, mask, **arguments)


def mask_function(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    allow_is_bidirectional_skip: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor | None:
    """The library's mask function: the mask as a function, carried by a LazyMask; None where every key is allowed."""
    from transformers import masking_utils

    function = masking_utils.causal_mask_function if mask_function is None else mask_function
    asked: dict[str, Any] = {
        "batch_size": batch_size, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset,
        "kv_offset": kv_offset, "mask_function": function, "attention_mask": attention_mask, "device": device,
    }  # fmt: skip
    if torch.compiler.is_compiling():
        skip = {"allow_is_bidirectional_skip": allow_is_bidirectional_skip}
        return masking_utils.sdpa_mask(**(options | asked | skip))
    start = int(q_offset)
    k_len = _reachable(function, batch_size, start + q_length, kv_length, int(kv_offset))
    rule = MaskRule(
        function=function,
        batch=batch_size,
        q_len=q_length,
        k_len=k_len,
        given_k_len=kv_length,
        start=start,
        k_start=int(kv_offset),
        padding=_padding(attention_mask, int(kv_offset) + k_len),
        device=torch.device(device),
        materialise=lambda: _whole_mask(options | asked),
    )
    full = rule.padding is None and function is masking_utils.bidirectional_mask_function
    return None if full and allow_is_bidirectional_skip else LazyMask.of(rule)


def _whole_mask(asked: dict[str, Any]) -> Tensor:
    from transformers import masking_utils

    own = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask = masking_utils.sdpa_mask(**(asked | own))
    assert mask is not None
    return mask


def _padding(mask: Tensor | None, length: int) -> Tensor | None:
    """True at tokens, bool [batch, at least length]; None if all are."""
    if mask is None:
        return None
    mask = mask[:, :length].to(torch.bool)
    if mask.shape[1] == length and bool(mask.all()):
        return None
    return torch.nn.functional.pad(mask, (0, max(0, length - mask.shape[1])))


def _reachable(function: Callable[..., Any], batch: int, end: int, k_len: int, k_start: int) -> int:
    """How many of the keys any query before `end` may look at: a static cache brings empty ones after them."""
    behind = end - k_start
    if not 0 < behind < k_len:
        return k_len
    indices = (
        torch.arange(batch, device="cpu")[:, None, None, None],
        torch.zeros(1, 1, 1, 1, dtype=torch.int64, device="cpu"),
        torch.full((1, 1, 1, 1), end - 1, device="cpu"),
        torch.arange(end, k_start + k_len, device="cpu")[None, None, None],
    )
    try:
        beyond = torch.as_tensor(function(*indices), device="cpu")
    except (IndexError, RuntimeError, TypeError):  # a function of its own kind: then no key is left out
        return k_len
    return k_len if bool(beyond.any()) else behind
