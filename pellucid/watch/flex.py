"""FlexAttention of a model, led to whoever watches: the function is replaced where the model's files call it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from torch import nn

from pellucid.watch.torch_functions import flex_attention

MODULE = "torch.nn.attention.flex_attention"


@contextmanager
def flex_captured(model: nn.Module) -> Iterator[None]:
    """Replace flex_attention, compiled or not, in torch and in the files of the model's modules."""
    module = sys.modules.get(MODULE)
    if module is None:
        yield
        return
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for file in {MODULE, *(type(part).__module__ for part in model.modules())}:
            names = vars(sys.modules[file])
            for name, value in list(names.items()):
                if _is_flex(value, module.flex_attention):
                    replaced.append((names, name, value))
        for names, name, value in replaced:
            names[name] = _led(value)
        yield
    finally:
        for names, name, value in replaced:
            names[name] = value


def _is_flex(value: Any, original: Callable[..., Any]) -> bool:
    return value is original or (callable(value) and getattr(value, "_torchdynamo_orig_callable", None) is original)


def _led(original: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(original)(partial(flex_attention, original))
