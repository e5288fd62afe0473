"""The two functions that models of transformers call: for attention, and before it for the mask."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from pellucid.capture.attending import attend, beside, left_to_torch, refuse, sessions_of, unseen
from pellucid.capture.calls.mask import LazyMask, MaskRule
from pellucid.capture.sources.transformers.call import UnknownArgumentError, call_of, looks_back
from pellucid.capture.sources.transformers.names import asks_for_names
from pellucid.capture.sources.transformers.origin import OWN_NAMES, SETTING, Origin, mask_function_of, origin_of
from pellucid.engines import graph

INSTEAD_OF = "_pellucid_instead_of"  # of an accelerated module: the name of the function that it would call
# Which keys are chosen, or where they are, is said by these alone to whoever is not called "sdpa" or "eager".
ESSENTIAL = frozenset(("indices", "block_indices"))


class Own(NamedTuple):
    """What a module calls for its attention where nobody looks on."""

    name: str
    function: Callable[..., tuple[Tensor, Any]]


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Any]:
    """The library's attention function: output [batch, q_len, heads, value_dim], and what is asked of the weights.

    That is an Observation for a model that was set to this function by its name, else what the model's own gives.
    Where torch.compile looks on, it is the operator of `pellucid.engines.graph`, a part of its graph.

    Args:
        module: what attends.
        query: [batch, heads, q_len, head_dim].
        key: [batch, kv_heads, k_len, head_dim].
        value: [batch, kv_heads, k_len, value_dim].
        attention_mask: see `call_of`.
        **arguments: see `call_of`.

    Raises:
        UnknownArgumentError: the call is not understood, and it is not known by what else it could be computed.

    """
    origin = origin_of(getattr(module, "config", None))
    observed = _is_observed(arguments)
    if torch.compiler.is_compiling():  # asked after a place where the graph may break
        if observed:
            return torch.compiler.disable(attention_forward)(module, query, key, value, attention_mask, **arguments)
        call = call_of(origin, module, query, key, value, attention_mask, **arguments)
        return graph.run(call.posed()).output.transpose(1, 2).contiguous(), None
    led = _uncompiled() if "torch._dynamo" in sys.modules else led_forward
    return led(origin, instead_of(origin, module), module, query, key, value, attention_mask, **arguments)


@cache
def _uncompiled() -> Callable[..., tuple[Tensor, Any]]:
    """`led_forward` where torch.compile, whose graph has broken before it, would look into it."""
    disabled: Callable[..., tuple[Tensor, Any]] = torch.compiler.disable(led_forward)
    return disabled


def led_forward(
    origin: Origin,
    own: Own | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: Any,
) -> tuple[Tensor, Any]:
    """The same in the place of a function of the module's own, which does what would not be the same by Pellucid.

    Args:
        origin: says what the call means, and of which kind its mask is.
        own: that function, None where there is none.
        module: see `attention_forward`, as for all that follow.
        query: see `attention_forward`.
        key: see `attention_forward`.
        value: see `attention_forward`.
        attention_mask: see `attention_forward`.
        **arguments: see `attention_forward`.

    Raises:
        UnknownArgumentError: see `attention_forward`.

    """
    asked = (module, query, key, value, attention_mask)
    observed = _is_observed(arguments)
    if own is not None and (observed or _keeps_own(own, module, query, arguments)):
        by_own = partial(_by_own, own, origin, *asked, arguments)
        return beside(module, by_own, partial(call_of, origin, *asked, **arguments))
    try:
        call = call_of(origin, *asked, **arguments)
    except UnknownArgumentError as error:
        own = own or _stood_for(origin, module, error, arguments)
        return _as_the_library(own, origin, error, *asked, arguments)
    observed = observed and _gives_observations(module)
    seen = attend(module, call, observe=observed)
    return seen.output.transpose(1, 2).contiguous(), seen.observation if observed else None


def _keeps_own(own: Own, module: nn.Module, query: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether a module that is watched goes on with its own function.

    An eager one gives its weights to whoever asks, hooks too; dropout and transforms are what they are there.
    """
    drops = bool(arguments.get("dropout"))
    if getattr(getattr(module, "config", None), SETTING, None) in OWN_NAMES:  # then it is led here in backward too
        return drops and hasattr(module, INSTEAD_OF)
    if own.name == "eager" and not hasattr(module, INSTEAD_OF):
        return bool(sessions_of(module)) or left_to_torch(module, drops, query)
    return left_to_torch(module, drops, query)


def _is_observed(arguments: dict[str, Any]) -> bool:
    """Whether somebody asks for the weights, or the library is collecting attentions in this forward."""
    if arguments.get("output_attentions"):
        return True
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    collected: Any = capturing._active_collector.get() if capturing is not None else None
    return bool(collected) and any("attentions" in key for key in collected)


def _gives_observations(module: nn.Module) -> bool:
    """Whether weights asked for are observations: not of a module that has Pellucid only for its speed."""
    return getattr(module, INSTEAD_OF, OWN_NAMES[0]) in OWN_NAMES


