"""Sums over queries: any tiling gives the definition, and states over different tiles add up."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pellucid
from pellucid.engines import using
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout, Pooled, PooledMax, Received
from pellucid.readouts.base import Dense, Tile
from pellucid.readouts.pooled import Begun
from tests.cases import ENGINES, examples, running

BATCH, HEADS = 2, 3


def drawn(q_len, k_len, seed=0):
    """A problem of these lengths, and weights for it: rows that sum to 1, some to less."""
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.zeros(BATCH, HEADS, n, 1, dtype=torch.float64) for n in (q_len, k_len))
    weights = torch.rand(BATCH, HEADS, q_len, k_len, generator=generator, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    weights[:, 1] *= 0.5
    return Problem(query, key, key, (BATCH,), HEADS, 1.0), weights


def cuts(length, points):
    """Slices between the points, in order."""
    ends = sorted({0, length, *(p for p in points if p < length)})
    return [slice(a, b) for a, b in pairwise(ends)]


def streamed(readout: ColumnReadout, problem, weights, tiles):
    state = readout.start(problem)
    for rows, keys in tiles:
        readout.update(state, weights[..., rows, keys], problem.place(rows, keys), problem)
    return state


def pooled(weights, R, C):
    """The definition, token by token."""
    q_len, k_len = weights.shape[-2:]
    R, C = min(R, q_len), min(C, k_len)
    result = weights.new_zeros(*weights.shape[:-2], R, C)
    for q in range(q_len):
        for k in range(k_len):
            result[..., q * R // q_len, k * C // k_len] += weights[..., q, k]
    counts = torch.tensor([sum(q * R // q_len == r for q in range(q_len)) for r in range(R)])
    return result / counts[:, None]


def largest(weights, R, C):
    """The definition, token by token."""
    q_len, k_len = weights.shape[-2:]
    R, C = min(R, q_len), min(C, k_len)
    result = weights.new_zeros(*weights.shape[:-2], R, C)
    for q in range(q_len):
        for k in range(k_len):
            place = (..., q * R // q_len, k * C // k_len)
            result[place] = result[place].maximum(weights[..., q, k])
    return result


READOUTS = {
    "received": (Received(), lambda w: w.sum(-2)),
    "received from the last": (Received(slice(-3, None)), lambda w: w[..., -3:, :].sum(-2)),
    "received from one": (Received(slice(2, 3)), lambda w: w[..., 2:3, :].sum(-2)),
    "received from every third": (Received(slice(1, None, 3)), lambda w: w[..., 1::3, :].sum(-2)),
    "received up to": (Received(slice(-7)), lambda w: w[..., :-7, :].sum(-2)),
    "received from beyond": (Received(slice(5, 1000, 2)), lambda w: w[..., 5:1000:2, :].sum(-2)),
    "received from none": (Received(slice(9, 2)), lambda w: w[..., 9:2, :].sum(-2)),
    "pooled": (Pooled(4, 3), lambda w: pooled(w, 4, 3)),
    "pooled to one": (Pooled(1, 1), lambda w: pooled(w, 1, 1)),
    "pooled not at all": (Pooled(1009, 1013), lambda w: w),
    "pooled queries": (Pooled(5, 1000), lambda w: pooled(w, 5, 1000)),
    "largest": (PooledMax(4, 3), lambda w: largest(w, 4, 3)),
    "largest of all": (PooledMax(1, 1), lambda w: w.amax((-2, -1), keepdim=True) if w.numel() else largest(w, 1, 1)),
    "largest of one": (PooledMax(1009, 1013), lambda w: w),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", READOUTS)
@given(data=st.data(), q_len=st.integers(1, 13), k_len=st.integers(1, 17))
@examples(25)
def test_any_tiling_gives_the_definition(name, data, q_len, k_len):
    readout, definition = READOUTS[name]
    problem, weights = drawn(q_len, k_len)
    points = st.lists(st.integers(1, 16), max_size=4)
    tiles = [(rows, keys) for rows in cuts(q_len, data.draw(points)) for keys in cuts(k_len, data.draw(points))]
    expected = definition(weights)
    whole = readout.finish(streamed(readout, problem, weights, data.draw(st.permutations(tiles))), problem)
    torch.testing.assert_close(whole, expected, rtol=1e-13, atol=1e-13)
    some = data.draw(st.integers(0, len(tiles)))
    parts = [streamed(readout, problem, weights, share) for share in (tiles[:some], tiles[some:])]
    for left, right in (parts, parts[::-1]):
        torch.testing.assert_close(
            readout.finish(readout.merge(left, right), problem), expected, rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize("name", READOUTS)
def test_the_dense_definition_is_the_definition(name):
    readout, definition = READOUTS[name]
    problem, weights = drawn(13, 11)
    tile = Tile(weights.log(), problem.place(), torch.float64)
    dense = Dense(weights.log(), weights, weights.sum(-1).log(), tile, None)
    torch.testing.assert_close(readout.dense(dense), definition(weights), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
@pytest.mark.parametrize(("q_len", "k_len"), [(0, 5), (5, 0), (0, 0)])
def test_empty_lengths(engine, q_len, k_len):
    query, key = torch.randn(2, q_len, 4), torch.randn(2, k_len, 4)
    with using(engine):
        _, seen = pellucid.observe(query, key, key, readouts=[Received(), Pooled(3, 2)])
    assert torch.equal(seen.received, torch.zeros(2, k_len))
    assert torch.equal(seen.pooled, torch.zeros(2, min(3, q_len), min(2, k_len)))


def test_a_pooled_row_sums_to_one_less_the_sink():
    query = torch.randn(3, 13, 4, dtype=torch.float64)
    sinks = torch.tensor([-torch.inf, 0.5, 2.0], dtype=torch.float64)
    _, seen = pellucid.observe(query, query, query, sinks=sinks, readouts=[Pooled(4, 5)])
    whole = seen.weights().sum(-1)
    torch.testing.assert_close(seen.pooled[0].sum(-1), torch.ones(4, dtype=torch.float64), rtol=1e-13, atol=0)
    torch.testing.assert_close(seen.pooled[1:, 0].sum(-1), whole[1:, :4].mean(-1), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("queries", "keys", "named"), [(0, 3, "queries"), (3, -1, "keys"), (2.0, 3, "queries"), (True, 3, "queries")]
)
def test_pooled_takes_whole_numbers_of_bins(queries, keys, named):
    with pytest.raises(ValueError, match=f"^{named}: Pooled takes a whole number of bins from 1"):
        Pooled(queries, keys)


def test_received_takes_a_slice_that_runs_forwards():
    with pytest.raises(TypeError, match=r"^queries: Received takes a slice of the queries or None, got int"):
        Received(3)
    with pytest.raises(ValueError, match=r"^queries: Received takes a slice with a step of at least 1, got slice"):
        Received(slice(None, None, -1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("readout", [Pooled, PooledMax])
def test_bins_of_any_sizes_are_those_of_each_call(engine, readout):
    """Not of a call like it before, which had others."""
    query, key, value = torch.randn(3, 1, 2, 64, 8).unbind(0)
    for queries, keys in [((0, 5), (0, 40)), ((0, 5), (0, 10)), ((0, 30), (0, 10)), ((0, 5), (0, 40))]:
        with running(engine):
            _, seen = pellucid.observe(query, key, value, readouts=[readout.in_bins(Begun(queries), Begun(keys))])
        weights = seen.weights()[0]
        rows, columns = (slice(queries[1], 64), slice(0, keys[1]))
        own = weights[:, rows, columns]
        expected = own.sum(-1).mean(-1) if readout is Pooled else own.amax((-1, -2))
        torch.testing.assert_close(seen[readout.name][0, :, 1, 0], expected)
        again = readout.again(readout.in_bins(Begun(queries), Begun(keys)).numbers, iter(()), readout.name)
        assert again.bins == (Begun(queries), Begun(keys))
