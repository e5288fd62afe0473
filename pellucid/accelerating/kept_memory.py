"""Memory that a forward frees, kept for what the same forward makes next.

glibc gives a freed block of 32 MB or more back to the system at once, and the system clears each page of the next one.
Over a prompt of thousands of tokens that takes longer than all that is neither attention nor a product of matrices.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
# Larger blocks than these still come and go, so that what lies unused between blocks has a bound at any length.
KEEPING = {MMAP_THRESHOLD: 128 << 20, TRIM_THRESHOLD: -1}
# What glibc comes to by itself once a block of 32 MB was freed; so it stays after the first forward.
USUAL = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}
WORTH_RETURNING = 64 << 20  # bytes by which a forward grew the process
# How somebody's environment has malloc keep memory; then it is not ours to set.
SETTINGS = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"}

_lock = threading.RLock()  # a signal's handler may come in the midst
_open = 0  # forwards that run


@contextmanager
def kept(model: object) -> Iterator[None]:
    """During a model's forward, whichever it is, let malloc give nothing back to the system, and much of it afterwards.

    Not where gradients are recorded, for what a forward makes then outlives it; nor under another C library than glibc.
    It holds for the whole process meanwhile, but what other threads than the first ask for, where it is large, comes
    and goes as ever.
    """
    if torch.is_grad_enabled() or not _is_ours_to_set():
        yield
        return
    before = _resident()
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        if _resident() - before > WORTH_RETURNING:
            _libc().malloc_trim(0)


def _count(change: int) -> None:
    """One forward more, or one less; the first and the last of those that run at once set malloc."""
    global _open
    with _lock:
        was, _open = _open, _open + change
        if bool(was) == bool(_open):
            return
        for name, value in (KEEPING if _open else USUAL).items():
            if not _libc().mallopt(name, value):  # glibc before 2.35 maps all blocks of more than 32 MB
                _libc().mallopt(name, USUAL[name])


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


@cache
def _is_ours_to_set() -> bool:
    return platform.libc_ver()[0] == "glibc" and not SETTINGS & set(os.environ)


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as numbers:
            return int(numbers.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0
