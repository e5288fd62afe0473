"""Running compiled code on torch's own threads, through torch_parallel_for of its stable C interface (torch 2.10 on).

No second pool, so no oversubscription; torch.set_num_threads is honoured, and inside a parallel region it is
sequential.

A forked child has none of its parent's threads, and the pool does not notice: whoever asks it for work waits for ever,
torch's own operations too. So a child computes on the thread that calls, and if kernels had threads in the parent,
torch is told that it has one.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from pellucid.engines.cpu.machine.address import address_of_own


@dataclass
class _Pool:
    """What is known of torch's threads in this process."""

    used: bool = False  # kernels have run on several
    lost: bool = False  # they stayed behind in the parent

    def forked(self) -> None:
        """In a child just forked."""
        self.lost = True
        if self.used:
            torch.set_num_threads(1)


_pool = _Pool()
_local = threading.local()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forked)


def run(address: int, context: int, items: int) -> None:
    """Call the compiled `void(int64 begin, int64 end, void *context)` for items 0 … items - 1, one a thread.

    Raises:
        RuntimeError: torch could not run it.

    """
    alone, together = _direct(address), None
    if items > 1:
        together, _pool.used = _parallel_for(), True
    # Whether threads are lost is asked last of all: a signal's handler may have forked in the midst.
    failed = alone(0, items, context) if together is None or _pool.lost else together(0, items, 1, address, context)
    if failed:
        raise RuntimeError("torch_parallel_for failed")


def scratch(size: int) -> Tensor:
    """At least `size` bytes of scratch memory, `aligned`, that belong to the calling thread until its next call.

    Who calls holds it until the kernel has run: a signal's handler, or what the collector deletes, may attend in the
    midst, need more, and leave more to the calls that follow.
    """
    buffer: Tensor | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.numel() < size + 64:
        buffer = _local.buffer = torch.empty(size + 64, dtype=torch.uint8, device="cpu")
    return buffer


def aligned(scratch: Tensor) -> int:
    """The first address in scratch memory at which a cache line begins."""
    return (address_of_own(scratch) + 63) & ~63


@cache
def _parallel_for() -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    library = ctypes.CDLL(str(next(Path(torch.__file__).parent.joinpath("lib").glob("libtorch_cpu.*"))))
    call = library.torch_parallel_for
    call.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    call.restype = ctypes.c_int32
    return call


@lru_cache(maxsize=1024)
def _direct(address: int) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
