"""Where tensors lie: the one gate through which addresses go to compiled code.

A kernel reads and writes whatever an address leads to. So a tensor gets none unless it is simply numbers in the memory
of this process, and its storage holds all of them.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

# What torch's dispatcher knows of such a tensor. Any other key stands for numbers that are not there, or not as they
# lie: negated as they are read, all zero, sparse, quantized, fake, a wrapper of others.
_PLAIN = reduce(or_, map(DispatchKeySet, (
    DispatchKey.CPU, DispatchKey.ADInplaceOrView, DispatchKey.AutogradCPU, DispatchKey.AutocastCPU,
))).raw_repr()  # fmt: skip


class AddressError(ValueError):
    """A tensor is not simply numbers in memory, or its storage was cut."""


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is simply numbers in the memory of this process."""
    return not torch._C._dispatch_keys(tensor).raw_repr() & ~_PLAIN


def plain(tensor: Tensor) -> Tensor:
    """A tensor with simply its numbers in memory: itself if it is one, else a copy.

    What autograd hands to a backward pass may be negated as it is read, or zeros without memory.
    """
    if is_plain(tensor):
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor.to_dense())


def address_of(tensor: Tensor, reach: int | None = None) -> int:
    """The address of the first element of a tensor that others know as well: its storage may have been cut.

    Args:
        tensor: one that is known to be plain but for what is seen here: that it has memory, and enough.
        reach: what `storage.reach` gives; a contiguous tensor's is the size of its numbers, and need not be given.

    Raises:
        AddressError: the memory is not there.

    """
    held, address = tensor.untyped_storage(), tensor.data_ptr()
    try:
        start = held.data_ptr()
    except RuntimeError:  # zeros that have no memory, or a wrapper's
        start = 0
    reach = tensor.nbytes if reach is None else reach
    if reach and (not start or address + reach > start + held.nbytes()):
        raise AddressError(f"a tensor {list(tensor.shape)} of {reach} bytes has a storage of {held.nbytes()}")
    return address


def address_of_own(tensor: Tensor) -> int:
    """The address of a tensor that was just made, which nobody else knows. Raises AddressError if it is not in memory.

    Its storage is left alone: where that is seen from Python, and kept by a thread that is not Python's, its end would
    be the thread's end a second time.
    """
    address = tensor.data_ptr()
    if not address and tensor.numel():
        raise AddressError(f"a new tensor {list(tensor.shape)} has no memory on {tensor.device}")
    return address
