"""Calls of a watched model's modules, led through whoever watches them.

By a subclass of each module's class rather than by hooks: it runs also where Ctrl-C ends a forward, torch's own modules
stay on the paths that hooks turn off, and no copy of a module has it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

from pellucid.capture.attending import called, generating, sessions_of

_lock = threading.RLock()
_watchers: Counter[int] = Counter()  # of each module, by its id
_kinds: WeakKeyDictionary[type[nn.Module], Any] = WeakKeyDictionary()  # a class: its subclass that is led, weakly


def subclass(own: type[nn.Module], names: dict[str, Any]) -> type[nn.Module]:
    """A subclass under the name of a class, for modules of it; what the class does with its subclasses is not done."""
    first = type("Unnoticed", (), {"__init_subclass__": classmethod(lambda cls, **options: None)})
    kept = {name: own.__dict__[name] for name in ("__module__", "__doc__") if name in own.__dict__}
    return type(own.__name__, (first, own), kept | {"__qualname__": own.__qualname__} | names)


@contextmanager
def led(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let calls of modules go through `attending.called` inside the `with`; they are of their own class afterwards."""
    own = list(modules)
    for module in own:
        _take(module)
    try:
        yield
    finally:
        for module in own:
            _release(module)


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has whether it is watched or not."""
    kind = type(module)
    return kind.__dict__.get("_unwatched", kind)


def set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module a class of its own, watched or not."""
    with _lock:
        _set(module, _led(kind) if _watchers[id(module)] else kind)


def _take(module: nn.Module) -> None:
    with _lock:
        if not _watchers[id(module)]:
            _set(module, _led(type(module)))
        _watchers[id(module)] += 1


def _release(module: nn.Module) -> None:
    with _lock:
        _watchers[id(module)] -= 1
        if not _watchers[id(module)]:
            del _watchers[id(module)]
            _set(module, own_class(module))


def _set(module: nn.Module, kind: type[nn.Module]) -> None:
    # Past what a class may say of setting attributes, and past `__class__` of a class that is led.
    object.__dict__["__class__"].__set__(module, kind)


def _led(kind: type[nn.Module]) -> type[nn.Module]:
    known = _kinds.get(kind)
    found = known() if known is not None else None
    if found is None:
        found = _led_subclass(kind)
        _kinds[kind] = ref(found)
    return found


def _led_subclass(own: type[nn.Module]) -> type[nn.Module]:
    """A class whose modules are led. They say that they are of their own class, and copies of them are."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return own.__call__(self, *args, **kwargs)
        return called(self, own.__call__, args, kwargs)

    def reduced(self: Any, protocol: Any) -> Any:
        found: Any = own.__reduce_ex__(self, protocol)
        if not isinstance(found, tuple):
            return found
        return (found[0], tuple(own if value is type(self) else value for value in found[1]), *found[2:])

    names: dict[str, Any] = {"_unwatched": own, "__class__": property(lambda self: own)}
    names |= {"__call__": call, "__reduce_ex__": reduced}
    for name, led_by in _LED_METHODS.items():
        method: Any = getattr(own, name, None)
        if callable(method):
            names[name] = led_by(method)
    return subclass(own, names)


def _generate(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def generate(self: Any, *args: Any, **options: Any) -> Any:
        with generating(self, options):
            return own(self, *args, **options)

    return generate


def _prepare_inputs(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)  # the library looks at its arguments
    def prepare(self: Any, input_ids: Any, *args: Any, **options: Any) -> Any:
        for session in sessions_of(self):
            session.tokens.tell(input_ids)
        return own(self, input_ids, *args, **options)

    return prepare


_LED_METHODS = {"generate": _generate, "prepare_inputs_for_generation": _prepare_inputs}
