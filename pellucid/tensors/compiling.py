"""Numbers while torch.compile traces: one that has changed from call to call is a symbol, no code can be made of it."""

from __future__ import annotations

from typing import TypeVar, cast

import torch

T = TypeVar("T")


def number(value: T) -> T:
    """`value`; if it is a symbol, the number that it stands for, for which the graph then holds and no other."""
    if not torch.compiler.is_compiling() or not isinstance(value, bool | int | float):
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # half a second to import, and here already

    return cast(T, guard_scalar(value))
