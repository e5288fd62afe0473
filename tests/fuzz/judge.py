"""Between which bounds each number of a call must lie, from float64 and from how far rounding may move a score.

A score that may be off by d makes a weight uncertain by about 2 d, and where d is large (scores of 1e10 in float32)
nearly anything is right, but not everything: weights stay between bounds that this file computes, rows sum to 1, and
whatever is a mean of values lies where the bounds of the weights allow. So one rule judges scores of every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tests.cases import Call, default_dtype, largest, mapped, places

BEYOND = 1e36  # what is added up to a score and is larger may be infinite on the way, in one order and not in another
TINY = 1e-37  # below it float32 loses digits


@dataclass(frozen=True)
class Bounds:
    """What a call's numbers are, within what rounding may do. Rows in which infinity may arise are left out."""

    scores: Tensor  # float64 [..., q_len, k_len], -inf where masked
    off: Tensor  # by how much each may be off
    least: Tensor  # weight of each key
    most: Tensor
    sink: Tensor | None  # [..., q_len, 1]
    judged: Tensor  # bool [..., q_len], rows that are judged
    nan: Tensor  # bool [..., q_len], rows with NaN or +inf among the scores: NaN in all that is a number
    eps: float  # of the computation

    @property
    def empty(self) -> Tensor:
        """Rows that may look at no key."""
        return (self.scores == -torch.inf).all(-1)


def bounds(
    call: Call,
    score_mod: Callable[..., Any] | None,
    mask_mod: Callable[..., Any] | None,
    sinks: Tensor | None,
) -> Bounds:
    """The bounds of a call's weights."""
    number = torch.float64 if call.query.dtype == torch.float64 else torch.float32
    eps = torch.finfo(number).eps
    query, key = call.query.detach().double(), call.key.detach().double()
    if call.enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = (query.shape[-1] or 1) ** -0.5 if call.scale is None else call.scale
    products = query @ key.mT
    size = query.abs() @ key.abs().mT
    leading = torch.broadcast_shapes(products.shape[:-2], call.value.shape[:-2]) if not call.enable_gqa else (
        *torch.broadcast_shapes(products.shape[:-3], call.value.shape[:-3]), products.shape[-3],
    )  # fmt: skip
    shape = (*leading, *products.shape[-2:])
    raw = _rounded(products * scale, number).expand(shape)
    beyond = ((size > BEYOND) | (size * abs(scale) > BEYOND)).expand(shape)
    off = (2 * eps * (2 + query.shape[-1] ** 0.5) * size * abs(scale) + TINY).expand(shape)
    off = off + 4 * eps * raw.abs().nan_to_num(0.0, 0.0, 0.0)
    scores, off, over = _modified(score_mod, raw, off, number, eps)
    beyond = beyond | over
    if call.attn_mask is not None and call.attn_mask.dtype != torch.bool:
        mask = call.attn_mask.detach().double()
        scores = _rounded(scores + mask, number)
        off = off + 2 * eps * scores.abs().nan_to_num(0.0, 0.0, 0.0)
        beyond = beyond | (scores.abs() > BEYOND * 300) & scores.isfinite()
    allowed = _allowed(call, mask_mod, scores)
    scores = scores.masked_fill(~allowed, -torch.inf)
    beyond = beyond & allowed
    off = torch.where(scores.isfinite(), off, 0.0)
    sink = None
    if sinks is not None:
        sink = _rounded(sinks.detach().double(), number).reshape((-1, 1, 1) if scores.ndim > 2 else (1, 1))
        sink = sink.expand(*scores.shape[:-1], 1)
    least, most = _weights(scores, off, sink, eps)
    nan = (scores.isnan() | (scores == torch.inf)).any(-1)
    if sink is not None:
        nan = nan | (sink.isnan() | (sink == torch.inf))[..., 0]
    return Bounds(scores, off, least, most, sink, ~beyond.any(-1), nan, eps)


def _rounded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    return numbers.to(dtype).double()


