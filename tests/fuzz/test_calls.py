"""Random calls of everything, each judged against float64: what is not right must be refused.

    PELLUCID_FUZZ=4000 HYPOTHESIS_PROFILE=random pytest tests/fuzz/test_calls.py

makes about six calls an example.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid.engines.rounded import LARGE
from tests.cases import ENGINES, running
from tests.fuzz.budget import fuzzed
from tests.fuzz.draws import Drawn, drawn_calls
from tests.fuzz.judge import Bounds, assert_output, assert_rows, bounds, centre, spread

engines = pytest.mark.parametrize("engine", ENGINES)


@pytest.mark.sampled
@engines
def test_any_call(engine: str) -> None:
    @fuzzed(share=0.25)
    @given(drawn=drawn_calls(), change=st.sampled_from(("<< 32", "+ 1", "* -3", "nothing")))
    def right_or_refused(drawn: Drawn, change: str) -> None:
        with running(engine):
            judge(drawn)
            judge(drawn, again=True)
            changed_in_place(drawn, change)
            judge(drawn, again=True)

    right_or_refused()


def changed_in_place(drawn: Drawn, change: str) -> None:
    """Other numbers in the same memory."""
    for tensor in drawn.captured:
        if change == "<< 32" and not tensor.is_floating_point():
            tensor <<= 32
        if change == "+ 1":
            tensor += 1
        if change == "* -3":
            tensor *= -3


def judge(drawn: Drawn, again: bool = False) -> None:
    """Make a call and look at all that it gives."""
    if any(t.min() < 0 for t in drawn.captured[2:] if t.numel() and "lengths" in drawn.said):
        return
    call, of = drawn.call, bounds(drawn.call, drawn.score_mod, drawn.mask_mod, drawn.sinks)
    with torch.no_grad():
        output, seen = call.by(pellucid.observe, readouts=list(drawn.readouts), **drawn.more())
        assert_output(output, call, of)
        plain = call.by(pellucid.attention, **drawn.more())
        assert plain.dtype == call.query.dtype
        assert_output(plain, call, of)
        if again:
            assert torch.equal(plain.nan_to_num(7.0), call.by(pellucid.attention, **drawn.more()).nan_to_num(7.0))
        judge_weights(seen.weights(), of)
    judge_readouts(drawn, seen, of)


def judge_weights(weights: Tensor, of: Bounds) -> None:
    """Each weight is inside its bounds, each row sums to what the sink leaves.

    Both as closely as lse tells: up to LARGE weights are exp(score - lse), whose last digit counts for all of a row, of
    scores that are computed once more, in another order.
    """
    middle = (of.most + of.least) / 2
    every = of.scores if of.sink is None else torch.cat([of.scores, of.sink], -1)
    size = every.logsumexp(-1, keepdim=True).abs() if every.shape[-1] else every.new_zeros(*every.shape[:-1], 1)
    off = of.off.amax(-1, keepdim=True) if of.off.shape[-1] else torch.zeros_like(size)
    last = torch.where(size <= LARGE, of.eps * size + 2 * off, 0.0)
    assert_rows("weights", weights, middle, (of.most - of.least) / 2 + 1e-30 + (4 * of.eps + last) * middle, of)
    if of.sink is None and weights.shape[-1]:
        full = torch.where(of.empty, 0.0, 1.0)[..., None]
        n = weights.shape[-1]
        assert_rows(
            "sum of weights", weights.double().sum(-1, keepdim=True), full, 8 * of.eps * (8 + n**0.5) + last, of
        )


def judge_readouts(drawn: Drawn, seen: Any, of: Bounds) -> None:
    """What was read beside the output."""
    weights, off = centre(of).nan_to_num(0.0), spread(of)
    keys = of.scores.shape[-1]
    maximum = of.scores.amax(-1) if keys else torch.full(of.scores.shape[:-1], -torch.inf).double()
    size = maximum.abs().nan_to_num(0.0, 0.0, 0.0)
    rounding = 16 * of.eps * (1 + size)
    every = of.scores if of.sink is None else torch.cat([of.scores, of.sink], -1)
    lse = every.logsumexp(-1) if every.shape[-1] else maximum
    empty = of.empty if of.sink is None else torch.zeros_like(of.empty)
    lse_size = lse.abs().nan_to_num(0.0, 0.0, 0.0)
    per_row(seen, "lse", lse, off + 16 * of.eps * (1 + lse_size), of)
    if "max_scores" in seen:
        numbers = replace(of, nan=of.scores.isnan().any(-1))  # +inf is the largest of its row
        per_row(seen, "max_scores", maximum, off + rounding, numbers)
    if "entropy" in seen:
        shares = every.softmax(-1).masked_fill(empty[..., None], 0.0)
        entropy = -torch.special.xlogy(shares, shares).sum(-1)
        logn = torch.tensor(float(max(every.shape[-1], 1))).double().log() + 1
        per_row(
            seen, "entropy", entropy, (4 * off * logn + 64 * of.eps * logn * (1 + 0 * off)).clamp(max=logn.item()), of
        )
    uncertain = (of.most - of.least).nan_to_num(1.0)
    if "received" in seen and bool((of.judged & ~of.nan).all()):
        received = seen["received"].detach().double()
        allowed = uncertain.sum(-2) + 16 * of.eps * (1 + of.scores.shape[-2] ** 0.5) * (1 + weights.sum(-2))
        assert received.shape == allowed.shape
        assert bool(((received - weights.sum(-2)).abs() <= allowed).all()), "received"
    if "topk" in seen:
        judge_topk(seen["topk"], of)
    named = {readout.name: readout for readout in drawn.readouts}
    if "renyi" in named:
        judge_renyi(seen, named["renyi"].order, every.masked_fill(empty[..., None], -torch.inf), off, of)
    if "at" in named:
        chosen = named["at"].expression.value[0]
        middle, reach = (of.most + of.least)[..., chosen] / 2, (of.most - of.least)[..., chosen] / 2
        assert_rows("at", seen["at"], middle, reach + 1e-30 + 16 * of.eps * (1 + chosen.numel()) * middle, of)


def judge_renyi(seen: Any, order: float, every: Tensor, off: Tensor, of: Bounds) -> None:
    """The entropy of an order, as closely as its slope lets the scores tell."""
    logs = every.log_softmax(-1).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    logn = torch.tensor(float(max(every.shape[-1], 1))).double().log() + 1
    if order == 1:
        entropy = -torch.special.xlogy(logs.exp(), logs.exp()).sum(-1)
    elif order == math.inf:
        entropy = -logs.amax(-1) if every.shape[-1] else torch.zeros(every.shape[:-1]).double()
    elif order == 0:
        entropy = (every > -torch.inf).sum(-1).double().log()
    elif abs(order - 1) < 0.5:  # the logarithm of the sum itself would lose its digits
        more = (logs.exp() * torch.expm1((order - 1) * logs)).masked_fill(logs == -torch.inf, 0.0)
        entropy = torch.log1p(more.sum(-1)) / (1 - order)
    else:
        entropy = (order * logs).logsumexp(-1) / (1 - order)
    slope = 4 * logn if abs(order - 1) < 0.5 else 2 if order == math.inf else 2 * order / abs(1 - order)
    entropy = entropy.nan_to_num(0.0, 0.0, 0.0)
    per_row(seen, "renyi", entropy, (2 * off * slope + 64 * of.eps * logn).clamp(max=logn.item()), of)


def per_row(seen: Any, name: str, want: Tensor, allowed: Tensor, of: Bounds) -> None:
    assert_rows(name, seen[name][..., None], want[..., None], allowed[..., None], of)


def judge_topk(top: Any, of: Bounds) -> None:
    """The keys listed have the weights listed, and no other key has certainly more."""
    rows = of.judged & ~of.nan
    keys, found = top.keys[rows], top.weights[rows].double()
    least, most = of.least[rows], of.most[rows]
    listed = keys.clamp(min=0)
    inside = (found >= least.gather(-1, listed) * (1 - 8 * of.eps) - 1e-30) & (
        found <= most.gather(-1, listed) * (1 + 8 * of.eps) + 1e-30
    )
    assert bool((inside | (keys < 0)).all()), "topk weights"
    assert bool((found[keys < 0] == 0).all()), "topk: weight of no key"
    is_listed = torch.zeros(*least.shape[:-1], least.shape[-1] + 1, dtype=torch.bool).scatter(-1, keys + 1, True)
    others = least.masked_fill(is_listed[..., 1:], 0.0)
    if others.shape[-1] and found.shape[-1]:
        last = found[..., -1] * (1 + 16 * of.eps) + 1e-30
        assert bool((others.amax(-1) <= last).all()), "topk: a key with more weight is not listed"
