"""Whether a tensor's numbers are where its shape and strides say: a storage can be cut or emptied under a tensor.

Torch looks for that in some operations and reads beyond the storage in others.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reach(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to past its last; 0 if it has none."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize


def check(name: str, tensor: Tensor) -> None:
    """Raise ValueError, calling the tensor by its name, if its storage ends before the tensor does."""
    if not torch._C._has_storage(tensor) or tensor.is_nested:
        return  # a wrapper of another tensor, or sparse: torch's operations alone can read it
    needed = reach(tensor)
    held, offset = tensor.untyped_storage().nbytes(), tensor.storage_offset() * tensor.itemsize
    if needed and held < offset + needed:
        raise ValueError(
            f"{name}: a storage of {offset + needed} bytes is needed for {list(tensor.shape)}, got one of {held}: it "
            "was resized; resize it back, or give a tensor of its own"
        )
