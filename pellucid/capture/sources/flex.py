"""FlexAttention where models call it: the function has no override of its own, so its name is replaced in their files.

What stands in its place can be seen by a TorchFunctionMode, and is torch's function where no mode looks.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import flex_attention as torch_flex
from torch.overrides import handle_torch_function, has_torch_function

_TORCHS = torch_flex.flex_attention
_lock = threading.RLock()  # a model that leaves memory may release its names while others are replaced
_replaced: list[tuple[dict[str, Any], str, Any]] = []  # names of a file, the name, and what it was
_users = 0  # of the names replaced


def flex_attention(original: Callable[..., Any], *tensors: Tensor, **arguments: Any) -> Any:
    """What torch's flex_attention gives; `original` is that, compiled or not."""
    if has_torch_function(tensors):
        return handle_torch_function(flex_attention, tensors, original, *tensors, **arguments)
    return original(*tensors, **arguments)


@contextmanager
def flex_captured(model: nn.Module | None) -> Iterator[None]:
    """Let modes see the calls of flex_attention in the files of a model, or in all that are loaded if None."""
    release = replace_flex(model)
    try:
        yield
    finally:
        release()


def replace_flex(model: nn.Module | None) -> Callable[[], None]:
    """The same from now on, until what is returned is called: names are as before once all have called theirs."""
    global _users
    with _lock:
        _users += 1
        for names in _files(model):
            for name, value in list(names.items()):
                if _is_torchs(value):
                    _replaced.append((names, name, value))
                    names[name] = wraps(_TORCHS)(partial(flex_attention, value))
    return _release


def _release() -> None:
    global _users
    with _lock:
        _users -= 1
        while not _users and _replaced:
            names, name, value = _replaced.pop()
            names[name] = value


def _files(model: nn.Module | None) -> list[dict[str, Any]]:
    """The names of a model's files and of torch's own, or of all files but this one."""
    own = {type(part).__module__ for part in model.modules()} if model is not None else set(sys.modules) - {__name__}
    files = [sys.modules.get(name) for name in own | {torch_flex.__name__}]
    return [vars(file) for file in files if hasattr(file, "__dict__")]


def _is_torchs(value: Any) -> bool:
    """Whether a value is torch's flex_attention, or that compiled: asked so that no code of the value's own is run."""
    if type(value) is not FunctionType:
        return False
    return value is _TORCHS or vars(value).get("_torchdynamo_orig_callable") is _TORCHS
