"""The hash that drops weights: its rate, its independence, and that nothing but the seed and the place decides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import dropout
from pellucid.engines import using
from pellucid.engines.portable import tiles
from tests.cases import ENGINES, normal, running


def places(q_len: int, k_len: int, heads: int, batch: int) -> dict[str, Tensor]:
    return {
        "b": torch.arange(batch)[:, None, None, None],
        "h": torch.arange(heads)[:, None, None],
        "q": torch.arange(q_len)[:, None],
        "k": torch.arange(k_len),
    }


def kept(seed: int, p: float, q_len: int = 101, k_len: int = 103, heads: int = 3, batch: int = 2) -> Tensor:
    """What is kept of a whole matrix, [batch, heads, q_len, k_len]."""
    return dropout.kept(seed, p, places(q_len, k_len, heads, batch), heads, q_len, k_len)


def agreement(left: Tensor, right: Tensor) -> float:
    """How far the share of equal decisions of two fair coins is from a half, in standard deviations."""
    return abs((left == right).double().mean().item() - 0.5) * 2 * left.numel() ** 0.5


def surprise(counts: Tensor, expected: Tensor) -> float:
    """Chi-square of counts, in standard deviations from what chance makes of it."""
    freedom = counts.numel() - 1
    return float(((counts - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


def patterns(decisions: list[Tensor]) -> Tensor:
    """How often each pattern of some decisions occurs."""
    number = sum(decision.long() << i for i, decision in enumerate(decisions))
    assert isinstance(number, Tensor)
    return torch.bincount(number.flatten(), minlength=1 << len(decisions)).double()


@pytest.mark.parametrize("p", [0.001, 0.01, 0.1, 0.25, 0.5, 2 / 3, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1, 2**61 + 12345])
def test_the_rate_is_p(p: float, seed: int) -> None:
    whole = kept(seed, p)
    sigma = (p * (1 - p) / whole.numel()) ** 0.5
    assert abs((~whole).double().mean().item() - p) < 4 * sigma
    for dims in ((0, 1, 2), (0, 1, 3), (2, 3)):  # of each key, each query, each head
        share = (~whole).double().mean(dims)
        sigma = (p * (1 - p) / (whole.numel() // share.numel())) ** 0.5
        assert (share - p).abs().max() < 6 * sigma + 1e-12


@pytest.mark.parametrize("p", [0.0, 2.0**-40, 2.0**-33, 1e-9, 2.0**-30, 0.1, 0.5, 1 - 2.0**-33, 1 - 2.0**-53, 1.0])
def test_any_p_is_met_in_the_mean(p: float) -> None:
    """A row's limit is a whole number of 2 ** -30, rounded up or down by chance."""
    rows = dropout._mixed(torch.arange(1 << 20))
    limits = dropout._limit(rows, p).double() - p * 2.0**30
    assert (limits.abs() < 1).all()
    share = p * 2.0**30 % 1
    assert abs(limits.mean().item()) <= 5 * math.sqrt(share * (1 - share) / len(rows))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rows_and_columns_drop_as_many_as_coins_would(p: float) -> None:
    whole = (~kept(3, p, 512, 512, 4, 2)).double()
    for dim in (-1, -2):
        counts = whole.sum(dim)
        spread = ((counts - 512 * p).square() / (512 * p * (1 - p))).mean().item()
        assert abs(spread - 1) < 5 * math.sqrt(2 / counts.numel())


def test_neighbours_rows_heads_batches_and_seeds_are_independent() -> None:
    whole = kept(7, 0.5)
    assert agreement(whole[..., 1:], whole[..., :-1]) < 4
    assert agreement(whole[..., 1:, :], whole[..., :-1, :]) < 4
    assert agreement(whole[..., 1:, 1:], whole[..., :-1, :-1]) < 4
    assert agreement(whole[:, 0], whole[:, 1]) < 4
    assert agreement(whole[0], whole[1]) < 4
    for other in (8, 6, 7 + 2**32, 7 ^ 2**61, 0):
        assert agreement(whole, kept(other, 0.5)) < 4


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_no_lag_is_correlated(p: float) -> None:
    """Along keys and along queries, near and at powers of two."""
    whole = ((~kept(11, p, 600, 600, 2, 1)).double() - p) / math.sqrt(p * (1 - p))
    for lag in (*range(1, 34), 48, 63, 64, 65, 127, 128, 255, 256, 257, 512):
        for one, other in ((whole[..., lag:], whole[..., :-lag]), (whole[..., lag:, :], whole[..., :-lag, :])):
            assert abs((one * other).sum().item()) < 5 * math.sqrt(one.numel())


