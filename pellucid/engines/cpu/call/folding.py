"""Sums over what was broadcast or shared, halves added to halves: in one order for any number of threads."""

from __future__ import annotations

import torch
from torch import Tensor


def summed_to(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor added up over what was broadcast, or shared, to a shape."""
    for _ in range(tensor.ndim - len(shape)):
        tensor = folded(tensor, 0)
    for dim, size in enumerate(shape):
        if tensor.shape[dim] != size:
            parts = tensor.unflatten(dim, (size, -1))
            tensor = folded(parts, dim + 1)
    return tensor


def folded(tensor: Tensor, dim: int) -> Tensor:
    """The sum over a dimension, halves added to halves."""
    while (size := tensor.shape[dim]) > 1:
        half = size // 2
        low, high = tensor.narrow(dim, 0, half), tensor.narrow(dim, half, half)
        rest = tensor.narrow(dim, 2 * half, size - 2 * half)
        tensor = low + high if not rest.numel() else torch.cat([low + high, rest], dim)
    return tensor.squeeze(dim)
