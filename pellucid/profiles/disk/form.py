"""What a profile's file holds, by name, and the checksum that seals it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid import legible
from pellucid.profiles import corpus, excerpts, layout
from pellucid.record.disk import schema

ENDING = ".heads"
FORMAT = "pellucid profile"
VERSION = 2  # in 1, what weights were compared with counted keys that a mask hides
LARGEST = 1 << 36  # bytes of a file
ABOUT = "about"  # the tensor that holds the JSON
SKETCH = ("sketch/codes", "sketch/counts")

SCHEMA = schema.fields(
    {
        "model": schema.text,
        "identity": schema.text,
        "written_by": schema.list_of(schema.text),
        "layout": layout.SCHEMA,
        "corpora": schema.list_of(corpus.SCHEMA),
        "documents": schema.list_of(excerpts.SCHEMA),
    }
)


class ProfileError(ValueError):
    """A profile in a file that cannot be opened, written or merged: the one error of whatever is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(legible.message(message))


def content_of(document: dict[str, Any]) -> Tensor:
    """JSON as a tensor of bytes."""
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return torch.asarray(bytearray(text.encode("utf-8", "surrogatepass")), dtype=torch.uint8, device="cpu")


def seal_of(tensors: Mapping[str, Tensor]) -> str:
    """The CRC-32 of everything in a file: each tensor's name, dtype, shape and bytes, in the order of the names."""
    found = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(), found)
        if tensor.numel():
            found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