def test_every_pattern_of_neighbours_is_as_frequent() -> None:
    """Ten keys in a row, ten queries in a column, three by three of both, the four heads and two batches of a place."""
    whole = kept(13, 0.5, 640, 640, 4, 2)
    along = [whole[..., i::10] for i in range(10)]
    down = [whole[..., i::10, :] for i in range(10)]
    square = [whole[..., i:639:3, j:639:3] for i in range(3) for j in range(3)]
    across = [whole[b, h] for b in range(2) for h in range(4)]
    seeds = [kept(seed, 0.5, 320, 640) for seed in range(10)]
    for decisions in (along, down, square, across, seeds):
        counts = patterns(decisions)
        assert surprise(counts, counts.mean().expand_as(counts)) < 5


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_runs_are_as_long_as_those_of_coins(p: float) -> None:
    """Along the keys of many queries, laid end to end."""
    line = (~kept(17, p, 1024, 1000, 1, 1)).flatten()
    ends = torch.nonzero(line[1:] != line[:-1]).flatten()
    runs, dropped = ends.diff(), line[ends[1:]]
    for which, chance in ((dropped, p), (~dropped, 1 - p)):
        lengths = runs[which].clamp(max=8)
        expected = torch.tensor([chance ** (n - 1) * (1 - chance) for n in range(1, 8)], dtype=torch.float64)
        expected = torch.cat([expected, 1 - expected.sum()[None]]) * len(lengths)
        counts = torch.bincount(lengths, minlength=9)[1:].double()
        many = expected > 20
        assert surprise(counts[many], expected[many]) < 5


def test_a_bit_of_the_seed_or_the_place_changes_half_of_the_decisions() -> None:
    """Of every bit that flips: a place's own decisions, by 200 seeds, and each bit of the hash."""
    seeds = torch.arange(5000)
    for bits, flipped in ((62, "seed"), (40, "q"), (31, "k")):
        place = {name: torch.full((), 12345) for name in "bhqk"}
        before = dropout.kept(seeds, 0.5, place, 8, 2**20, 2**31)
        for bit in range(bits):
            seed, other = (seeds ^ (1 << bit), place) if flipped == "seed" else (seeds, dict(place))
            if flipped != "seed":
                other[flipped] = other[flipped] ^ (1 << bit)
            assert agreement(before, dropout.kept(seed, 0.5, other, 8, 2**20, 2**31)) < 5
    x = dropout._low(dropout._mixed(torch.arange(20000)))
    for bit in range(32):
        flip = -(2**31) if bit == 31 else 1 << bit
        changed = dropout._hashed(x) ^ dropout._hashed(x ^ flip)
        for own in range(16, 30):  # by the lower ones nobody can see that something is dropped
            assert abs(((changed >> own) & 1).double().mean().item() - 0.5) < 0.03


def test_the_seed_is_more_than_a_shift_of_the_place() -> None:
    one, two = (kept(seed, 0.5, batch=1, heads=1).flatten() for seed in (3, 4))
    for shift in range(-5, 6):
        rolled = two.roll(shift)
        assert agreement(one[10:-10], rolled[10:-10]) < 5


def test_a_place_is_dropped_whatever_the_tile() -> None:
    whole = kept(11, 0.3)
    place = {
        "b": torch.tensor([1])[:, None, None, None],
        "h": torch.tensor([2, 0])[:, None, None],
        "q": torch.arange(17, 31)[:, None],
        "k": torch.tensor([5, 97, 41]),
    }
    assert torch.equal(dropout.kept(11, 0.3, place, 3, 101, 103)[0], whole[1][[2, 0], 17:31][..., [5, 97, 41]])


def test_the_ends() -> None:
    assert kept(5, 0.0).all()
    assert not kept(5, 1.0).any()
    assert dropout.scale(1.0) == 0.0
    assert dropout.scale(0.75) == 4.0


def test_the_mixing_is_splitmix64() -> None:
    # The first outputs of Vigna's splitmix64.c from the states 0 and 1234567, whose step is the constant added.
    states = torch.tensor([0, 1234567])
    expected = [0xE220A8397B1DCDAF, 6457827717110365317]
    assert [number % 2**64 for number in dropout._mixed(states).tolist()] == expected


def by_hand(seed: int, p: float, row: int, key: int) -> bool:
    """The same in whole numbers of any size."""

    def mixed(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    bits = mixed(mixed(row % 2**64) ^ seed)
    x = (bits % 2**32 + key % 2**32 * 0x9E3779B9) % 2**32 ^ bits >> 32 ^ (key >> 32) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 16) * 0x21F0AAAD % 2**32
    x = (x ^ x >> 15) * 0x735A2D97 % 2**32
    return x >> 2 >= round(p * 2**62) + (bits >> 32) >> 32


