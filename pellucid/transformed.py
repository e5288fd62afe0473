"""Whether a tensor is inside a transform of torch.func or forward-mode differentiation, which only torch sees through.

Such a tensor wraps others: it has no numbers that Python may branch on, and no memory that compiled code may read.
"""

from __future__ import annotations

from torch import Tensor
from torch._C import _functorch  # torch.func itself has no such question
from torch.autograd.forward_ad import unpack_dual


def is_transformed(tensor: Tensor) -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) or forward-mode differentiation looks through `tensor`."""
    return _functorch.is_functorch_wrapped_tensor(tensor) or unpack_dual(tensor).tangent is not None


def has_tangent(tensor: Tensor) -> bool:
    """Whether a tangent rides on it, wherever it is wrapped: forward-mode differentiation, torch.func.jvp's too."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return unpack_dual(tensor).tangent is not None
