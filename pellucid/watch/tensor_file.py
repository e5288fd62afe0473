"""One layer's tensors in a safetensors file: written tensor by tensor, read by memory map.

Written here rather than by the package, which first makes a copy of everything and tells a full disk in its own words.
The format is eight bytes with the header's length, the header in JSON, then the tensors' bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from pellucid.engines.cpu.address import address_of, is_plain
from pellucid.watch.atomic import write_atomically

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNMENT = 8
_CHUNK = 1 << 24  # bytes written at once


class Written(NamedTuple):
    """What tells later whether a file is still the one that was written."""

    size: int  # bytes
    checksum: int  # CRC-32 of the whole file


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write a file of tensors, whole or not at all.

    Raises:
        OSError: it cannot be written.
        TypeError: a tensor of a dtype that the format has not.

    """
    counting = _Counting()

    def write(file: BinaryIO) -> None:
        counting.write(file, _header(tensors))
        for tensor in tensors.values():
            _write_tensor(counting, file, tensor)

    write_atomically(path, write)
    return Written(counting.size, counting.checksum)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory: nothing is read before it is looked at.

    Raises:
        ValueError: it is no such file.
        OSError: it cannot be read.

    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def checksum_of(path: Path) -> int:
    """The CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


class _Counting:
    def __init__(self) -> None:
        self.size, self.checksum = 0, 0

    def write(self, file: BinaryIO, content: bytes | memoryview) -> None:
        file.write(content)
        self.size += len(content)
        self.checksum = zlib.crc32(content, self.checksum)


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise TypeError(f"{name}: safetensors has no dtype {tensor.dtype}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(counting: _Counting, file: BinaryIO, tensor: Tensor) -> None:
    plain = tensor.detach().cpu().contiguous()
    if not is_plain(plain):  # negated as it is read, or all zero without memory
        plain = torch.empty(plain.shape, dtype=plain.dtype, device="cpu").copy_(plain)
    size = plain.nbytes
    if not size:
        return
    content = memoryview((ctypes.c_char * size).from_address(address_of(plain))).cast("B")
    for start in range(0, size, _CHUNK):
        counting.write(file, content[start : start + _CHUNK])
