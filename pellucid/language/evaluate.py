"""The values of an expression over a tile, computed with torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.language.expression import TRANSCENDENTAL, Expression, walk

TORCH: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "truediv": torch.true_divide,
    "floordiv": torch.floor_divide,
    "mod": torch.remainder,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "and": torch.bitwise_and,
    "or": torch.bitwise_or,
    "xor": torch.bitwise_xor,
    "not": torch.bitwise_not,
    "where": torch.where,
    "neg": torch.neg,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    **{name: getattr(torch, name) for name in TRANSCENDENTAL},
    "fmod": torch.fmod,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "pow": torch.pow,
    "shl": torch.bitwise_left_shift,
    "shr": torch.bitwise_right_shift,
    "signbit": torch.signbit,
    "largest": lambda like: torch.full_like(like, torch.finfo(like.dtype).max),
}


def evaluate(*roots: Expression, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The value of each of `roots` where its inputs have the values `inputs`, which broadcast against one another.

    Args:
        roots: expressions; what they share is computed once.
        inputs: a tensor for each of "score", "b", "h", "q" and "k" that the expressions use; indices are int64.
        dtype: the precision of every float, captured tensors included.

    Returns:
        One tensor a root, of the shape to which the inputs that it uses broadcast.

    """
    dtypes = {"bool": torch.bool, "int": torch.int64, "float": dtype}
    device = next(iter(inputs.values())).device
    values: dict[int, Tensor] = {}
    nodes = list(walk(*roots))
    uses = Counter(id(node) for parent in nodes for node in parent.args) + Counter(id(root) for root in roots)
    for node in nodes:
        args: tuple[Any, ...] = tuple(values[id(a)] for a in node.args)
        if node.op == "input":
            value = inputs[node.value]
        elif node.op == "constant":
            value = torch.tensor(node.value, dtype=dtypes[node.kind], device=device)
        elif node.op == "load":
            value = (node.value[args] if args else node.value).to(dtypes[node.kind])
        elif node.op == "cast":
            value = args[0].to(dtypes[node.kind])
        else:
            value = TORCH[node.op](*args)
        values[id(node)] = value
        for arg in node.args:  # of many a tile's values, only those that are still needed are held
            uses[id(arg)] -= 1
            if not uses[id(arg)]:
                del values[id(arg)]
    return [values[id(root)] for root in roots]
