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
from pellucid.watch.transformers_call import UnknownArgumentError, call_of
from pellucid.watch.transformers_names import asks_for_names
from pellucid.watch.transformers_origin import OWN_NAMES, SETTING, Origin, mask_function_of, origin_of

# Which keys are chosen, or where they are, is said by these alone to whoever is not called "sdpa" or "eager".
ESSENTIAL = frozenset(("indices", "block_indices"))


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Any]:
    """The library's attention function: output [batch, q_len, heads, value_dim], and an Observation if asked for.

    Where torch.compile looks on, it is the operator of `pellucid.graph`, a part of its graph.
    """
    observed = bool(arguments.get("output_attentions")) or _is_collected()
    origin = origin_of(getattr(module, "config", None))
    if torch.compiler.is_compiling():
        if observed:  # outside of the graph
            return torch.compiler.disable(attention_forward)(module, query, key, value, attention_mask, **arguments)
        call = call_of(origin, module, query, key, value, attention_mask, **arguments)
        return graph.run(call.posed()).output.transpose(1, 2).contiguous(), None
    try:
        call = call_of(origin, module, query, key, value, attention_mask, **arguments)
    except UnknownArgumentError as error:
        return _as_the_library(origin, module, error, query, key, value, attention_mask, arguments)
    seen = attend(module, call, observe=observed)
    return seen.output.transpose(1, 2).contiguous(), seen.observation if observed else None


def _is_collected() -> bool:
    """Whether the library is collecting attentions in this forward."""
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    collected: Any = capturing._active_collector.get() if capturing is not None else None
    return bool(collected) and any("attentions" in key for key in collected)


def _as_the_library(
    origin: Origin,
    module: nn.Module,
    error: UnknownArgumentError,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, Any]:
    """What the library gives for a call that is not understood, and a warning."""
    name = type(module).__name__
    function = _library_function(origin, module)
    if function is None or _is_paged(arguments) or _needs_another_name(module, arguments):
        raise UnknownArgumentError(f"{name} cannot be computed by Pellucid. {error}") from None
    refuse(module, f"{name} passes {error}")
    if not sessions_of(module):
        warnings.warn(f"{name} is computed by the library's own function. It passes {error}", stacklevel=3)
    whole = mask.whole() if isinstance(mask, LazyMask) else mask
    with torch._C.DisableTorchFunction():  # neither seen nor computed on the way
        return function(module, query, key, value, whole, **arguments)


def _library_function(origin: Origin, module: nn.Module) -> Callable[..., Any] | None:
    """The attention function in whose place Pellucid stands, None where it is not known."""
    if origin == "sdpa":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward
    file = vars(sys.modules[type(module).__module__])
    eager = [value for name, value in file.items() if name.endswith("eager_attention_forward")]
    return eager[0] if origin == "eager" and len(eager) == 1 else None


def _is_paged(arguments: dict[str, Any]) -> bool:
    """Whether keys and values are still in the pages of a cache that serves many requests at once."""
    return type(arguments.get("cache")).__name__ == "PagedAttentionCache"


def _needs_another_name(module: nn.Module, arguments: dict[str, Any]) -> bool:
    """Whether what is passed may be passed only because the implementation's name is Pellucid's."""
    essential = any(arguments.get(argument) is not None for argument in ESSENTIAL)
    own_name = getattr(getattr(module, "config", None), SETTING, None) in OWN_NAMES
    return essential and own_name and asks_for_names(sys.modules[type(module).__module__])


def mask_function(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    config: Any = None,
    **options: Any,
) -> Tensor | None:
    """The library's mask function: the mask as a function, carried by a LazyMask; None where the library gives none."""
    from transformers import masking_utils

    function = masking_utils.causal_mask_function if mask_function is None else mask_function
    origin = origin_of(config)
    asked: dict[str, Any] = options | {
        "batch_size": batch_size, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset,
        "kv_offset": kv_offset, "mask_function": function, "attention_mask": attention_mask, "device": device,
        "config": config,
    }  # fmt: skip
    if origin is None:  # then a mask says what nobody else does
        asked["allow_is_causal_skip"] = False
    library = mask_function_of(origin)
    if torch.compiler.is_compiling():
        return library(**asked)
    if _gives_none(library, asked):
        return None
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
        materialise=lambda: _whole_mask(asked),
    )
    dtype = options.get("dtype", torch.float32) if origin == "eager" else torch.bool
    return LazyMask.of(rule, lambda: library(**asked), dtype)


class _NeededError(Exception):
    """A mask is made."""


def _gives_none(library: Callable[..., Any], asked: dict[str, Any]) -> bool:
    """Whether the library leaves a mask away: then it asks nothing of the function that says who looks where."""

    def needed(*place: Any) -> Any:
        raise _NeededError

    try:
        return library(**(asked | {"mask_function": needed})) is None
    except _NeededError:
        return False


def _whole_mask(asked: dict[str, Any]) -> Tensor:
    """A mask that the library makes, bool whatever it stands for."""
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
