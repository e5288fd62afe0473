"""What torch.compile cannot have in a graph: numbers that it makes symbols of, and calls that run beside its graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

T = TypeVar("T")
Made = TypeVar("Made")


def number(value: T) -> T:
    """`value`; if it is a symbol, the number that it stands for, for which the graph then holds and no other."""
    if not torch.compiler.is_compiling() or not isinstance(value, bool | int | float):
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # half a second to import, and here already

    return cast(T, guard_scalar(value))


def beside_graphs(function: Callable[..., Made], why: str, *arguments: Any) -> Made:
    """What a function gives; torch.compile, which it cannot be a part of, goes on after it, or says why not."""
    if not torch.compiler.is_compiling():
        return function(*arguments)
    torch._dynamo.graph_break(msg=why)
    made: Made = torch.compiler.disable(function)(*arguments)
    return made
