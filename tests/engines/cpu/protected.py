"""Tensors that end at the edge of a page nobody may touch: a read or write one element beyond kills the process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.engines import graph
from pellucid.engines.cpu.call.arguments import Prepared

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


class Guarded(TorchDispatchMode):
    """Inside it, what torch allocates has one edge at such a page: results, states and scratch memory of a kernel.

    So has whatever else a kernel is given. Memory that is not initialised holds NaN (or 127s), so that whoever reads
    before writing is found out. The face makes no operator of a call meanwhile, as it does where somebody looks on: of
    what is inside of one nothing would be seen.
    """

    def __init__(self, edge: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.edge = edge
        self.count = 0

    def __enter__(self) -> Guarded:
        self.usual = graph.is_wanted, Prepared.run
        graph.is_wanted, Prepared.run = lambda problem: False, self._run  # type: ignore[method-assign]
        entered: Guarded = super().__enter__()
        return entered

    def __exit__(self, *raised: Any) -> None:
        graph.is_wanted, Prepared.run = self.usual  # type: ignore[method-assign]
        super().__exit__(*raised)

    @property
    def _run(self) -> Callable[..., None]:
        run = self.usual[1]

        def guarded(prepared: Prepared, *given: Any) -> None:
            tensors, made, captured, *others = given
            named = ({name: self._beside(tensor) for name, tensor in own.items()} for own in (tensors, made))
            run(prepared, *named, tuple(map(self._beside, captured)), *others)

        return guarded

    def _beside(self, tensor: Tensor) -> Tensor:
        """A tensor at the edge, as those that kernels write to are; one with strides as it is."""
        return self.edge(tensor) if tensor.is_contiguous() and tensor.numel() and not _is_kept(tensor) else tensor

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function not in _ALLOCATING or not made.numel() or made.device.type != "cpu":
            return made
        self.count += 1
        if function in _UNINITIALISED:
            made.fill_(torch.nan if made.is_floating_point() else 127)
        return self.edge(made)


def _is_kept(tensor: Tensor) -> bool:
    starts = ((ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory)) for memory in _kept)
    return any(start <= tensor.data_ptr() < start + size for start, size in starts)


_aten = torch.ops.aten
_UNINITIALISED = (_aten.empty.memory_format, _aten.new_empty.default)
_ALLOCATING = (*_UNINITIALISED, _aten.zeros.default, _aten.new_zeros.default)
