"""Memory for results. Large ones come fresh from the system, which clears them page by page as they are written.

Huge pages, where the system lets a program ask for them, save it most of that: a sixth of the time of a window over
262,144 tokens. Small ones come from what glibc kept of those before, if it kept enough.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import lru_cache

import torch
from torch import Tensor

from pellucid.engines.cpu.machine.address import address_of_own

CPU = torch.device("cpu")  # torch reads a name anew each time
LARGE = 32 << 20  # bytes from which on glibc takes every allocation from the system, and gives it back


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor for a result, holding anything."""
    tensor = torch.empty(shape, dtype=dtype, device=CPU)
    if tensor.nbytes >= LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        address = address_of_own(tensor)
        first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        size = ctypes.c_size_t(address + tensor.nbytes - first)
        # It is a wish: whether it was granted does not matter.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), size, mmap.MADV_HUGEPAGE)
    return tensor


@lru_cache(maxsize=1024)  # once is enough
def keep_freed(size: int) -> None:
    """Let glibc keep as many bytes of what is freed as a call's results take, instead of giving them back.

    It keeps twice the largest block that was ever freed, so one is made and freed, which touches no memory. Without it
    some processes had each page of all results cleared anew at each call: a fourth of the time of six readouts.
    """
    torch.empty(min(size, LARGE - mmap.PAGESIZE), dtype=torch.uint8, device="cpu")
