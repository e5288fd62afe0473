"""Calls of every kind to be drawn: any argument, odd tensors, magnitudes from 1e-40 to 1e38, functions, readouts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pellucid import masks, readouts, scores
from tests.cases import DTYPES, Call, laid_out, normal, shapes
from tests.cases import masks as attn_masks
from tests.conformance import test_random_functions as random_functions

MAGNITUDES = (1e-40, 1e-20, 1e-3, 1.0, 1.0, 1.0, 1.0, 30.0, 1e3, 1e5, 1e8, 1e12, 1e17)
VALUE_MAGNITUDES = (1e-40, 1e-20, 1.0, 1.0, 1.0, 1e4, 1e20, 1e30)
BIASES = (1.0, 1e3, 1e6, 1e12, 1e30, -1e12, 3e38, -3e38)
ODD = ("plain",) * 5 + ("negative view", "parameter", "inference", "subclass", "alias")
SPECIAL = (torch.nan, torch.inf, -torch.inf)


class Subclass(Tensor):
    """A tensor of a class of the user's own."""


@dataclass(frozen=True)
class Drawn:
    """A call to be made, and all that is needed to make it once more with other numbers."""

    call: Call
    score_mod: Callable[..., Any] | None
    mask_mod: Callable[..., Any] | None
    sinks: Tensor | None
    captured: tuple[Tensor, ...]  # that the functions read, and may be changed in place
    readouts: tuple[readouts.Readout, ...]
    said: str  # the functions, for a failure to be read

    def more(self) -> dict[str, Any]:
        """The keyword arguments beside SDPA's."""
        return {"score_mod": self.score_mod, "mask_mod": self.mask_mod, "sinks": self.sinks}


@st.composite
def drawn_calls(draw: st.DrawFn) -> Drawn:
    """Any call."""
    dtype = draw(st.sampled_from(DTYPES))
    query, key, value, enable_gqa = draw(shapes())
    seed = draw(st.integers(0, 2**20))
    tensors = [
        _tensor(draw, query, dtype, seed, MAGNITUDES),
        _tensor(draw, key, dtype, seed + 1, MAGNITUDES),
        _tensor(draw, value, dtype, seed + 2, VALUE_MAGNITUDES, special=False),
    ]
    heads = query[-3:-2] if enable_gqa else torch.broadcast_shapes(query[-3:-2], key[-3:-2])
    matrix = (*torch.broadcast_shapes(query[:-3], key[:-3]), *heads, query[-2], key[-2])
    all_heads = heads[0] if enable_gqa else (*torch.broadcast_shapes(heads, value[-3:-2]), 1)[0]
    attn_mask = draw(st.none() | attn_masks(matrix, dtype))
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = _clipped(attn_mask.double() * draw(st.sampled_from(BIASES)), attn_mask.dtype)
    call = Call(
        *tensors, attn_mask=attn_mask, is_causal=draw(st.booleans()),
        scale=draw(st.none() | st.sampled_from((0.0, 0.3, -0.5, 2.0, 1e-6))), enable_gqa=enable_gqa,
    )  # fmt: skip
    captured = (random_functions.INTS.clone(), random_functions.FLOATS.clone())
    score_mod, score_said = draw(score_mods(captured, all_heads))
    batch = torch.Size(torch.broadcast_shapes(query[:-3], key[:-3], value[:-3])).numel()
    mask_mod, ids, mask_said = draw(mask_mods(captured, query[-2], key[-2], batch))
    sinks = normal(all_heads, seed=seed + 5) * draw(st.sampled_from((1.0, 1e4, -1e9))) if draw(
        st.sampled_from((False, False, False, True))
    ) else None  # fmt: skip
    if sinks is not None:
        sinks = _clipped(sinks.double(), dtype)
    chosen = draw(_readouts(key[-2]))
    return Drawn(call, score_mod, mask_mod, sinks, captured + ids, chosen, f"{score_said}; {mask_said}")


def _tensor(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    seed: int,
    sizes: tuple[float, ...],
    special: bool = True,
) -> Tensor:
    """Numbers of a drawn size, laid out and made in a drawn way, perhaps with something that is no number."""
    tensor = _clipped(normal(*shape, seed=seed) * draw(st.sampled_from(sizes)), dtype)
    if special and tensor.numel() and draw(st.integers(0, 9)) == 0:
        tensor.view(-1)[seed % tensor.numel()] = draw(st.sampled_from(SPECIAL))
    if draw(st.integers(0, 15)) == 0:
        tensor = tensor * 0
    tensor = laid_out(
        tensor, draw(st.sampled_from(("contiguous",) * 3 + ("transposed", "sliced", "every other", "expanded")))
    )
    return odd(tensor, draw(st.sampled_from(ODD)))


