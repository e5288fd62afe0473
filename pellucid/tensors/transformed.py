"""Whether a tensor is inside a transform of torch.func or forward-mode differentiation, which only torch sees through.

Such a tensor wraps others: it has no numbers that Python may branch on, and no memory that compiled code may read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _functorch  # torch.func itself has no such question
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual


def is_transformed(tensor: Tensor) -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) or forward-mode differentiation looks through `tensor`."""
    return _functorch.is_functorch_wrapped_tensor(tensor) or unpack_dual(tensor).tangent is not None


def has_tangent(tensor: Tensor) -> bool:
    """Whether a tangent rides on it, wherever it is wrapped: forward-mode differentiation, torch.func.jvp's too."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return unpack_dual(tensor).tangent is not None


def is_inside() -> bool:
    """Whether code runs inside a transform of torch.func or in forward mode; known while torch.compile traces."""
    return _functorch.maybe_current_level() is not None or forward_ad._current_level >= 0


is_inside._dynamo_marked_constant = True  # type: ignore[attr-defined] # what torch.compiler.assume_constant_result says


def one_by_one(function: Callable[..., tuple[Tensor, ...]], *gradients: Tensor | None) -> tuple[Tensor, ...]:
    """What `function` makes of gradients, of each in its turn where torch.autograd gives many at once.

    `is_grads_batched`, and `jacobian` with `vectorize`, wrap many gradients in a tensor that only some of torch's
    operations know, views not among them.
    """
    batched = [g for g in gradients if g is not None and _functorch.is_legacy_batchedtensor(g)]
    if not batched:
        return function(*gradients)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    size = len(torch._remove_batch_dim(batched[0], level, 0, 0))
    every = [None if g is None else torch._remove_batch_dim(g, level, size, 0) for g in gradients]
    made = [function(*(None if g is None else g[i] for g in every)) for i in range(size)]
    return tuple(torch._add_batch_dim(torch.stack(parts), 0, level) for parts in zip(*made, strict=True))
