"""Weights, sums and gradients of rows whose lse has lost the digits which they need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import readouts
from pellucid.engines import rounded
from tests.cases import DIFFERENTIABLE, ENGINES, running

HUGE = (4e4, -3e6, 4e10, -3.38e38)


@pytest.fixture(params=[False, True], ids=["of a mask", "of products"])
def call(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """Rows 0 … 3 are of HUGE scores, the others of usual ones."""
    query, key, value = (torch.randn(2, length, 16) for length in (7, 83, 83))
    if request.param:
        query[:, :3] *= torch.tensor([3e3, 1e5, 1e9])[:, None]
        return {"query": query, "key": key, "value": value}
    bias = torch.zeros(7, 83)
    bias[:4] = torch.tensor(HUGE)[:, None]
    return {"query": query, "key": key, "value": value, "attn_mask": bias}


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_weights_sum_to_one(engine: str, call: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounded, "AT_ONCE", 2 * 83 * 3)  # three rows of both heads
    with running(engine):
        _, seen = pellucid.observe(**call, readouts=[readouts.Received()])
        weights = seen.weights()
        _, last = pellucid.observe(**call, readouts=[readouts.Received(slice(1, 6, 2))])
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7), atol=1e-5, rtol=0)
        part = seen.weights(queries=[5, 2, 0], keys=[71, 3], heads=1)
        torch.testing.assert_close(part, weights[1:][:, [5, 2, 0]][..., [71, 3]], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.received, weights.sum(-2), atol=2e-5, rtol=0)
    torch.testing.assert_close(last.received, weights[:, 1:6:2].sum(-2), atol=2e-5, rtol=0)


@pytest.mark.parametrize("engine", DIFFERENTIABLE)
def test_gradients_are_those_of_equal_weights(engine: str) -> None:
    value, bias = torch.randn(2, 83, 16), torch.full((7, 83), 4e10)
    leaves = [value.clone().requires_grad_(), bias.clone().requires_grad_()]
    direction = torch.randn(2, 7, 16)
    with running(engine):
        output, seen = pellucid.observe(
            torch.zeros(2, 7, 16), torch.zeros(2, 83, 16), leaves[0], attn_mask=leaves[1], readouts=[readouts.Entropy()]
        )
        (output * direction).sum().backward(retain_graph=True)
    expected = (direction.sum(1, keepdim=True) / 83).expand(2, 83, 16)
    torch.testing.assert_close(leaves[0].grad, expected, atol=1e-6, rtol=1e-5)
    by_score = ((direction @ value.mT) - (direction * value.mean(1, keepdim=True)).sum(-1, keepdim=True)) / 83
    torch.testing.assert_close(leaves[1].grad, by_score.sum(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.entropy, torch.full((2, 7), 83.0).log())
    (change,) = torch.autograd.grad(seen.entropy.sum(), leaves[1])
    torch.testing.assert_close(change, torch.zeros(7, 83), atol=1e-6, rtol=0)


def test_a_sink_takes_its_share_of_huge_scores() -> None:
    query, key, value = torch.zeros(2, 7, 16), torch.zeros(2, 83, 16), torch.randn(2, 83, 16)
    bias, sinks = torch.full((7, 83), 3e6), torch.full((2,), 3e6)
    for engine in ENGINES:
        with running(engine):
            output, seen = pellucid.observe(query, key, value, attn_mask=bias, sinks=sinks, readouts=[readouts.TopK(3)])
            weights = seen.weights(keys=slice(0, 11))
        torch.testing.assert_close(output, (value.sum(1, keepdim=True) / 84).expand(2, 7, 16), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(weights, torch.full((2, 7, 11), 1 / 84))
        torch.testing.assert_close(seen.topk.weights, torch.full((2, 7, 3), 1 / 84))


def test_a_compiled_call_has_the_same_weights() -> None:
    query, key, value = (torch.randn(2, length, 16) for length in (7, 83, 83))
    bias = torch.full((7, 83), 4e10)

    @torch.compile(backend="eager", fullgraph=True)
    def weights(query: Tensor) -> Tensor:
        return pellucid.observe(query, key, value, attn_mask=bias)[1].weights(keys=slice(0, 5))

    torch.testing.assert_close(weights(query), torch.full((2, 7, 5), 1 / 83))


def test_whether_there_is_any() -> None:
    for few, found in (([1.0, -200.0], False), ([-torch.inf, 3.0], False), ([torch.nan], False), ([1.0, 300.0], True)):
        lse = torch.tensor(few)
        assert rounded.has_any(lse) is found
        assert bool(rounded.is_rounded(lse).any()) is found
    assert not rounded.has_any(torch.empty(0))
