"""Which queries, keys or heads a part of the weights is of: a slice, one index, several, or a mask of bools."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Chosen = slice | int | Sequence[int] | Tensor | None


def positions(name: str, chosen: Chosen, length: int, device: torch.device | str) -> Tensor:
    """The positions, int64 [chosen], of `length` there are; all if None.

    Args:
        name: the argument that an error is about.
        chosen: which; negative numbers count from the end.
        length: how many there are.
        device: of the result.

    Raises:
        IndexError: `chosen` is none of these, or beyond `length`; it names the argument, `name`.

    """
    every = torch.arange(length, device=device)
    if chosen is None:
        return every
    try:
        if isinstance(chosen, slice):
            return every[chosen]
        index = torch.as_tensor(chosen, device=device)
        if index.dtype == torch.bool and index.ndim == 1:
            return every[index]
        if index.numel() and (index.dtype == torch.bool or index.is_floating_point() or index.is_complex()):
            raise TypeError  # torch takes a lone True for a dimension more
        return every[index.long()].reshape(-1)  # it takes uint8 for a mask
    except (IndexError, TypeError, ValueError, RuntimeError):
        raise IndexError(f"{name}: a slice, or indices from {-length} to {length - 1}, got {chosen}") from None
