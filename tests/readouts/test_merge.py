"""Keys split anywhere, in any order, and merged again give what the whole row gives: for every readout of a row."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.readouts.base import Rows
from pellucid.softmax import Merge, Softmax
from tests.cases import examples
from tests.readouts.rows import ROW_READOUTS, finished, matrices, merged, sinks, tile, weights

DTYPES = {torch.float64: 1e-12, torch.float32: 5e-6}


@st.composite
def splits(draw, keys):
    """The keys in parts, which come in any order and may be empty, and the order in which neighbours merge."""
    parts = draw(st.integers(1, 6))
    owner = torch.tensor(draw(st.lists(st.integers(0, parts - 1), min_size=keys, max_size=keys)))
    order = [draw(st.integers(0, left - 2)) for left in range(parts, 1, -1)]
    return [torch.nonzero(owner == part).flatten() for part in range(parts)], order


def assert_same(found, expected, dtype, scores):
    if not found.is_floating_point():
        assert torch.equal(found, expected)
        return
    assert found.dtype == dtype
    largest = scores[scores.isfinite()].abs().max().item() if scores.isfinite().any() else 0.0
    allowed = DTYPES[dtype] * (1 + largest)  # rounding a score is a relative error in its weight
    torch.testing.assert_close(found.double(), expected.double(), rtol=allowed, atol=allowed)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROW_READOUTS)
@given(data=st.data(), scores=matrices(), sink=sinks())
@examples(30)
def test_any_split_gives_the_whole(name, dtype, data, scores, sink):
    readout, definition = ROW_READOUTS[name]
    scores = scores.to(dtype)
    parts, order = data.draw(splits(scores.shape[-1]))
    tiles = [tile(scores, keys) for keys in parts]
    softmax, state = merged(readout, [(t.softmax, readout.of_tile(t)) for t in tiles], order)
    assert_same(finished(readout, softmax, state, sink), definition(scores.double(), sink), dtype, scores)


@pytest.mark.parametrize("name", ROW_READOUTS)
@given(scores=matrices(least=7))
@examples(15)
def test_merging_is_commutative_and_associative(name, scores):
    readout, _ = ROW_READOUTS[name]
    bounds = (0, 2, 3, scores.shape[-1])
    tiles = [tile(scores, torch.arange(*ends)) for ends in pairwise(bounds)]
    parts = [(t.softmax, readout.of_tile(t)) for t in tiles]
    expected = finished(readout, *merged(readout, parts.copy(), [0, 0]), None)
    for shuffled in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]):
        for order in ([0, 0], [1, 0]):
            found = finished(readout, *merged(readout, [parts[i] for i in shuffled], order), None)
            assert_same(found, expected, torch.float64, scores)


@pytest.mark.parametrize("name", ROW_READOUTS)
@given(scores=matrices(), before=st.booleans())
@examples(15)
def test_no_key_is_neutral(name, scores, before):
    readout, _ = ROW_READOUTS[name]
    whole, none = (tile(scores, keys) for keys in (torch.arange(scores.shape[-1]), torch.arange(0)))
    sides = [(t.softmax, readout.of_tile(t)) for t in ((none, whole) if before else (whole, none))]
    softmax, state = merged(readout, sides, [0])
    expected = finished(readout, whole.softmax, readout.of_tile(whole), None)
    found = finished(readout, softmax, state, None)
    assert torch.equal(found, expected)


@given(scores=matrices(), sink=sinks())
@examples(60)
def test_factor_makes_an_unnormalised_sum_one_of_weights(scores, sink):
    whole = tile(scores, torch.arange(scores.shape[-1]))
    rows = Rows(whole.softmax, sink)
    exact = weights(scores, sink)
    torch.testing.assert_close(whole.exponentials * rows.factor[..., None], exact, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(rows.whole.weights(scores), exact, rtol=1e-11, atol=1e-13)
    if sink is not None:
        some = exact.sum(-1) + rows.sink_weight
        everything = (scores > -torch.inf).any(-1) | (sink > -torch.inf)
        torch.testing.assert_close(some, everything.double(), rtol=1e-11, atol=1e-13)


def test_a_softmax_of_nothing():
    nothing = Softmax(torch.tensor([-torch.inf]), torch.tensor([0.0]))
    assert nothing.lse.item() == -torch.inf
    assert nothing.shift.item() == 0.0
    assert Merge(nothing, nothing).whole.lse.item() == -torch.inf


def test_the_larger_maximum_wins_whatever_its_side():
    small, large = (Softmax(torch.tensor([m]), torch.tensor([2.0])) for m in (-1e4, 1e4))
    for merge in (Merge(small, large), Merge(large, small)):
        assert merge.whole.maximum.item() == 1e4
        assert merge.whole.total.item() == 2.0
        assert merge.left_factor.item() + merge.right_factor.item() == 1.0
