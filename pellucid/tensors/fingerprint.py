"""The numbers of a tensor in a few, by which ranks see whether they have the same without sending them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.tensors.transformed import is_transformed

WORD, ROW = 8, 1024  # bytes, and words that are summed at a time
LARGE = 1 << 26  # bytes that are weighed at a time; of more in three dimensions, what is repeated is read once


def fingerprint(tensor: Tensor) -> str:
    """A text that is another one where a number is another one; "" of a tensor whose numbers cannot be compared.

    All of its bytes are read, eight at a time, and summed, each weighed by its place.
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
    """So few numbers that they can be listed.

    Weights are odd, so one word that differs is always told; and without an order, so are words that have changed
    places, as in masks of which rows and columns have the same sums.
    """
    if len(words) <= 2 * ROW:
        listed: list[int] = words.tolist()
        return listed
    whole = len(words) // ROW * ROW
    weights = _weights(words.device)
    sums = [(rows * weights).sum(1) for rows in words[:whole].view(-1, ROW).split(LARGE // WORD // ROW)]
    return [*_summed(torch.cat(sums)), *words[whole:].tolist()]


def _weights(device: torch.device) -> Tensor:
    """An odd number for each place of a row: splitmix64's mixing, with a sign."""
    mixed = torch.arange(1, ROW + 1, device=device) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ mixed >> shift) * factor
    return mixed ^ mixed >> 31 | 1
