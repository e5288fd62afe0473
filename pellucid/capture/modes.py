"""Modes on torch's stack of them, of which each thread has its own: taken off in any order, and lifted for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)


class StackedMode(TorchFunctionMode):
    """A mode that leaves the stack wherever it lies in it; left from another thread, it does nothing any more."""

    is_open = False

    def __enter__(self) -> StackedMode:
        _take_off(lambda mode: isinstance(mode, StackedMode) and not mode.is_open)
        self.is_open = True
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.is_open = False
        _take_off(lambda mode: isinstance(mode, StackedMode) and not mode.is_open)


def _take_off(chosen: Callable[[Any], bool]) -> None:
    """Take modes off this thread's stack, and leave the others in their order."""
    stack = _get_current_function_mode_stack()
    lowest = next((place for place, mode in enumerate(stack) if chosen(mode)), len(stack))
    for _ in stack[lowest:]:
        _pop_mode()
    for mode in stack[lowest:]:
        if not chosen(mode):
            _push_mode(mode)


@contextmanager
def lifted() -> Iterator[None]:
    """Have the modes of this kind that lie uppermost off the stack inside the `with`."""
    off = []
    while isinstance(_get_current_function_mode(), StackedMode):
        off.append(_pop_mode())
    try:
        yield
    finally:
        for mode in reversed(off):
            _push_mode(mode)
