"""The two functions that models of transformers call: for attention, and before it for the mask."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pellucid import graph
from pellucid.transformed import is_transformed
from pellucid.watch.attending import attend, beside, is_replayed, keeps_own, refuse, sessions_of, unseen
from pellucid.watch.mask import LazyMask, MaskRule
from pellucid.watch.transformers_call import ESSENTIAL, UnknownArgumentError, call_of

NAME = "pellucid"
INSTEAD_OF = "_pellucid_instead_of"  # of an accelerated module: the name of the function that it would call


class Own(NamedTuple):
    """What a module calls for its attention where nobody looks on."""

    name: str
    function: Callable[..., tuple[Tensor, Any]]


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Any]:
    """The library's attention function: output [batch, q_len, heads, value_dim], and what is asked of the weights.

    That is an Observation for a model that was set to this function by its name, else what the model's own gives.
    Where torch.compile looks on, it is the operator of `pellucid.graph`, a part of its graph.
    """
    observed = _is_observed(arguments)
    if torch.compiler.is_compiling():  # asked after a place where the graph may break
        if observed:
            return torch.compiler.disable(attention_forward)(module, query, key, value, attention_mask, **arguments)
        call = call_of(module, query, key, value, attention_mask, **arguments)
        return graph.run(call.posed()).output.transpose(1, 2).contiguous(), None
    led = _uncompiled() if "torch._dynamo" in sys.modules else led_forward
    return led(instead_of(module), module, query, key, value, attention_mask, **arguments)


@cache
def _uncompiled() -> Callable[..., tuple[Tensor, Any]]:
    """`led_forward` where torch.compile, whose graph has broken before it, would look into it."""
    disabled: Callable[..., tuple[Tensor, Any]] = torch.compiler.disable(led_forward)
    return disabled


def led_forward(
    own: Own | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: Any,
) -> tuple[Tensor, Any]:
    """The same in the place of a function of the module's own, which does what would not be the same by Pellucid."""
    asked = (module, query, key, value, attention_mask)
    observed = _is_observed(arguments)
    if own is not None and (observed or _keeps_own(own, module, query, arguments)):
        return beside(module, partial(_by_own, own, *asked, arguments), partial(call_of, *asked, **arguments))
    try:
        call = call_of(*asked, **arguments)
    except UnknownArgumentError as error:
        return _as_the_library(own or _eager(*asked, error, arguments), error, *asked, arguments)
    seen = attend(module, call, observe=observed)
    return seen.output.transpose(1, 2).contiguous(), seen.observation if observed else None


def _keeps_own(own: Own, module: nn.Module, query: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether a module that is watched goes on with its own function.

    An eager one gives its weights to whoever asks, hooks too; dropout and transforms are what they are there.
    """
    if hasattr(module, INSTEAD_OF):  # accelerated: Pellucid's is its own
        return False
    if own.name == "eager":
        return bool(sessions_of(module))
    return keeps_own(module) and bool(arguments.get("dropout") or is_replayed() or is_transformed(query))


def _is_observed(arguments: dict[str, Any]) -> bool:
    """Whether somebody asks for the weights, or the library is collecting attentions in this forward."""
    if arguments.get("output_attentions"):
        return True
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    collected: Any = capturing._active_collector.get() if capturing is not None else None
    return bool(collected) and any("attentions" in key for key in collected)


def instead_of(module: nn.Module) -> Own | None:
    """What an accelerated module would call; None for one that was set to Pellucid by its name."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = getattr(module, INSTEAD_OF, NAME)
    if name == NAME:
        return None
    return Own(name, ALL_ATTENTION_FUNCTIONS.get_interface(name, _eager_of(module)))


def _eager_of(module: nn.Module) -> Any:
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def _by_own(
    own: Own,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, Any]:
    """What a function of the library or of the model gives, with the mask as it takes it."""
    if isinstance(mask, LazyMask):
        mask = mask.rule.given(torch.bool if own.name == "sdpa" else query.dtype)
    elif mask is not None and mask.dtype == torch.bool and own.name != "sdpa":
        mask = query.new_zeros(()).masked_fill(~mask, torch.finfo(query.dtype).min)
    return own.function(module, query, key, value, mask, **arguments)


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    error: UnknownArgumentError,
    arguments: dict[str, Any],
) -> Own:
    """The eager function in a module's file, for a module whose own function is not known."""
    eager = _eager_of(module)
    unsaid = mask is None and query.shape[2] > 1 and getattr(module, "is_causal", False)  # what eager takes from a mask
    if eager is None or unsaid or any(arguments.get(essential) is not None for essential in ESSENTIAL):
        raise UnknownArgumentError(f"{type(module).__name__} cannot be computed by Pellucid. {error}") from None
    return Own("eager", eager)


def _as_the_library(own: Own, error: UnknownArgumentError, module: nn.Module, *asked: Any) -> tuple[Tensor, Any]:
    """What a function of the library or of the model gives for a call that is not understood, and a warning."""
    name = type(module).__name__
    refuse(module, f"{name} passes {error}")
    if not sessions_of(module):
        warnings.warn(f"{name} is computed by the model's own {own.name} function. It passes {error}", stacklevel=4)
    return unseen(partial(_by_own, own, module, *asked))


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
    form: torch.dtype = torch.bool,
    **options: Any,
) -> Tensor | None:
    """The library's mask function: the mask as a function, carried by a LazyMask; None where every key is allowed.

    `form` is the dtype that the model expects of it.
    """
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
        dtype=form,
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
