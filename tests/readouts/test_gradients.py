"""Gradients of each readout by itself equal finite differences: over masks, score functions, groups and sinks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import masks, scores
from pellucid.readouts import At, Expect, MaxScore, Pooled, Received, TopK
from pellucid.readouts.base import tensors_of
from tests.cases import normal, running
from tests.readouts.examples import EXAMPLES, label
from tests.thorough import thorough

Q_LEN, K_LEN, DIM = 5, 7, 3
EMPTY_ROW = torch.arange(K_LEN) > torch.arange(Q_LEN)[:, None] - 4
EMPTY_ROW[2] = False
FLOAT_MASK = normal(Q_LEN, K_LEN, seed=8).masked_fill(~EMPTY_ROW, -math.inf)
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"mask_mod": masks.causal(1)},
    "window": {"mask_mod": masks.sliding_window(2, 1)},
    "bool with an empty row": {"attn_mask": EMPTY_ROW},
}
# Of the score, and of a tensor that it captures.
SCORES: dict[str, Callable[[Tensor], Any]] = {
    "plain": lambda captured: None,
    "softcap": lambda captured: scores.softcap(2.0),
    "learned slopes": lambda captured: scores.alibi(captured),
    "learned table, softcap": lambda captured: scores.chain(
        lambda s, b, h, q, k: s + captured[h] * captured[(q + k) % 4], scores.softcap(3.0)
    ),
}
CALLS = [(mask, score, place % 3) for place, (mask, score) in enumerate(itertools.product(MASKS, SCORES))]
HEADS = ((4, True), (2, False), (1, True))  # of keys, and whether there are sinks
DIFFERENTIABLE = [example for made in EXAMPLES.values() for example in made if example(Q_LEN).differentiable]
each = pytest.mark.parametrize("example", DIFFERENTIABLE, ids=label)
# Each readout with each mask, and with each score function, in turns.
EVERY_DAY = [
    (example, *CALLS[4 * mask + (mask + number) % 4])
    for number, example in enumerate(DIFFERENTIABLE)
    for mask in range(4)
]


def leaves(kv_heads: int) -> list[Tensor]:
    """Query, key, value, sinks, and what a score function captures."""
    shapes = [(4, Q_LEN, DIM), (kv_heads, K_LEN, DIM), (kv_heads, K_LEN, 2), (4,), (4,)]
    return [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("example", "mask", "score", "heads"),
    thorough([(example, *call) for example in DIFFERENTIABLE for call in CALLS], EVERY_DAY, share=11),
    ids=lambda given: label(given) if callable(given) else None,
)
def test_finite_differences(example: Callable[[int], Any], mask: str, score: str, heads: int) -> None:
    readout, (kv_heads, has_sinks) = example(Q_LEN), HEADS[heads]

    def read(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, captured: Tensor) -> Tensor:
        _, seen = pellucid.observe(
            query, key, value, enable_gqa=True, sinks=sinks if has_sinks else None,
            score_mod=SCORES[score](captured), readouts=[readout], **MASKS[mask],
        )  # fmt: skip
        result = tensors_of(seen[readout.name])[0]
        return result.masked_fill(result == -math.inf, 0.0)

    with running("tiles", (2, 3)):
        assert torch.autograd.gradcheck(read, leaves(kv_heads), atol=1e-6, fast_mode=True)


@each
def test_a_float_mask_has_its_gradient(example: Callable[[int], Any]) -> None:
    readout = example(Q_LEN)
    query, key, value, sinks, _ = leaves(2)
    finite = FLOAT_MASK.isfinite()
    found = []
    for engine in ("reference", "tiles", "portable"):
        mask = FLOAT_MASK.clone().requires_grad_()
        with running(engine, (2, 3)):
            output, seen = pellucid.observe(query, key, value, mask, enable_gqa=True, sinks=sinks, readouts=[readout])
            result = tensors_of(seen[readout.name])[0]
            upstream = normal(*result.shape, seed=9)
            loss = (result.masked_fill(result == -math.inf, 0.0) * upstream).sum() + output.sum()
            found.append(torch.autograd.grad(loss, [mask, sinks]))
    for mine in found[1:]:
        torch.testing.assert_close(mine[0], found[0][0], rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(mine[1], found[0][1], rtol=1e-10, atol=1e-11)
        assert not mine[0][~finite].any()


def test_all_in_one_loss_with_dropout() -> None:
    table = normal(K_LEN, seed=4).requires_grad_()
    readouts = [
        pellucid.LogSumExp(), pellucid.Entropy(), MaxScore(), TopK(3), At(torch.tensor([[1, 3, -1]])), Received(),
        Pooled(2, 3), pellucid.Renyi(2), Expect(lambda b, h, q, k: table[k], "mean"),
    ]  # fmt: skip
    found = []
    for engine in ("reference", "tiles", "portable"):
        own = leaves(2)[:4]
        torch.manual_seed(7)
        with running(engine, (2, 3)):
            output, seen = pellucid.observe(
                *own[:3], EMPTY_ROW, dropout_p=0.4, enable_gqa=True, sinks=own[3], readouts=readouts
            )
        results = [output, *(tensors_of(seen[readout.name])[0] for readout in readouts)]
        losses = [(result * normal(*result.shape, seed=place)).sum() for place, result in enumerate(results)]
        found.append(torch.autograd.grad(sum(losses), [*own, table]))
    for mine in found[1:]:
        for gradient, exact in zip(mine, found[0], strict=True):
            torch.testing.assert_close(gradient, exact, rtol=1e-10, atol=1e-11)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision(example: Callable[[int], Any], dtype: torch.dtype) -> None:
    """The gradient is that in float64 of the rounded inputs, rounded to them."""
    readout, found = example(11), []
    for own in (torch.float64, dtype):
        query, key, value = (normal(2, 11, 8, seed=n, dtype=dtype).to(own).requires_grad_() for n in range(3))
        with running("portable"):
            _, seen = pellucid.observe(query, key, value, is_causal=True, readouts=[readout])
        result = tensors_of(seen[readout.name])[0]
        upstream = normal(*result.shape, seed=3).to(result.dtype)
        found.append([g.double() for g in torch.autograd.grad((result * upstream).sum(), [query, key])])
    for mine, exact in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_only_part_of_a_result_is_trained_on() -> None:
    """A readout whose result nobody differentiates takes no part in backward."""
    query, key, value, *_ = leaves(4)
    _, seen = pellucid.observe(query, key, value, readouts=[Received(), Pooled(2, 2), TopK(2), pellucid.Entropy()])
    (alone,) = torch.autograd.grad(seen.entropy.sum(), query, retain_graph=True)
    _, other = pellucid.observe(query, key, value, readouts=[pellucid.Entropy()])
    (expected,) = torch.autograd.grad(other.entropy.sum(), query)
    assert torch.equal(alone, expected)
    (of_received,) = torch.autograd.grad(seen.received[:, 0].sum(), query)
    (exact,) = torch.autograd.grad((query @ key.mT * DIM**-0.5).softmax(-1)[..., 0].sum(), query)
    torch.testing.assert_close(of_received, exact)
