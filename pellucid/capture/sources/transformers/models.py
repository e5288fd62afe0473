"""Attention of models of the transformers library: its two registries, by a name of our own or in others' places.

At every call the library asks a registry for an attention function, and another for the mask function of that name.
For a model that is watched we stand in for the functions behind the names that it has, in the context that watches. An
accelerated model has a name of our own, one for "eager" and one for all others; but code that asks what the name is
must go the way that it goes without us, so there it keeps its name and is stood in for too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.capture.attending import is_attending
from pellucid.capture.contexts import Counted, Opened
from pellucid.capture.sources.transformers.functions import (
    INSTEAD_OF,
    Own,
    attention_forward,
    eager_of,
    led_forward,
    mask_function,
)
from pellucid.capture.sources.transformers.names import is_alike
from pellucid.capture.sources.transformers.origin import FOR_EAGER, LED, NAME, OWN_NAMES, SETTING


def is_transformers(model: nn.Module) -> bool:
    """Whether a model has modules that ask the library's registry."""
    return "transformers" in sys.modules and next(_users(model), None) is not None


def register() -> None:
    """Make the name "pellucid" known to transformers, for `model.set_attn_implementation("pellucid")`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    for name in OWN_NAMES:
        AttentionInterface.register(name, attention_forward)
        AttentionMaskInterface.register(name, mask_function)


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Let a model's attention run through Pellucid inside the `with`, in this context.

    Its configuration stays as it is, but for implementations that are asked for in another way, as flash attention is;
    what anybody sets meanwhile is set back.
    """
    register()
    with _kept_settings(model), standing_in(model):
        replace_settings(model, _is_of_another_kind)
        yield


def _is_of_another_kind(name: str | None) -> bool:
    return name not in (None, *OWN_NAMES, *LED)


_settings_lock = threading.RLock()
_settings: dict[int, tuple[int, Any, str | None]] = {}  # of each configuration that is watched: by how many, and before


@contextmanager
def _kept_settings(model: nn.Module) -> Iterator[None]:
    """Set a model's implementations back to what they were before the first watched it, when the last leaves."""
    configs = _configs(model)
    with _settings_lock:
        for config in configs:
            users, _, before = _settings.get(id(config), (0, config, getattr(config, SETTING)))
            _settings[id(config)] = (users + 1, config, before)
    try:
        yield
    finally:
        with _settings_lock:
            for config in configs:
                users, _, before = _settings.pop(id(config))
                if users > 1:
                    _settings[id(config)] = (users - 1, config, before)
                else:
                    setattr(config, SETTING, before)


def settle(model: nn.Module) -> None:
    """Let a model's implementations stay as they are set now, also where somebody watches it."""
    with _settings_lock:
        for config in _configs(model):
            if id(config) in _settings:
                _settings[id(config)] = (_settings[id(config)][0], config, getattr(config, SETTING))


def replace_settings(
    model: nn.Module, chosen: Callable[[str | None], bool] = lambda name: True
) -> list[tuple[Any, str | None]]:
    """Set the implementation of all parts of a model that can be set; what it was, to be set again."""
    before = []
    for config, files in _configs_and_files(model):
        name = getattr(config, SETTING)
        if chosen(name):
            before.append((config, name))
            setattr(config, SETTING, _name_instead(name, files))
    return before


def _name_instead(setting: str | None, files: list[ModuleType]) -> str | None:
    """The name under which Pellucid computes what a part computes under its own: ours, or one of LED."""
    if setting is None or setting in OWN_NAMES:  # None: its masks are not made by the registry
        return setting
    if setting == "eager":
        ours = all(is_alike(file, "eager", FOR_EAGER) and eager_of(file) is not None for file in files)
        return FOR_EAGER if ours else "eager"
    return NAME if all(is_alike(file, "sdpa", NAME) for file in files) else "sdpa"


def note_settings(model: nn.Module, before: list[tuple[Any, str | None]]) -> None:
    """Let the modules of a model, and of its copies, know what they had before `replace_settings`."""
    names = {id(config): name or "eager" for config, name in before}
    for module in _users(model):
        module.__dict__[INSTEAD_OF] = names[id(module.config)]


def set_back(model: nn.Module) -> None:
    """Undo `replace_settings` and `note_settings`."""
    for module in model.modules():
        name = module.__dict__.pop(INSTEAD_OF, None)
        config: Any = getattr(module, "config", None)
        if name is not None and getattr(config, SETTING, None) is not None:  # None was None before
            setattr(config, SETTING, name)


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


class _Standin:
    """For whom Pellucid stands in: the modules and configurations of one model, or all; and for which names."""

    def __init__(self, model: nn.Module | None, names: tuple[str, ...]) -> None:
        self.names = names
        self.modules = None if model is None else {id(module) for module in model.modules()}
        self.configs = None if model is None else {id(config) for config in _configs(model)}

    def serves(self, name: str, module: nn.Module) -> bool:
        """Whether for a module that calls what has this name."""
        return name in self.names and (self.modules is None or id(module) in self.modules)

    def masks(self, name: str, config: Any) -> bool:
        """Whether for the masks of a configuration that has this name."""
        return name in self.names and (self.configs is None or id(config) in self.configs)


_standins: Opened[_Standin] = Opened("standins")


@contextmanager
def standing_in(model: nn.Module | None, *names: str) -> Iterator[None]:
    """Stand in for functions of the library, for the modules of a model, or for all if None; in this context.

    Args:
        model: whose modules are served.
        names: of the functions, of LED; all if none is given.

    """
    with REPLACED.made(), _standins.holding(_Standin(model, names or LED)):
        yield


def _replace() -> Callable[[], None]:
    """Put functions that ask who is served in the place of the library's; what puts those back."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    replaced: list[tuple[Any, str, Any]] = []
    registries: list[tuple[Any, Any]] = [(ALL_ATTENTION_FUNCTIONS, _attention), (ALL_MASK_ATTENTION_FUNCTIONS, _mask)]
    for registry, ours in registries:
        for mapping in (registry._global_mapping, registry._local_mapping):
            for name in LED:
                if name in mapping:
                    replaced.append((mapping, name, mapping[name]))
                    mapping[name] = partial(ours, Own(name, mapping[name]))
    kind: Any = type(ALL_ATTENTION_FUNCTIONS)
    get_interface = kind.get_interface

    def led_interface(self: Any, attn_implementation: Any, default: Any) -> Any:
        found = get_interface(self, attn_implementation, default)
        return partial(_attention, Own("eager", default)) if found is default and default is not None else found

    kind.get_interface = led_interface

    def put_back() -> None:
        kind.get_interface = get_interface
        for mapping, name, original in replaced:
            mapping[name] = original

    return put_back


REPLACED = Counted(_replace)


def _attention(own: Own, module: nn.Module, *tensors: Any, **arguments: Any) -> tuple[Tensor, Any]:
    if torch.compiler.is_compiling() or is_attending():
        return own.function(module, *tensors, **arguments)
    if any(standin.serves(own.name, module) for standin in _standins.here()):
        return led_forward(own.name, own, module, *tensors, **arguments)
    return own.function(module, *tensors, **arguments)


def _mask(own: Own, *args: Any, **arguments: Any) -> Any:
    if torch.compiler.is_compiling():
        return own.function(*args, **arguments)
    config = arguments.get("config")
    if any(standin.masks(own.name, config) for standin in _standins.here()):
        return mask_function(*args, **(arguments | {"origin": own.name}))
    return own.function(*args, **arguments)
