"""The functions that a model calls, seen by a TorchFunctionMode and handed to the sources that know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pellucid.capture.attending import is_attending, running_module
from pellucid.capture.calls.mask import whole_of
from pellucid.capture.modes import StackedMode
from pellucid.capture.sources import SOURCES

HANDLERS = {function: handler for source in SOURCES for function, handler in source.handlers.items()}
FOLLOWERS = tuple(source.follower for source in SOURCES if source.follower is not None)
NOBODY = nn.Identity()  # attends where nobody watches


class Capture(StackedMode):
    """Hands calls of attention to whoever watches the module that is running; all else runs as it is.

    What torch.compile traces stays as it is.

    Args:
        also_unwatched: whether Pellucid computes calls that nobody watches too.

    """

    def __init__(self, also_unwatched: bool = False) -> None:
        super().__init__()
        self._otherwise = NOBODY if also_unwatched else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_attending() or not self.is_open:
            return func(*args, **(kwargs or {}))
        handler = None if torch.compiler.is_compiling() else HANDLERS.get(func)
        module = None if handler is None else running_module()
        if module is None:  # asked like this because a module may have a length, which may be 0
            module = self._otherwise
        if handler is None or module is None:
            result = func(*args, **(kwargs or {}))
            if self._otherwise is None:
                for follower in FOLLOWERS:
                    follower.saw(func, args, kwargs or {}, result)
            return result
        return handler(
            module, *map(whole_of, args), **{name: whole_of(value) for name, value in (kwargs or {}).items()}
        )

    def __exit__(self, *exception: Any) -> None:
        for follower in FOLLOWERS:
            follower.forget_all()
        super().__exit__(*exception)
