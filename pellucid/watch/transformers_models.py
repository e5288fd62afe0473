"""Attention of models of the transformers library: its two registries, by a name of our own or in the place of "sdpa".

At every call the library asks a registry for an attention function, and another for the mask function of that name.
Names of our own serve nearly all models: one stands for the library's SDPA, one for a model's own eager function. Code
that asks what the name is must go the way that it goes without us, so there the part keeps its name, or is called
"sdpa", and we stand in for the function behind it, for the modules watched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from pellucid.watch.transformers_functions import attention_forward, mask_function
from pellucid.watch.transformers_names import is_alike
from pellucid.watch.transformers_origin import FOR_EAGER, NAME, OWN_NAMES, SETTING, supported


def is_transformers(model: nn.Module) -> bool:
    """Whether a model has modules that ask the library's registry."""
    return "transformers" in sys.modules and next(_users(model), None) is not None


_registration = threading.RLock()  # a signal's handler may come in the midst
_standing_in: list[_Standin] = []


def register() -> None:
    """Make the name "pellucid" known to transformers, for `model.set_attn_implementation("pellucid")`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    for name in OWN_NAMES:
        AttentionInterface.register(name, attention_forward)
        AttentionMaskInterface.register(name, mask_function)


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
    for config, files in _configs_and_files(model):
        setting = getattr(config, SETTING)
        before.append((config, setting))
        setattr(config, SETTING, _name_instead(config, setting, files))
    return before


def _name_instead(config: Any, setting: str | None, files: list[ModuleType]) -> str | None:
    """The name under which Pellucid computes what a part computes under its own; its own where there is none."""
    origin = supported(config)
    if setting is None or setting in OWN_NAMES:  # None: its masks are not made by the registry
        return setting
    own = FOR_EAGER if setting == "eager" else NAME
    names = (own, "sdpa") if setting != "eager" or origin == "eager" else (own,)
    known = setting if setting in ("eager", "sdpa") else "sdpa"
    return next((name for name in names if all(is_alike(file, known, name) for file in files)), setting)


def _configs(model: nn.Module) -> list[Any]:
    return [config for config, _ in _configs_and_files(model)]


def _configs_and_files(model: nn.Module) -> list[tuple[Any, list[ModuleType]]]:
    """The configurations that name a part's implementation, and the files of the modules that have them."""
    found: dict[int, tuple[Any, list[ModuleType]]] = {}
    for module in _users(model):
        config, file = module.config, sys.modules[type(module).__module__]
        files = found.setdefault(id(config), (config, []))[1]
        if file not in files:
            files.append(file)
    return list(found.values())


def _users(model: nn.Module) -> Iterator[Any]:
    """The modules of files that use the registry."""
    for module in model.modules():
        config = getattr(module, "config", None)
        file = sys.modules.get(type(module).__module__)
        if config is not None and hasattr(config, SETTING) and hasattr(file, "ALL_ATTENTION_FUNCTIONS"):
            yield module


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
