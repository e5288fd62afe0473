"""What a source of attention calls is: what it captures, and how that is put in and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

Handlers = Mapping[Callable[..., Any], Callable[..., Any]]
Context = Callable[[Any], AbstractContextManager[object]]  # made of a model, and entered while that is called


class Follower:
    """Who looks at every function of torch that a watched model calls, after it ran."""

    def saw(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Look at a call.

        Args:
            function: torch's.
            args: what it was called with.
            kwargs: the same, by name.
            result: what it gave, which is left alone.

        """

    def forget_all(self) -> None:
        """Let go of what this thread has seen."""


class Source:
    """Where calls of attention come from.

    A source hands calls to `attending.attend`. What it does not say of itself here, it needs not.

    Args:
        handlers: by each function that a mode of torch can see, what gives its result in its place; called with the
            module that attends, and then as the function is.
        follower: sees all other functions of a model that is watched.

    """

    def __init__(self, handlers: Handlers | None = None, follower: Follower | None = None) -> None:
        self.handlers = handlers or {}
        self.follower = follower

    def watched(self, model: nn.Module) -> AbstractContextManager[object]:
        """What is entered while a model is watched."""
        return nullcontext()

    def everywhere(self) -> AbstractContextManager[object]:
        """What is entered where Pellucid computes the attention of whoever calls it."""
        return nullcontext()

    def take(self, model: nn.Module) -> tuple[Context, ...]:
        """Put it into a model from now on; what every call of the model is inside of, functions that can be pickled."""
        return ()

    def leave(self, model: nn.Module) -> None:
        """Undo `take`, also of a copy of the model that was taken."""

    def has_whole(self, model: nn.Module) -> bool:
        """Whether a model that is accelerated needs no other source."""
        return False

    def arrive(self) -> None:
        """Make known in this process what an accelerated model that is unpickled here relies on."""