def odd(tensor: Tensor, how: str) -> Tensor:
    """The same numbers in a tensor of another kind."""
    if how == "negative view":
        return torch._neg_view(-tensor)
    if how == "parameter":
        return torch.nn.Parameter(tensor, requires_grad=False)
    if how == "inference":
        with torch.inference_mode():
            return tensor.clone()
    if how == "subclass":
        return tensor.as_subclass(Subclass)
    return tensor.view(tensor.shape) if how == "alias" else tensor


def _clipped(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    most = torch.finfo(dtype).max
    return torch.where(numbers.isinf(), numbers, numbers.clamp(-most, most)).to(dtype)


@st.composite
def score_mods(draw: st.DrawFn, captured: tuple[Tensor, ...], heads: int) -> tuple[Callable[..., Any] | None, str]:
    """A function of the score, or none."""
    kind = draw(st.sampled_from(("none", "none", "none", "random", "huge", "softcap", "alibi")))
    if kind == "random":
        body = draw(random_functions.FLOAT)
        own = {"INTS": captured[0], "FLOATS": captured[1]}
        return random_functions.function("score, b, h, q, k", body, **own), body
    if kind == "huge":
        number = draw(st.sampled_from((1e5, -1e12, 1e25, -3e38)))
        return lambda score, b, h, q, k: score + number * (q >= k), f"score + {number} where causal"
    if kind == "softcap":
        return scores.softcap(20.0), "softcap(20)"
    if kind == "alibi":
        return scores.alibi(torch.arange(1.0, heads + 1)), "alibi"
    return None, "no score_mod"


@st.composite
def mask_mods(
    draw: st.DrawFn, captured: tuple[Tensor, ...], q_len: int, k_len: int, batch: int
) -> tuple[Callable[..., Any] | None, tuple[Tensor, ...], str]:
    """A mask, or none, and what else it captures."""
    kind = draw(st.sampled_from(("none", "none", "random", "window", "prefix", "documents", "lengths", "offset")))
    big = st.sampled_from((0, 1, 5, 2**31 - 1, 2**31, 2**33, sys.maxsize))
    length = max(q_len, k_len)
    if kind == "random":
        body = draw(random_functions.BOOL)
        return random_functions.function("b, h, q, k", body, INTS=captured[0]), (), body
    if kind == "window":
        left, right = draw(big), draw(big)
        return masks.sliding_window(left, right), (), f"sliding_window({left}, {right})"
    if kind == "prefix":
        size = draw(big)
        return masks.prefix(size), (), f"prefix({size})"
    if kind == "offset":
        offset = torch.tensor(draw(st.sampled_from((0, 3, -2, 2**31, -(2**31), 2**40))))
        return masks.causal(offset), (offset,), f"causal({offset})"
    if kind == "documents":
        ids = (torch.arange(length) // 5) << draw(st.sampled_from((0, 0, 31, 32, 40)))
        return masks.documents(ids), (ids,), "documents"
    if kind == "lengths":
        lengths = torch.arange(batch) * 7 % (k_len + 1) if batch else torch.zeros(0, dtype=torch.long)
        return masks.key_lengths(lengths), (lengths,), "key_lengths"
    return None, (), "no mask_mod"


ORDERS = (0.0, 0.25, 0.5, 0.75, 0.999, 1.0, 1.001, 1.4, 1.5, 2.0, 7.0, 100.0, math.inf)


@st.composite
def _readouts(draw: st.DrawFn, k_len: int) -> tuple[readouts.Readout, ...]:
    every: list[readouts.Readout] = [
        readouts.Entropy(), readouts.MaxScore(), readouts.Received(), readouts.mean_distance(),
    ]  # fmt: skip
    if k_len:
        every.append(readouts.TopK(draw(st.integers(1, min(k_len, 20)))))
        keys = draw(st.lists(st.integers(0, k_len - 1), min_size=1, max_size=20))
        every.append(readouts.At(torch.tensor([keys])))
    every.append(readouts.Renyi(draw(st.sampled_from(ORDERS))))
    return tuple(readout for readout in every if draw(st.booleans()))
