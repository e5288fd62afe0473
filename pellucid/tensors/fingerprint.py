"""The numbers of a tensor in a few, by which ranks see whether they have the same without sending them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.tensors.transformed import is_transformed

WORD, ROW = 8, 1024  # bytes, and words that are summed at a time
LARGE = 1 << 26  # bytes: of more than that in three dimensions, what is repeated is read once


def fingerprint(tensor: Tensor) -> str:
    """A text that is another one where a number is another one; "" of a tensor whose numbers cannot be compared.

    Sums of its bytes, eight at a time, along rows and columns.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type == "meta" or is_transformed(tensor):
        return ""
    with torch.no_grad():
        return _hashed(tensor.detach())


def _hashed(tensor: Tensor) -> str:
    if tensor.ndim > 2 and tensor.numel() * tensor.element_size() > LARGE:
        own = [_hashed(part) for part in (tensor[:1] if tensor.stride(0) == 0 else tensor)]
        numbers: list[Any] = own * (len(tensor) // len(own))
    else:
        numbers = _summed(_words(tensor.contiguous().flatten()))
    return blake2b(repr(numbers).encode(), digest_size=8).hexdigest()


def _words(flat: Tensor) -> Tensor:
    """The bytes of a tensor as int64, zeros after them."""
    own = flat.view(torch.uint8)
    short = -len(own) % WORD
    return (torch.cat((own, own.new_zeros(short))) if short else own).view(torch.int64)


def _summed(words: Tensor) -> list[int]:
    """So few numbers that they can be listed."""
    if len(words) <= 2 * ROW:
        listed: list[int] = words.tolist()
        return listed
    whole = len(words) // ROW * ROW
    rows = words[:whole].view(-1, ROW)
    return [*_summed(rows.sum(1)), *rows.sum(0).tolist(), *words[whole:].tolist()]
