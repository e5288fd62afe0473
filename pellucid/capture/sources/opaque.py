"""Functions of libraries that have no override of their own, so that their names are replaced in the files that call.

What stands in the place of one can be seen by a TorchFunctionMode, and is the library's function where no mode looks.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary, finalize

from torch import nn
from torch.overrides import handle_torch_function, has_torch_function

from pellucid.capture.sources.base import Context, Source


class Opaque(Source):
    """One such function.

    Args:
        file: the name of the library's module that has it; one that is not loaded is called by nobody.
        name: the function's.
        handler: see `Source`; after the module it is handed the library's function, compiled or not.

    """

    def __init__(self, file: str, name: str, handler: Callable[..., Any]) -> None:
        super().__init__({self.called: handler})
        self._file, self._name = file, name
        self._lock = threading.RLock()  # a model that leaves memory may release its names while others are replaced
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []  # names of a file, the name, and what it was
        self._users = 0  # of the names replaced
        self._releases: WeakKeyDictionary[nn.Module, Callable[[], Any]] = WeakKeyDictionary()

    def called(self, original: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
        """What the function gives; `original` is the library's, compiled or not."""
        given = (*args, *arguments.values())
        if has_torch_function(given):
            return handle_torch_function(self.called, given, original, *args, **arguments)
        return original(*args, **arguments)

    def watched(self, model: nn.Module) -> AbstractContextManager[object]:
        """Let modes see the calls in a model's files."""
        return self._held(model)

    def everywhere(self) -> AbstractContextManager[object]:
        """Let modes see the calls in all files that are loaded."""
        return self._held(None)

    def take(self, model: nn.Module) -> tuple[Context, ...]:
        """Let modes see the calls in a model's files until it is left, or leaves memory."""
        self._releases[model] = finalize(model, self._replace(model))
        return ()

    def leave(self, model: nn.Module) -> None:
        """Undo `take`; a copy has nothing of its own to be undone."""
        if (release := self._releases.pop(model, None)) is not None:
            release()

    @contextmanager
    def _held(self, model: nn.Module | None) -> Iterator[None]:
        release = self._replace(model)
        try:
            yield
        finally:
            release()

    def _replace(self, model: nn.Module | None) -> Callable[[], None]:
        """Replace names until what is returned is called: they are as before once all have called theirs."""
        with self._lock:
            self._users += 1
            if (function := self._function()) is not None:
                for names in self._files(model, function):
                    self._replace_in(names, function)
        return self._release

    def _replace_in(self, names: dict[str, Any], function: FunctionType) -> None:
        for name, value in list(names.items()):
            if _is(value, function):
                self._replaced.append((names, name, value))
                names[name] = wraps(function)(partial(self.called, value))

    def _release(self) -> None:
        with self._lock:
            self._users -= 1
            while not self._users and self._replaced:
                names, name, value = self._replaced.pop()
                names[name] = value

    def _function(self) -> FunctionType | None:
        """The library's function, whether its name is replaced or not; None where the library is not loaded."""
        known = vars(sys.modules[self._file]).get(self._name) if self._file in sys.modules else None
        if isinstance(known, partial) and known.func == self.called:
            known = known.args[0]
        return known if isinstance(known, FunctionType) else None

    def _files(self, model: nn.Module | None, function: FunctionType) -> list[dict[str, Any]]:
        """The names of a model's files and of the library's own, or of all files."""
        if model is None:
            own = set(sys.modules)
        else:
            own = {type(part).__module__ for part in model.modules()} | {self._file, function.__module__}
        files = [sys.modules.get(name) for name in own]
        return [vars(file) for file in files if hasattr(file, "__dict__")]


def _is(value: Any, function: FunctionType) -> bool:
    """Whether a value is the function, or that compiled: asked so that no code of the value's own is run."""
    if type(value) is not FunctionType:
        return False
    return value is function or vars(value).get("_torchdynamo_orig_callable") is function
