"""Tensors that end at the edge of a page nobody may touch: a read or write one element beyond kills the process."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_kept: list[mmap.mmap] = []


def at_the_edge(tensor: Tensor) -> Tensor:
    """A contiguous copy whose last element is the last before a page that may be neither read nor written."""
    size = tensor.numel() * tensor.element_size()
    memory, start = _mapped(size)
    offset = memory_size(size) - PAGE - size
    return _copied(tensor, memory, offset, start)


def after_the_edge(tensor: Tensor) -> Tensor:
    """A contiguous copy whose first element is the first after such a page."""
    size = tensor.numel() * tensor.element_size()
    memory, start = _mapped(size, first=True)
    return _copied(tensor, memory, PAGE, start)


def memory_size(size: int) -> int:
    """Whole pages for so many bytes, and one more."""
    return (-(-size // PAGE) + 1) * PAGE


def _mapped(size: int, first: bool = False) -> tuple[mmap.mmap, int]:
    memory = mmap.mmap(-1, memory_size(size))
    _kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbidden = start if first else start + memory_size(size) - PAGE
    if _libc.mprotect(forbidden, PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0):
        raise OSError(ctypes.get_errno(), "mprotect failed")
    return memory, start


def _copied(tensor: Tensor, memory: mmap.mmap, offset: int, start: int) -> Tensor:
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset).view(tensor.shape)
    return copy.copy_(tensor)
