"""What is particular to Renyi: its orders, and how they follow one another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid.engines import portable, using
from pellucid.readouts import Entropy, Renyi
from pellucid.record.disk.told import told
from tests.cases import examples, normal
from tests.readouts.rows import finished, matrices, renyi, sinks, tile

ORDERS = (0, 0.1, 0.5, 0.51, 0.9, 1 - 1e-9, 1, 1 + 1e-9, 1.2, 1.49, 1.5, 2, 7.3, 1e5, 1e29, math.inf)
orders = st.sampled_from(ORDERS) | st.floats(0, 4)


def of_tile(order: float, scores: Tensor, sink: Tensor | None = None) -> Tensor:
    readout, whole = Renyi(order), tile(scores, torch.arange(scores.shape[-1]))
    return finished(readout, whole.softmax, readout.of_tile(whole), sink)


@given(scores=matrices(), sink=sinks(), order=orders)
@examples(150)
def test_float32_keeps_its_digits_at_every_order(scores: Tensor, sink: Tensor | None, order: float) -> None:
    """As near to 1 as one likes: there the definition itself, a quotient of two that vanish, has none."""
    scores = scores.float()
    exact = of_tile(order, scores.double(), sink)
    if abs(order - 1) > 1e-3:
        torch.testing.assert_close(exact, renyi(scores.double(), sink, order), rtol=1e-9, atol=1e-9)
    found = of_tile(order, scores, sink)
    assert found.dtype == torch.float32
    largest = scores[scores.isfinite()].abs().max().item() if scores.isfinite().any() else 0.0
    torch.testing.assert_close(found.double(), exact, rtol=5e-6, atol=3e-7 * (2 + largest))


@given(scores=matrices(), sink=sinks(), order=orders, other=orders)
@examples(80)
def test_it_falls_with_the_order(scores: Tensor, sink: Tensor | None, order: float, other: float) -> None:
    low, high = sorted((order, other))
    assert (of_tile(low, scores, sink) - of_tile(high, scores, sink)).min() >= -1e-12
    assert of_tile(high, scores, sink).min() >= 0


@pytest.mark.parametrize("at", [0.5, 1.0, 1.5])
def test_no_step_where_its_sums_change(at: float) -> None:
    scores = normal(2, 3, 5, 23) * 3
    below, own, above = (of_tile(order, scores) for order in (at - 1e-7, at, at + 1e-7))
    torch.testing.assert_close(own, (below + above) / 2, rtol=1e-11, atol=1e-11)


def test_shannons_entropy_is_order_1() -> None:
    x = normal(3, 7, 4)
    sinks = normal(3, seed=1)
    for sink in (True, False):
        _, seen = pellucid.observe(x, x, x, sinks=sinks, readouts=[Entropy(sink), Renyi(1, sink)])
        torch.testing.assert_close(seen.renyi, seen.entropy, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
def test_equal_weights_have_the_log_of_their_number_at_every_order(order: float) -> None:
    x, mask = torch.zeros(4, 8), torch.ones(4, 4, dtype=torch.bool).tril(-1)
    for engine in ("reference", "portable"):
        with using(engine):
            _, seen = pellucid.observe(x, x, x, mask, readouts=[Renyi(order)])
        torch.testing.assert_close(seen.renyi, torch.tensor([0, 0, math.log(2), math.log(3)]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
def test_keys_that_the_largest_number_cannot_reach_are_counted(engine: str) -> None:
    query, key = torch.zeros(1, 1), torch.zeros(3, 1)
    bias = torch.tensor([[2e38, -2e38, -torch.inf]])
    for order, expected in ((0, math.log(2)), (0.3, 0.0), (1, 0.0), (1.2, 0.0), (2, 0.0), (math.inf, 0.0)):
        leaf = bias.clone().requires_grad_()
        with using(engine), portable.tiles(1, 1):
            _, seen = pellucid.observe(query, key, key, bias, readouts=[Renyi(order)])
            assert seen.renyi.tolist() == pytest.approx([expected])
            _, seen = pellucid.observe(query, key, key, leaf, readouts=[Renyi(order)])
            assert torch.autograd.grad(seen.renyi.sum(), leaf)[0].tolist() == [[0.0] * 3]


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_row_that_is_nan(engine: str, order: float) -> None:
    x = torch.randn(2, 5, 4)
    bias = torch.zeros(5, 5)
    bias[1, 2] = torch.nan
    with using(engine), portable.tiles(2, 2):
        _, seen = pellucid.observe(x, x, x, bias, readouts=[Renyi(order)])
        _, sunk = pellucid.observe(x, x, x, sinks=torch.tensor([0.5, torch.nan]), readouts=[Renyi(order)])
    assert seen.renyi.isnan().nonzero().tolist() == [[0, 1], [1, 1]]
    assert sunk.renyi[1].isnan().all()
    assert not sunk.renyi[0].isnan().any()


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
@pytest.mark.parametrize("order", [5e-324, 1e-320, 1e-46, 1e-45, 1e-39, 1e-37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_order_that_is_almost_0_counts_the_keys(engine: str, order: float, dtype: torch.dtype) -> None:
    x = normal(3, 37, 4).to(dtype)
    for q_len in (1, 37):
        with using(engine):
            _, seen = pellucid.observe(x[:, :q_len], x, x, is_causal=True, readouts=[Renyi(order)])
        torch.testing.assert_close(seen.renyi, torch.arange(1, q_len + 1, dtype=dtype).log().expand(3, -1))


def test_equal_largest_share_the_gradient_of_infinity() -> None:
    bias = torch.tensor([[1.0, 3, 3, 0, 3], [2.0, 1, 0, 2, -1]], dtype=torch.float64, requires_grad=True)
    x = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)
    with using("portable"), portable.tiles(2, 2):
        _, seen = pellucid.observe(x[0], x[1], x[1], bias, readouts=[Renyi(math.inf)])
        (found,) = torch.autograd.grad(seen.renyi.sum(), bias)
    weights, largest = bias.detach().softmax(-1), bias.detach() == bias.detach().amax(-1, keepdim=True)
    torch.testing.assert_close(found, weights - largest / largest.sum(-1, keepdim=True))


def test_finite_differences() -> None:
    query, sinks = normal(2, 3, 4).requires_grad_(), normal(2, seed=1).requires_grad_()
    key = normal(2, 5, 4, seed=2)

    def read(order: float, query: Tensor, sinks: Tensor) -> Tensor:
        return pellucid.observe(query, key, key, sinks=sinks, readouts=[Renyi(order)])[1].renyi

    for order in (0.2, 0.8, 1, 1.3, 2.5):
        assert torch.autograd.gradcheck(lambda *leaves, order=order: read(order, *leaves), (query, sinks))


def test_an_order_that_changes_in_a_graph() -> None:
    def read(x: Tensor, order: float) -> Tensor:
        return pellucid.observe(x, x, x, readouts=[Renyi(order)])[1].renyi

    torch._dynamo.reset()
    compiled = torch.compile(read, fullgraph=True, backend="eager")
    for order in (2, 0.5, 1e-5, 1.25, 3.0, math.inf):
        torch.testing.assert_close(compiled(torch.eye(3), order), read(torch.eye(3), order), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("order", "sink", "error", "words"),
    [
        (-0.1, True, ValueError, "^order: Renyi takes a number from 0, got -0.1"),
        (math.nan, True, ValueError, "^order: Renyi takes a number from 0, got nan"),
        (True, True, TypeError, "^order: Renyi takes a number from 0, got True"),
        ("2", True, TypeError, "^order: Renyi takes a number from 0, got '2'"),
        (None, True, TypeError, "^order: Renyi takes a number from 0, got None"),
        (2, 1, TypeError, "^sink: Renyi takes True or False, got 1"),
    ],
)
def test_errors(order: Any, sink: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Renyi(order, sink)


def test_orders_that_no_row_tells_from_infinity_are_infinity() -> None:
    assert Renyi(10**400).numbers == Renyi(1e300).numbers == (math.inf, 1)


def test_a_record_tells_its_orders_apart() -> None:
    assert told([Renyi(2), Renyi(0.5), Renyi(math.inf)]) == ["renyi 2.0 True", "renyi 0.5 True", "renyi inf True"]
