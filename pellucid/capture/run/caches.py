"""The caches that a watched model's attention modules are handed: they say which calls are of one sequence.

A call continues the layer that was read through the same cache. What a cache has taken back (assisted generation,
prompt lookup, `crop`) is seen from where the next call begins, or from its length when there is no next call.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn

from pellucid.capture.run.recent import Recent
from pellucid.nn import KeyValueCache


@dataclass
class Trace:
    """A layer that was read through a cache."""

    base: str  # the module's name
    recent: Recent  # its last queries
    pass_number: int = 0  # when it was last called
    call_number: int = 0


@dataclass
class Followed:
    """What is known of a cache: the layers read through it, and how long it was in the last pass."""

    traces: dict[str, Trace] = field(default_factory=dict)
    length: int | None = None
    pass_number: int = 0


class Caches:
    """Which cache each module was handed, and the layers that were read through it, as long as the cache lives."""

    def __init__(self) -> None:
        self._given: dict[tuple[int, int], ref[Any]] = {}  # by thread and module
        self._followed: WeakKeyDictionary[Any, Followed] = WeakKeyDictionary()
        self._held: Any = None  # the last one, until it is known whether anything was taken back
        self._passes = self._calls = 0

    def next_pass(self) -> None:
        """Note that a pass of the model begins."""
        self._passes += 1

    def handed(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a module is called with."""
        given = next((value for value in (*args, *kwargs.values()) if _is_cache(value)), None)
        given = getattr(given, "self_attention_cache", given)  # a pair of caches may be made anew for each pass
        place = threading.get_ident(), id(module)
        if given is not None:
            self._given[place] = ref(given)
        else:
            self._given.pop(place, None)

    def of(self, module: nn.Module) -> Any:
        """The cache that a running module was handed, or None."""
        given = self._given.get((threading.get_ident(), id(module)))
        return None if given is None else given()

    def names(self, cache: Any) -> list[str]:
        """The layers read through a cache, those first that were not called for the longest time."""
        traces = self._traces(cache)
        return sorted(traces, key=lambda name: traces[name].call_number)

    def recent(self, cache: Any, name: str) -> Recent:
        """The last queries of a layer read through a cache."""
        trace = self._traces(cache).get(name)
        return Recent() if trace is None else trace.recent

    def begins(self, cache: Any, base: str) -> None:
        """Forget the layers of a module that were read through a cache before, for it is filled from its start again.

        Not those of the same pass: a module that runs twice in one has a place in the cache for each.
        """
        traces = self._traces(cache)
        for name in [name for name, trace in traces.items() if trace.base == base]:
            if traces[name].pass_number != self._passes:
                del traces[name]

    def note(self, cache: Any, base: str, name: str, recent: Recent) -> None:
        """Note that a call of a layer was read through a cache, and hold the cache until the next pass begins.

        Args:
            cache: what the module was handed.
            base: the module's name.
            name: the layer's, in the record.
            recent: its last queries, those of the call among them.

        """
        self._calls += 1
        self._held = cache
        followed = self._followed.setdefault(cache, Followed())
        followed.traces[name] = Trace(base, recent, self._passes, self._calls)
        if followed.pass_number != self._passes or followed.length is None:
            followed.length, followed.pass_number = _length(cache), self._passes

    def taken_back(self) -> tuple[Any, int]:
        """The last cache, and how many positions it has lost since its last pass."""
        followed = None if self._held is None else self._followed.get(self._held)
        if followed is None or not followed.length:
            return self._held, 0
        now = _length(self._held)
        before, followed.length = followed.length, now
        return self._held, before - now if now else 0

    def release(self) -> None:
        """Let go of the last cache."""
        self._held = None

    def _traces(self, cache: Any) -> dict[str, Trace]:
        followed = None if cache is None else self._followed.get(cache)
        return {} if followed is None else followed.traces


def _is_cache(value: Any) -> bool:
    library = sys.modules.get("transformers.cache_utils")
    return isinstance(value, KeyValueCache) or (library is not None and isinstance(value, library.Cache))


def _length(cache: Any) -> int:
    """Positions that a cache holds; 0 where it cannot say."""
    if isinstance(cache, KeyValueCache):
        return cache.length
    with suppress(AttributeError, TypeError, ValueError):  # of layers that hold no positions
        return int(cache.get_seq_length())
    return 0
