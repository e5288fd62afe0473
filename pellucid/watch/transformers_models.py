"""Attention of models of the transformers library: its two registries, by a name of our own or in the place of "sdpa".

At every call the library asks a registry for an attention function, and another for the mask function of that name.
A name of our own serves nearly all models. Those whose code asks whether the name is "sdpa" keep it, and we stand in
for the function behind it, for the modules watched.
"""

from __future__ import annotations

import inspect
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.watch.mask import LazyMask, MaskRule
from pellucid.watch.session import attend, refuse, sessions_of
from pellucid.watch.transformers_call import ESSENTIAL, UnknownArgumentError, call_of

NAME = "pellucid"
SDPA_ASKED_FOR = re.compile(r"_attn_implementation\s*(?:==|!=|in\b|not in\b)[^\n]*[\"']sdpa[\"']")
SETTING = "_attn_implementation_internal"


def is_transformers(model: nn.Module) -> bool:
    """Whether a model has modules that ask the library's registry."""
    return "transformers" in sys.modules and next(_users(model), None) is not None


# What the library calls.


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Any]:
    """The library's attention function: output [batch, q_len, heads, value_dim], and an Observation if asked for."""
    try:
        call = call_of(module, query, key, value, attention_mask, **arguments)
    except UnknownArgumentError as error:
        return _as_the_library(module, error, query, key, value, attention_mask, arguments)
    seen = attend(module, call, observe=bool(arguments.get("output_attentions")) or _is_collected())
    wanted = seen.observation if arguments.get("output_attentions") or _is_collected() else None
    return seen.output.transpose(1, 2).contiguous(), wanted


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
    if eager is None or any(arguments.get(essential) is not None for essential in ESSENTIAL):
        raise UnknownArgumentError(f"{name} cannot be computed by Pellucid. {error}") from None
    refuse(module, f"{name} passes {error}")
    if not sessions_of(module):
        warnings.warn(f"{name} is computed by the model's own eager function. It passes {error}", stacklevel=3)
    if isinstance(mask, LazyMask):
        mask = torch.zeros((), dtype=query.dtype).masked_fill(~mask.rule.dense(), torch.finfo(query.dtype).min)
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
    asked = {
        "batch_size": batch_size, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset,
        "kv_offset": kv_offset, "mask_function": function, "attention_mask": attention_mask, "device": device,
    }  # fmt: skip
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
        torch.arange(batch)[:, None, None, None],
        torch.zeros(1, 1, 1, 1, dtype=torch.int64),
        torch.full((1, 1, 1, 1), end - 1),
        torch.arange(end, k_start + k_len)[None, None, None],
    )
    try:
        beyond = torch.as_tensor(function(*indices))
    except (IndexError, RuntimeError, TypeError):  # a function of its own kind: then no key is left out
        return k_len
    return k_len if bool(beyond.any()) else behind


# How it is installed.

_registration = threading.Lock()
_standing_in: list[_Standin] = []


def register() -> None:
    """Make the name "pellucid" known to transformers, for `model.set_attn_implementation("pellucid")`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, mask_function)


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Let a model's attention run through `attention_forward` inside the `with`; as before afterwards."""
    register()
    settings = replace_settings(model)
    try:
        with standing_in(model) if any(getattr(c, SETTING) == "sdpa" for c in _configs(model)) else _nothing():
            yield
    finally:
        for config, setting in settings:
            setattr(config, SETTING, setting)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def replace_settings(model: nn.Module) -> list[tuple[Any, str | None]]:
    """Set the implementation of all parts of a model that can be set; what it was, to be set again."""
    before = []
    for config, branches in _configs_and_branches(model):
        before.append((config, getattr(config, SETTING)))
        setattr(config, SETTING, "sdpa" if branches else NAME)
    return before


def _configs(model: nn.Module) -> list[Any]:
    return [config for config, _ in _configs_and_branches(model)]


def _configs_and_branches(model: nn.Module) -> list[tuple[Any, bool]]:
    """The configurations that name a part's implementation, and whether that part's code asks for "sdpa" by name."""
    found: dict[int, tuple[Any, bool]] = {}
    for module in _users(model):
        config = module.config
        source = sys.modules[type(module).__module__]
        _, before = found.get(id(config), (config, False))
        found[id(config)] = (config, before or (_asks_for_sdpa(source) and _may_be_sdpa(model, config)))
    return list(found.values())


def _users(model: nn.Module) -> Iterator[Any]:
    """The modules of files that use the registry."""
    for module in model.modules():
        config = getattr(module, "config", None)
        file = sys.modules.get(type(module).__module__)
        if config is not None and hasattr(config, SETTING) and hasattr(file, "ALL_ATTENTION_FUNCTIONS"):
            yield module


@lru_cache(maxsize=256)
def _asks_for_sdpa(source: ModuleType) -> bool:
    try:
        return bool(SDPA_ASKED_FOR.search(inspect.getsource(source)))
    except (OSError, TypeError):
        return False


def _may_be_sdpa(model: nn.Module, config: Any) -> bool:
    owners = [m for m in model.modules() if getattr(m, "config", None) is config and hasattr(m, "_supports_sdpa")]
    return all(owner._supports_sdpa for owner in owners)


@contextmanager
def standing_in(model: nn.Module | None) -> Iterator[None]:
    """Stand in for the library's "sdpa", for the modules of a model, or for all if None."""
    own = _Standin(model)
    own.start()
    try:
        yield
    finally:
        own.stop()


class _Standin:
    """A function in the place of "sdpa" that serves the modules and configurations of one model, or all."""

    def __init__(self, model: nn.Module | None) -> None:
        self.modules = None if model is None else {id(module) for module in model.modules()}
        self.configs = None if model is None else {id(config) for config in _configs(model)}

    def start(self) -> None:
        with _registration:
            if not _standing_in:
                _replace_sdpa()
            _standing_in.append(self)

    def stop(self) -> None:
        with _registration:
            _standing_in.remove(self)
            if not _standing_in:
                _restore_sdpa()


_originals: dict[str, Callable[..., Any]] = {}
_replaced: list[tuple[dict[str, Any], Callable[..., Any]]] = []


def _replace_sdpa() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    registries: list[tuple[str, Any, Any]] = [
        ("attention", ALL_ATTENTION_FUNCTIONS, _sdpa_attention),
        ("mask", ALL_MASK_ATTENTION_FUNCTIONS, _sdpa_mask),
    ]
    for name, registry, ours in registries:
        _originals[name] = registry["sdpa"]
        for mapping in (registry._global_mapping, registry._local_mapping):
            if "sdpa" in mapping:
                _replaced.append((mapping, mapping["sdpa"]))
                mapping["sdpa"] = ours


def _restore_sdpa() -> None:
    while _replaced:
        mapping, original = _replaced.pop()
        mapping["sdpa"] = original


def _sdpa_attention(module: nn.Module, *tensors: Any, **arguments: Any) -> tuple[Tensor, Any]:
    serves = any(own.modules is None or id(module) in own.modules for own in _standing_in)
    return (attention_forward if serves else _originals["attention"])(module, *tensors, **arguments)


def _sdpa_mask(*args: Any, **arguments: Any) -> Tensor | None:
    config = arguments.get("config")
    serves = any(own.configs is None or id(config) in own.configs for own in _standing_in)
    return (mask_function if serves else _originals["mask"])(*args, **arguments)
