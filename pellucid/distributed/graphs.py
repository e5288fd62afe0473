"""What torch.compile cannot have in a graph, run beside its graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


def beside_graphs(function: Callable[..., Made], why: str, *arguments: Any) -> Made:
    """What a function gives; torch.compile, which it cannot be a part of, goes on after it, or says why not."""
    if not torch.compiler.is_compiling():
        return function(*arguments)
    torch._dynamo.graph_break(msg=why)
    made: Made = torch.compiler.disable(function)(*arguments)
    return made
