"""What belongs to the context that opened it, and what concerns the whole process and is counted.

A context is that of `contextvars`: each thread and each task of asyncio has its own, and a copy of it can be run
elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class _Entry(Generic[T]):
    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.is_open = True


class Opened(Generic[T]):
    """Things that are open in a context, whatever the order and the place in which they are closed."""

    def __init__(self, name: str) -> None:
        self._entries: ContextVar[tuple[_Entry[T], ...]] = ContextVar(name, default=())

    def here(self) -> tuple[T, ...]:
        """What is open in this context, the innermost last."""
        return tuple(entry.thing for entry in self._entries.get() if entry.is_open)

    @contextmanager
    def holding(self, thing: T) -> Iterator[None]:
        """Let a thing be open inside the `with`. Closed, it is so in every copy of the context too."""
        entry = _Entry(thing)
        self._entries.set((*self._still_open(), entry))
        try:
            yield
        finally:
            entry.is_open = False
            self._entries.set(self._still_open())

    def _still_open(self) -> tuple[_Entry[T], ...]:
        return tuple(entry for entry in self._entries.get() if entry.is_open)


class Counted:
    """A change of the whole process: made by the first that needs it, undone by the last.

    Args:
        change: makes the change, and returns what undoes it.

    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change = change
        self._undo: Callable[[], object] = bool
        self._users = 0
        self._lock = threading.RLock()  # a generator that is closed by the garbage collector may come in between

    @contextmanager
    def made(self) -> Iterator[None]:
        """Have it made inside the `with`."""
        with self._lock:
            if not self._users:
                self._undo = self._change()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._undo()