def instead_of(origin: Origin, module: nn.Module) -> Own | None:
    """What an accelerated module would call; None for one set to Pellucid by name, or with other masks."""
    name = getattr(module, INSTEAD_OF, None)
    if name is None or name not in (origin, "flex_attention"):
        return None
    function = eager_of(sys.modules[type(module).__module__]) if name == "eager" else library_function(name)
    return None if function is None else Own(name, function)


def library_function(name: str) -> Callable[..., Any]:
    """The library's function of a name of LED that is not "eager"."""
    if name == "sdpa":
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward
    from transformers.integrations.flex_attention import flex_attention_forward

    return flex_attention_forward


def eager_of(file: Any) -> Callable[..., Any] | None:
    """The eager attention function of a model's file, None where there is none or more than one."""
    eager = [value for name, value in vars(file).items() if name.endswith("eager_attention_forward")]
    return eager[0] if len(eager) == 1 else None


def _by_own(
    own: Own,
    origin: Origin,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, Any]:
    """What a function of the library or of the model gives, with the mask as it takes it."""
    if isinstance(mask, LazyMask):
        mask = mask.whole()
    taken: Any = mask
    if own.name == "flex_attention":
        if mask is None and query.shape[2] > 1 and looks_back(origin, module, arguments.get("is_causal")):
            mask = torch.ones(query.shape[0], 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
            mask = mask.tril()
        taken = _blocks(mask) if mask is not None and mask.dtype == torch.bool else mask
    return own.function(module, query, key, value, taken, **arguments)


def _blocks(mask: Tensor) -> BlockMask:
    """A bool mask [batch, 1, q_len, k_len] as FlexAttention takes it."""
    batch, _, q_len, k_len = mask.shape
    return create_block_mask(lambda b, h, q, k: mask[b, 0, q, k], batch, None, q_len, k_len, device=mask.device)


def _stood_for(origin: Origin, module: nn.Module, error: UnknownArgumentError, arguments: dict[str, Any]) -> Own:
    """What a module would call that was set to Pellucid by its name, or had what is not stood in for."""
    file = sys.modules[type(module).__module__]
    function = library_function("sdpa") if origin == "sdpa" else eager_of(file) if origin == "eager" else None
    if origin is None or function is None or _is_paged(arguments) or _needs_another_name(module, arguments):
        raise UnknownArgumentError(f"{type(module).__name__} cannot be computed by Pellucid. {error}") from None
    return Own(origin, function)


def _is_paged(arguments: dict[str, Any]) -> bool:
    """Whether keys and values are still in the pages of a cache that serves many requests at once."""
    return type(arguments.get("cache")).__name__ == "PagedAttentionCache"


def _needs_another_name(module: nn.Module, arguments: dict[str, Any]) -> bool:
    """Whether what is passed may be passed only because the implementation's name is Pellucid's."""
    essential = any(arguments.get(argument) is not None for argument in ESSENTIAL)
    own_name = getattr(getattr(module, "config", None), SETTING, None) in OWN_NAMES
    return essential and own_name and asks_for_names(sys.modules[type(module).__module__])


def _as_the_library(
    own: Own, origin: Origin, error: UnknownArgumentError, module: nn.Module, *asked: Any
) -> tuple[Tensor, Any]:
    """What a function of the library or of the model gives for a call that is not understood, and a warning."""
    name = type(module).__name__
    refuse(module, f"{name} passes {error}")
    if not sessions_of(module):
        warnings.warn(f"{name} is computed by the model's own {own.name} function. It passes {error}", stacklevel=4)
    return unseen(partial(_by_own, own, origin, module, *asked))


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
    origin: Origin = None,
    **options: Any,
) -> Tensor | None:
    """The library's mask function: the mask as a function, carried by a LazyMask; None where the library gives none.

    Args:
        batch_size: sequences.
        q_length: queries.
        kv_length: keys that the model will bring, empty ones of a static cache among them.
        q_offset: position of the first query; a tensor of one number too.
        kv_offset: position of the first key.
        mask_function: says by (b, h, q, k), positions, whether a key may be looked at; causal if None.
        attention_mask: padding, [batch, positions], 0 or False there; no token is padding if None.
        device: of the mask.
        config: the model's.
        origin: whose masks they are; of those that `config` stands for if None.
        **options: what else the library's function takes, such as the dtype of a mask that is added to the scores.

    Returns:
        [batch, 1, q_length, kv_length], bool, or added to the scores where the origin is "eager". Where torch.compile
        looks on, what the library's function gives.

    """
    from transformers import masking_utils

    function = masking_utils.causal_mask_function if mask_function is None else mask_function
    origin = origin or origin_of(config)
    asked: dict[str, Any] = options | {
        "batch_size": batch_size, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset,
        "kv_offset": kv_offset, "mask_function": function, "attention_mask": attention_mask, "device": device,
        "config": config,
    }  # fmt: skip
    if origin not in ("sdpa", "eager"):  # then a mask says what nobody else does
        asked["allow_is_causal_skip"] = False
    library = mask_function_of(origin)
    if torch.compiler.is_compiling():
        return library(**asked)
    if _gives_none(library, asked):
        return None
    # It may be made after a cache has counted on, whose count the offset is.
    asked = {name: value.clone() if isinstance(value, Tensor) else value for name, value in asked.items()}
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
