"""What a readout says of itself: written into a graph and read again, shaped, and freed of padding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import engines, readouts
from pellucid.arguments import Arguments, describe
from pellucid.engines import graph
from pellucid.readouts.base import ColumnReadout, Readout, tensors_of
from tests.readouts.examples import every, exported

EVERY = [example(7) for example in every()]
X = torch.rand(2, 3, 7, 4)


def test_every_readout_there_is() -> None:
    assert set(exported()) == set(graph.KINDS.values())


@pytest.mark.sampled
@pytest.mark.parametrize("readout", EVERY, ids=lambda r: f"{r.name}{list(r.numbers)}")
def test_made_again_from_its_words(readout: Readout) -> None:
    again = graph._readout(graph._written(readout), 0, iter(readout.expressions))
    assert type(again) is type(readout)
    assert again.numbers == readout.numbers
    again.name = readout.name
    sinks = torch.tensor([0.5, 1.0, 2.0])
    results = [pellucid.observe(X, X, X, sinks=sinks, readouts=[own])[1][readout.name] for own in (readout, again)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.sampled
@pytest.mark.parametrize("readout", EVERY, ids=lambda r: f"{r.name}{list(r.numbers)}")
def test_an_empty_result_has_its_shapes_and_dtypes(readout: Readout) -> None:
    problem, _ = describe(Arguments(X, X, X, readouts=(readout,)))
    empty = readout.empty(problem)
    found = pellucid.observe(X, X, X, readouts=[readout])[1][readout.name]
    assert type(empty) is type(found)
    for made, real in zip(tensors_of(empty), tensors_of(found), strict=True):
        assert (made.shape, made.dtype) == (real.shape, real.dtype)


class Squares(ColumnReadout):
    """The sum over the queries of each key's squared weight: a user's own."""

    name = "squares"

    def dense(self, dense: Any) -> Tensor:
        return dense.weights.square().sum(-2)

    def start(self, problem: Any) -> Tensor:
        return problem.query.new_zeros(*problem.batch, problem.heads, problem.k_len, dtype=problem.dtype)

    def update(self, state: Tensor, weights: Tensor, place: dict[str, Tensor], problem: Any) -> None:
        state.index_add_(-1, place["k"], weights.square().sum(-2))


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_what_a_user_did_not_call_differentiable_is_not(engine: str) -> None:
    x = X.clone().requires_grad_()
    with engines.using(engine):
        output, seen = pellucid.observe(x, x, x, readouts=[Squares()])
    assert output.requires_grad
    assert not seen.squares.requires_grad


def test_a_sum_of_a_users_own_beside_padding() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    x, padded = torch.rand(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padded[0, 3:] = True
    with pellucid.watch(layer, readouts=[Squares()], keep=True) as record:
        layer(x, src_key_padding_mask=padded)
    weights = record[0].weights()
    tokens = (~padded)[:, None, :, None]
    torch.testing.assert_close(record[0].squares, (weights * tokens).square().sum(-2))


@pytest.mark.sampled
@pytest.mark.parametrize("readout", EVERY, ids=lambda r: f"{r.name}{list(r.numbers)}")
def test_two_of_a_kind_under_two_names(readout: Readout) -> None:
    """Beside one like it, and alone after a call of that, whose plan is not its own."""
    other = copy.copy(readout)
    other.name = "other"
    for asked in ([readout, other], [readout], [other]):
        _, seen = pellucid.observe(X, X, X, readouts=asked)
        with engines.using("reference"):
            _, expected = pellucid.observe(X, X, X, readouts=asked)
        for name in {own.name for own in asked}:
            torch.testing.assert_close(seen[name], expected[name])


def test_two_of_a_kind_in_a_graph() -> None:
    others = [copy.copy(readout) for readout in EVERY]
    for place, other in enumerate(others):
        other.name = f"other {place}"

    def read(x: Tensor) -> list[Tensor]:
        _, seen = pellucid.observe(x, x, x, readouts=[readouts.TopK(2), readouts.Received(), *others])
        return [tensor for own in others for tensor in tensors_of(seen[own.name])]

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(read, backend="eager", fullgraph=True)(X), read(X))
