"""A number that tells a tensor's contents from others, bit for bit: ranks compare it of tensors that all must have."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.tensors.transformed import is_transformed

WHOLE = 1 << 20  # bytes up to which all of them count
SAMPLE = 1 << 13  # numbers of a larger tensor that do
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_weights: dict[torch.device, Tensor] = {}


def of(tensor: Tensor) -> int:
    """A sum of all bits, each number weighed by its place.

    One number that differs is always told, and so are numbers that have changed places: the weights are odd.
    """
    bits = _integers(tensor.detach()).contiguous().flatten()
    if not bits.nbytes % 8:
        bits = bits.view(torch.int64)
    weights = _weights.get(bits.device)
    if weights is None or len(weights) < len(bits):
        weights = _weights[bits.device] = 2 * torch.arange(max(len(bits), SAMPLE), device=bits.device) + 1
    return int((bits * weights[: len(bits)]).sum())


def told(tensor: Tensor) -> int | None:
    """The same of a small tensor, and of some numbers of a large one, evenly spaced; None where they cannot be read."""
    if tensor.is_meta or is_transformed(tensor) or type(tensor) not in (Tensor, torch.nn.Parameter):
        return None
    distinct = tensor[tuple(slice(None, 1 if stride == 0 else None) for stride in tensor.stride())]
    if distinct.nbytes > WHOLE:
        along = max(1, int(SAMPLE ** (1 / distinct.ndim)))
        distinct = distinct[tuple(slice(None, None, -(-size // along)) for size in distinct.shape)]
    return of(distinct)


def _integers(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.element_size()])