def _modified(
    score_mod: Callable[..., Any] | None, raw: Tensor, off: Tensor, number: torch.dtype, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores that a function makes of `raw`, how far they may be off, and where that is not known."""
    if score_mod is None:
        return raw, off, torch.zeros(raw.shape, dtype=torch.bool)
    with default_dtype(number):
        found = mapped(score_mod, raw.to(number)).double()
        moved = [mapped(score_mod, (raw + way * off).to(number)).double() for way in (-1, 1)]
    exact = mapped(score_mod, raw.clone())
    spread = torch.stack([(other - found).abs().nan_to_num(0.0, 0.0, 0.0) for other in (*moved, exact)]).amax(0)
    rounding = 8 * eps * (found.abs().nan_to_num(0.0, 0.0, 0.0) + raw.abs().nan_to_num(0.0, 0.0, 0.0) + 1)
    # Where rounding decides whether the score is a number at all, or the function steps, nothing is known.
    unlike = torch.stack([other.isfinite() != found.isfinite() for other in (*moved, exact)]).any(0)
    return found, 4 * spread + rounding, unlike & raw.isfinite() | (found.abs() > BEYOND) & found.isfinite()


def _allowed(call: Call, mask_mod: Callable[..., Any] | None, scores: Tensor) -> Tensor:
    allowed = torch.ones(scores.shape, dtype=torch.bool)
    if call.is_causal:
        _, _, q, k = places(scores.shape)
        allowed = allowed & (q >= k)
    if call.attn_mask is not None and call.attn_mask.dtype == torch.bool:
        allowed = allowed & call.attn_mask
    if mask_mod is not None and scores.numel():
        allowed = allowed & mapped(lambda _, *place: mask_mod(*place), scores)
    return allowed


def _weights(scores: Tensor, off: Tensor, sink: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The least and the most that each weight may be, when each score moves by `off` on its own."""
    shape = (*scores.shape[:-1], 1)
    more = scores.new_full(shape, -torch.inf) if sink is None else sink
    every = torch.cat([scores, more], -1)
    moved = torch.cat([off, torch.zeros(shape, dtype=off.dtype)], -1)
    found = []
    for way in (-1, 1):
        others = every - way * moved
        shift = others.amax(-1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)  # else a large score swallows the log of a sum
        own, others = every + way * moved - shift, others - shift
        whole = others.logsumexp(-1, keepdim=True)
        share = torch.exp((others - whole).nan_to_num(-torch.inf)).clamp(max=1.0)
        largest_one = share.argmax(-1, keepdim=True)  # whose rest cannot be had by a difference: it may be the whole
        without = others.scatter(-1, largest_one, -torch.inf).logsumexp(-1, keepdim=True)
        rest = (whole + torch.log1p(-share)).scatter(-1, largest_one, without)
        found.append(
            torch.sigmoid(own - rest).masked_fill(own == -torch.inf, 0.0)[..., :-1].nan_to_num(0.5 + 0.5 * way)
        )
    least, most = found
    return (least * (1 - 16 * eps) - TINY).clamp(min=0.0), (most * (1 + 16 * eps) + TINY).clamp(max=1.0 + 16 * eps)


def assert_rows(name: str, found: Tensor, want: Tensor, allowed: Tensor, of: Bounds) -> None:
    """Each judged row's numbers [..., q_len, n] are as far from `want` as `allowed` at most; NaN rows are NaN."""
    assert found.shape == want.shape, f"{name}: shape {list(found.shape)}, expected {list(want.shape)}"
    found = found.detach().double()
    nan = of.nan & of.judged
    if nan.any() and found.shape[-1]:
        assert found[nan].isnan().all(), f"{name}: a row with NaN among its scores has numbers"
    rows = of.judged & ~of.nan
    difference = torch.where(found == want, 0.0, found - want)[rows].abs()
    over = ~(difference <= allowed.expand(want.shape)[rows])
    if over.any():
        worst = over.nonzero()[0]
        index = tuple(worst.tolist())
        raise AssertionError(
            f"{name}: {found[rows][index].item():.9g}, expected {want[rows][index].item():.9g} within "
            f"{allowed.expand(want.shape)[rows][index].item():.3g}, at {index} of the judged rows ({over.sum()} in all)"
        )


def centre(of: Bounds) -> Tensor:
    """The weights that the scores as they stand give, float64."""
    every = of.scores
    shape = (*every.shape[:-1], 1)
    more = every.new_full(shape, -torch.inf) if of.sink is None else of.sink
    shares = torch.cat([every, more], -1).softmax(-1)
    empty = torch.cat([every, more], -1).eq(-torch.inf).all(-1, keepdim=True)
    return shares.masked_fill(empty, 0.0)[..., :-1]


def assert_output(output: Tensor, call: Call, of: Bounds) -> None:
    """The output is a mean of the values with weights inside the bounds."""
    value = call.value.detach().double()
    if call.enable_gqa:
        value = value.repeat_interleave(call.query.shape[-3] // value.shape[-3], -3)
    finite = value.isfinite().all(-1).all(-1)[..., None].expand(of.judged.shape)
    value = value.nan_to_num(0.0, 0.0, 0.0)
    weights = centre(of).nan_to_num(0.0)
    want = weights @ value
    dtype = output.dtype
    uncertain = (of.most - of.least).nan_to_num(1.0) @ value.abs()
    rounded = torch.finfo(torch.bfloat16).eps if dtype == torch.bfloat16 else 8 * of.eps
    summed = 4 * of.eps * (1 + value.shape[-2] ** 0.5)
    allowed = uncertain + (rounded + summed) * (of.most.nan_to_num(1.0) @ value.abs())
    allowed = allowed + 2 * torch.finfo(dtype).eps * want.abs() + max(TINY, torch.finfo(dtype).tiny)
    judged = (
        of.judged & finite & (weights @ value.abs()).amax(-1).le(torch.finfo(dtype).max / 4)
        if value.shape[-1]
        else of.judged
    )
    assert_rows("output", output, want, allowed, replace(of, judged=judged))


def spread(of: Bounds) -> Tensor:
    """How far all the scores of a row may be off, [..., q_len]."""
    return of.off.amax(-1) if of.off.shape[-1] else of.off.new_zeros(of.off.shape[:-1])


def largest_finite(tensor: Tensor) -> float:
    """The largest finite magnitude."""
    return largest(tensor)
