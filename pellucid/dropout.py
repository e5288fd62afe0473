"""Dropout of attention weights, decided by a hash of (seed, b, h, q, k): any tiling drops the same weights.

Each row, a query of a head, has two keys of 32 bits and a limit, from 64 bits that are mixed of the seed and its place.
What it takes to decide one of the row's weights is a few operations of 32 bits, for many weights are decided at once by
an engine that has vectors of them; here they are torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.tensors.transformed import is_transformed

# By which a row's weights are told apart: the k-th begins at k times this, and at more for each 2 ** 32 of them.
STEP, FAR_STEP = 0x9E3779B9, 0x85EBCA6B
FACTORS, SHIFTS = (0x21F0AAAD, 0x735A2D97), (16, 15)  # of Wellons' lowbias32, the constants of its second version
BITS = 30  # that are compared with a row's limit


def seed() -> int | Tensor:
    """A seed drawn from torch's default generator, so that torch.manual_seed makes a call repeatable.

    Inside torch.vmap it follows vmap's own `randomness`: one for all, or one for each. A graph of torch.compile draws
    it whenever it runs.
    """
    drawn = torch.randint(2**62, (), device="cpu")
    return drawn if torch.compiler.is_compiling() or is_transformed(drawn) else int(drawn)


def probability(p: float) -> int:
    """A probability in units of 2 ** -62.

    Units of 2 ** -`BITS` are a row's limit, rounded up in as many rows as the rest wants: any p is met in the mean.
    """
    return round(p * 2.0 ** (BITS + 32))


def scale(p: float) -> float:
    """What weights that are kept are multiplied by: 1 / (1 - p); 0 for 1, where none is."""
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def kept(seed: int | Tensor, p: float, place: dict[str, Tensor], heads: int, q_len: int, k_len: int) -> Tensor:
    """Whether each weight is kept, with probability 1 - p: bool, [*batch, heads, queries, keys].

    Args:
        seed: a whole number, or a tensor of one, int64.
        p: the probability that a weight is dropped, from 0 to 1.
        place: the weights' indices b, h, q and k, int64, as `Problem.place` gives them.
        heads: query heads of the whole call, as with the lengths that follow: they number its rows.
        q_len: queries.
        k_len: keys.

    """
    row = _mixed(_mixed((place["b"] * heads + place["h"]) * q_len + place["q"]) ^ seed)  # [*batch, heads, queries, 1]
    first, second, key = _low(row), _low(row >> 32), place["k"]
    if k_len > 2**32:
        second = second ^ _low((key >> 32) * FAR_STEP)
    return _hashed((first + _low(key * STEP)) ^ second) >= _limit(row, p)


def _limit(row: Tensor, p: float) -> Tensor:
    """What a row's hashes are compared with: p in units of 2 ** -`BITS`, rounded up in as many rows as makes p."""
    return _low((_unsigned(row, 32) + probability(p)) >> 32)


def _mixed(x: Tensor) -> Tensor:
    """64 well-mixed bits: the finaliser of splitmix64 (Steele, Lea and Flood 2014), in wrapping int64 arithmetic."""
    x = x + -0x61C8864680B583EB
    x = (x ^ _unsigned(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _unsigned(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _unsigned(x, 31)


def _hashed(x: Tensor) -> Tensor:
    """`BITS` well-mixed bits of int32's 32: lowbias32, whose last step would change lower bits alone."""
    for factor, bits in zip(FACTORS, SHIFTS, strict=True):
        x = (x ^ _unsigned(x, bits)) * factor
    return _unsigned(x, 32 - BITS)


def _low(x: Tensor) -> Tensor:
    """The lower half of int64's bits, as int32."""
    return ((x << 32) >> 32).to(torch.int32)


def _unsigned(x: Tensor, bits: int) -> Tensor:
    """Shifted to the right, zeros shifted in: an int's >> keeps the sign, so what it shifts in is cleared."""
    return (x >> bits) & ((1 << (torch.iinfo(x.dtype).bits - bits)) - 1)