@pytest.mark.parametrize("p", [2.0**-31, 0.3, 0.5, 1 - 2.0**-31])
def test_places_beyond_32_bits(p: float) -> None:
    heads, q_len, k_len = 5, 2**31 + 7, 2**34
    batches, queries = [0, 1, 2**20 + 3], [0, 1, 2**31 + 5]
    keys = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33 + 1, 2**34 - 1]
    place = {
        "b": torch.tensor(batches)[:, None, None, None],
        "h": torch.arange(heads)[:, None, None],
        "q": torch.tensor(queries)[:, None],
        "k": torch.tensor(keys),
    }
    found = dropout.kept(2**61 + 3, p, place, heads, q_len, k_len)
    for b, batch in enumerate(batches):
        for h in range(heads):
            for q, query in enumerate(queries):
                row = (batch * heads + h) * q_len + query
                assert found[b, h, q].tolist() == [by_hand(2**61 + 3, p, row, key) for key in keys]


@pytest.mark.parametrize("engine", ENGINES)
class TestCalls:
    def call(self, engine: str, p: float) -> Tensor:
        query, key, value = normal(2, 5, 11, 4), normal(2, 5, 13, 4, seed=1), normal(2, 5, 13, 7, seed=2)
        with running(engine):
            return pellucid.attention(query, key, value, dropout_p=p)

    def test_a_seed_makes_it_repeatable(self, engine: str) -> None:
        torch.manual_seed(3)
        first, second = self.call(engine, 0.4), self.call(engine, 0.4)
        torch.manual_seed(3)
        assert torch.equal(self.call(engine, 0.4), first)
        assert not torch.equal(first, second)

    def test_without_dropout_no_number_is_drawn(self, engine: str) -> None:
        before = torch.get_rng_state()
        self.call(engine, 0.0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_with_it_one_is(self, engine: str) -> None:
        torch.manual_seed(3)
        self.call(engine, 0.4)
        after = torch.get_rng_state()
        torch.manual_seed(3)
        dropout.seed()
        assert torch.equal(torch.get_rng_state(), after)

    def test_all_dropped_is_zero(self, engine: str) -> None:
        assert torch.equal(self.call(engine, 1.0), torch.zeros(2, 5, 11, 7))

    def test_the_mean_is_the_undropped_output(self, engine: str) -> None:
        query, key, value = normal(1, 5, 4), normal(1, 13, 4, seed=1), normal(1, 13, 2, seed=2)
        many = [t.expand(4001, 1, -1, -1) for t in (query, key, value)]
        with using("portable" if engine == "tiles" else engine):
            mean = pellucid.attention(*many, dropout_p=0.25).mean(0)
            exact = pellucid.attention(query, key, value)
        assert (mean - exact).abs().max() < 0.05  # 4 standard deviations of a mean of 4001

    @pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
    def test_what_is_dropped_is_told(self, engine: str, p: float) -> None:
        query, key, value = normal(2, 4, 11, 4), normal(2, 2, 13, 4, seed=1), normal(2, 2, 13, 7, seed=2)
        with running(engine):
            output, seen = pellucid.observe(query, key, value, dropout_p=p, is_causal=True, enable_gqa=True)
        dropped = seen.dropped()
        assert dropped.shape == (2, 4, 11, 13)
        assert dropped.dtype == torch.bool
        assert p or not dropped.any()
        kept = seen.weights().masked_fill(dropped, 0.0) * dropout.scale(p)
        torch.testing.assert_close(kept @ value.repeat_interleave(2, 1), output, rtol=1e-12, atol=1e-13)
        assert torch.equal(seen.dropped(slice(2, 9), [12, 0], 3), dropped[:, 3:4, 2:9][..., [12, 0]])


def test_without_a_heads_dimension_what_is_dropped_has_none() -> None:
    x = normal(5, 4)
    _, seen = pellucid.observe(x, x, x, dropout_p=0.5)
    assert seen.dropped().shape == seen.weights().shape == (5, 5)
    with pytest.raises(IndexError, match="keys"):
        seen.dropped(keys=5)


def test_any_tiling_and_the_reference_agree() -> None:
    query = normal(2, 3, 23, 4).requires_grad_()
    results = []
    for engine, tile in (
        ("reference", (5, 7)), ("portable", (5, 7)), ("portable", (23, 3)), ("portable", (1, 29)), ("cpu", (5, 7)),
    ):  # fmt: skip
        torch.manual_seed(5)
        with using(engine), tiles(*tile):
            output = pellucid.attention(query, query, query, dropout_p=0.3, is_causal=True)
        results.append((output, *torch.autograd.grad(output.square().sum(), query)))
    for output, gradient in results[1:]:
        torch.testing.assert_close(output, results[0][0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-11, atol=1e-12)
