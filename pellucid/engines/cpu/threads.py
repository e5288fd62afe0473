"""Running compiled code on torch's own threads, through torch_parallel_for of its stable C interface (torch 2.10 on).

No second pool, so no oversubscription; torch.set_num_threads is honoured, and inside a parallel region it is
sequential.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from pathlib import Path

import torch

_local = threading.local()


def run(address: int, context: int, items: int) -> None:
    """Call the compiled `void(int64 begin, int64 end, void *context)` for items 0 … items - 1, one a thread."""
    if items == 1:
        _direct(address)(0, 1, context)
        return
    failed = _parallel_for()(0, items, 1, address, context)
    if failed:
        raise RuntimeError("torch_parallel_for failed")


def scratch(size: int) -> int:
    """The address of `size` bytes of scratch memory that belong to the calling thread until its next call."""
    buffer: torch.Tensor | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.numel() < size + 64:
        buffer = _local.buffer = torch.empty(size + 64, dtype=torch.uint8)
    return (buffer.data_ptr() + 63) & ~63


@cache
def _parallel_for() -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    library = ctypes.CDLL(str(next(Path(torch.__file__).parent.joinpath("lib").glob("libtorch_cpu.*"))))
    call = library.torch_parallel_for
    call.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    call.restype = ctypes.c_int32
    return call


@cache
def _direct(address: int) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
