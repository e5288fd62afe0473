"""One layer's tensors in a safetensors file: written tensor by tensor, read by memory map.

Written here rather than by the package, which first makes a copy of everything and tells a full disk in its own words.
The format is eight bytes with the header's length, the header in JSON, then the tensors' bytes.
"""

from __future__ import annotations

import ctypes
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from pellucid import legible
from pellucid.engines.cpu.machine.address import address_of, is_plain
from pellucid.record.disk import schema, strict_json
from pellucid.record.disk.atomic import write_atomically
from pellucid.record.disk.plain_file import open_plain, size_of

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LENGTH = 8  # bytes that say how long the header is
_METADATA = schema.map_of(schema.text)
_HEADER = schema.map_of(
    schema.fields(
        {
            "dtype": schema.one_of(*_DTYPES),
            "shape": schema.list_of(schema.whole()),
            "data_offsets": schema.list_of(schema.whole()),
        }
    )
)
LARGEST_HEADER = 1 << 24  # bytes: some hundred thousand tensors
MOST_DIMENSIONS = 16
_ALIGNMENT = 8
_CHUNK = 1 << 24  # bytes written at once


class Written(NamedTuple):
    """What tells later whether a file is still the one that was written."""

    size: int  # bytes
    checksum: int  # CRC-32 of the whole file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Written:
    """Write a file of tensors, whole or not at all; `metadata` goes into its header.

    Raises:
        OSError: it cannot be written.
        TypeError: a tensor of a dtype that the format has not.

    """
    counting = _Counting()
    # The widest numbers first: then each tensor begins where its numbers may lie.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))

    def write(file: BinaryIO) -> None:
        counting.write(file, _header(tensors, metadata or {}))
        for tensor in tensors.values():
            _write_tensor(counting, file, tensor)

    write_atomically(path, write)
    return Written(counting.size, counting.checksum)


class TensorFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path, size: int) -> TensorFile:
    """The tensors of a file, mapped into memory: none is read before it is looked at.

    Args:
        path: the file.
        size: bytes that it must have.

    Raises:
        ValueError: it is no such file.
        OSError: it cannot be read.

    """
    with open_plain(path) as file:
        places, metadata, start = _header_of(file, size)
        storage = _mapped(path, file, size)
    return TensorFile({name: _tensor(storage, start, place) for name, place in places.items()}, metadata)


def described_tensors(path: Path, size: int) -> TensorFile:
    """The same with tensors that have a shape and a dtype alone, on the meta device: the header is all that is read."""
    with open_plain(path) as file:
        places, metadata, _ = _header_of(file, size)
    made = {name: torch.empty(place.shape, dtype=place.dtype, device="meta") for name, place in places.items()}
    return TensorFile(made, metadata)


def checksum_of(path: Path) -> int:
    """The CRC-32 of a file.

    Raises:
        ValueError: it is no plain file.
        OSError: it cannot be read.

    """
    checksum = 0
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


# Reading. What the header says is compared with the file's size before anything is made of it.


class _Place(NamedTuple):
    """Where a tensor lies among the bytes after the header."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    stop: int


def _header_of(file: BinaryIO, size: int) -> tuple[dict[str, _Place], dict[str, str], int]:
    """The place of each tensor, the metadata, and where the first byte after the header is."""
    if size_of(file) != size:
        raise ValueError(f"it has {size_of(file)} bytes of {size}")
    length = int.from_bytes(file.read(_LENGTH), "little")
    if size < _LENGTH or length > min(size - _LENGTH, LARGEST_HEADER):
        raise ValueError(f"its header is of {length} bytes, in a file of {size}")
    try:
        header = strict_json.loads(file.read(length))
        metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else {}
        _METADATA(metadata, "__metadata__")
        _HEADER(header, "tensors")
        return _places(header, size - _LENGTH - length), metadata, _LENGTH + length
    except ValueError as error:
        raise ValueError(f"its header is damaged: {error}") from error


def _places(header: dict[str, Any], size: int) -> dict[str, _Place]:
    """The place of each tensor.

    Raises:
        ValueError: the tensors do not fill the bytes after the header, each its own.

    """
    places = {name: _place(name, entry) for name, entry in header.items()}
    end = 0
    for name, place in sorted(places.items(), key=lambda item: item[1][2:]):
        if place.start != end:
            raise ValueError(f"{legible.name(name)} overlaps another tensor, or leaves a gap")
        end = place.stop
    if end != size:
        raise ValueError(f"the tensors have {end} bytes, and the file {size} for them")
    return places


def _place(name: str, entry: dict[str, Any]) -> _Place:
    dtype, shape, offsets = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if len(offsets) != 2 or len(shape) > MOST_DIMENSIONS or math.prod(max(n, 1) for n in shape) >= schema.INT64:
        raise ValueError(f"{legible.name(name)} has an impossible shape or place")
    place = _Place(dtype, shape, *offsets)
    needed = math.prod(shape) * dtype.itemsize
    if place.stop - place.start != needed:
        raise ValueError(
            f"{legible.name(name)} has {place.stop - place.start} bytes, and its shape "
            f"{legible.name(shape)} needs {needed}"
        )
    return place


def _mapped(path: Path, file: BinaryIO, size: int) -> torch.UntypedStorage:
    """The whole file as memory that is not shared: writing to it changes no file."""
    opened = Path(f"/dev/fd/{file.fileno()}")  # the very file that was looked at, whatever its name says meanwhile
    try:
        found = torch.UntypedStorage.from_file(str(opened if opened.exists() else path), False, size)
    except RuntimeError as error:
        raise ValueError(f"it cannot be mapped into memory ({error})") from error
    return cast(torch.UntypedStorage, found)


def _tensor(storage: torch.UntypedStorage, start: int, place: _Place) -> Tensor:
    if place.stop == place.start:
        return torch.empty(place.shape, dtype=place.dtype, device="cpu")
    own = storage[start + place.start : start + place.stop]
    return torch.empty(0, dtype=place.dtype, device="cpu").set_(own).view(place.shape)


# Writing.


class _Counting:
    def __init__(self) -> None:
        self.size, self.checksum = 0, 0

    def write(self, file: BinaryIO, content: bytes | memoryview) -> None:
        file.write(content)
        self.size += len(content)
        self.checksum = zlib.crc32(content, self.checksum)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
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
