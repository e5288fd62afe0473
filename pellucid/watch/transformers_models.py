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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from pellucid.watch.transformers_functions import attention_forward, mask_function

NAME = "pellucid"
SDPA_ASKED_FOR = re.compile(r"_attn_implementation\s*(?:==|!=|in\b|not in\b)[^\n]*[\"']sdpa[\"']")
SETTING = "_attn_implementation_internal"


def is_transformers(model: nn.Module) -> bool:
    """Whether a model has modules that ask the library's registry."""
    return "transformers" in sys.modules and next(_users(model), None) is not None


_registration = threading.RLock()  # a signal's handler may come in the midst
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
