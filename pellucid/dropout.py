"""Dropout of attention weights, decided by a hash of (seed, b, h, q, k): any tiling drops the same weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.tensors.transformed import is_transformed


def seed() -> int | Tensor:
    """A seed drawn from torch's default generator, so that torch.manual_seed makes a call repeatable.

    Inside torch.vmap it follows vmap's own `randomness`: one for all, or one for each. A graph of torch.compile draws
    it whenever it runs.
    """
    drawn = torch.randint(2**62, (), device="cpu")
    return drawn if torch.compiler.is_compiling() or is_transformed(drawn) else int(drawn)


def kept(seed: int | Tensor, p: float, place: dict[str, Tensor], heads: int, q_len: int, k_len: int) -> Tensor:
    """Whether each weight is kept, with probability 1 - p: bool, [*batch, heads, queries, keys].

    Args:
        seed: a whole number, or a tensor of one, int64.
        p: the probability that a weight is dropped, from 0 to 1.
        place: the weights' indices b, h, q and k, int64, as `Problem.place` gives them.
        heads: query heads of the whole call, as with the lengths that follow: they number its weights.
        q_len: queries.
        k_len: keys.

    """
    row = (place["b"] * heads + place["h"]) * q_len + place["q"]
    bits = _mixed(_mixed(row * k_len + place["k"]) ^ seed)
    return bits >= math.ceil(p * 2**53)


def _mixed(x: Tensor) -> Tensor:
    """53 well-mixed bits: the finaliser of splitmix64 (Steele, Lea and Flood 2014), in wrapping int64 arithmetic."""
    x = x + -0x61C8864680B583EB
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return _shifted(x ^ _shifted(x, 31), 11)


def _shifted(x: Tensor, bits: int) -> Tensor:
    # int64's >> keeps the sign: clear what it shifts in.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
