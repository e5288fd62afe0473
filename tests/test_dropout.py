"""The hash that drops weights: its rate, its independence, and that nothing but the seed and the place decides."""

import pytest
import torch

import pellucid
from pellucid import dropout
from pellucid.engines import using
from pellucid.engines.portable import tiles
from tests.cases import normal


def kept(seed, p, q_len=101, k_len=103, heads=3, batch=2):
    """What is kept of a whole matrix, [batch, heads, q_len, k_len]."""
    place = {
        "b": torch.arange(batch)[:, None, None, None],
        "h": torch.arange(heads)[:, None, None],
        "q": torch.arange(q_len)[:, None],
        "k": torch.arange(k_len),
    }
    return dropout.kept(seed, p, place, heads, q_len, k_len)


def agreement(left, right):
    """How far the share of equal decisions of two fair coins is from a half, in standard deviations."""
    return abs((left == right).double().mean().item() - 0.5) * 2 * left.numel() ** 0.5


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1, 2**61 + 12345])
def test_the_rate_is_p(p, seed):
    whole = kept(seed, p)
    sigma = (p * (1 - p) / whole.numel()) ** 0.5
    assert abs((~whole).double().mean().item() - p) < 4 * sigma
    for dims in ((0, 1, 2), (0, 1, 3), (2, 3)):  # of each key, each query, each head
        share = (~whole).double().mean(dims)
        sigma = (p * (1 - p) / (whole.numel() // share.numel())) ** 0.5
        assert (share - p).abs().max() < 6 * sigma + 1e-12


def test_neighbours_rows_heads_batches_and_seeds_are_independent():
    whole = kept(7, 0.5)
    assert agreement(whole[..., 1:], whole[..., :-1]) < 4
    assert agreement(whole[..., 1:, :], whole[..., :-1, :]) < 4
    assert agreement(whole[..., 1:, 1:], whole[..., :-1, :-1]) < 4
    assert agreement(whole[:, 0], whole[:, 1]) < 4
    assert agreement(whole[0], whole[1]) < 4
    for other in (8, 6, 7 + 2**32, 7 ^ 2**61, 0):
        assert agreement(whole, kept(other, 0.5)) < 4


def test_the_seed_is_more_than_a_shift_of_the_place():
    one, two = (kept(seed, 0.5, batch=1, heads=1).flatten() for seed in (3, 4))
    for shift in range(-5, 6):
        rolled = two.roll(shift)
        assert agreement(one[10:-10], rolled[10:-10]) < 5


def test_a_place_is_dropped_whatever_the_tile():
    whole = kept(11, 0.3)
    place = {
        "b": torch.tensor([1])[:, None, None, None],
        "h": torch.tensor([2, 0])[:, None, None],
        "q": torch.arange(17, 31)[:, None],
        "k": torch.tensor([5, 97, 41]),
    }
    assert torch.equal(dropout.kept(11, 0.3, place, 3, 101, 103)[0], whole[1][[2, 0], 17:31][..., [5, 97, 41]])


def test_the_ends():
    assert kept(5, 0.0).all()
    assert not kept(5, 1.0).any()


def test_the_mixing_is_splitmix64():
    # The first outputs of Vigna's splitmix64.c from the states 0 and 1234567, whose step is the constant added.
    states = torch.tensor([0, 1234567])
    expected = [0xE220A8397B1DCDAF >> 11, 6457827717110365317 >> 11]
    assert dropout._mixed(states).tolist() == expected


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
class TestCalls:
    def call(self, engine, p, **more):
        query, key, value = normal(2, 5, 11, 4), normal(2, 5, 13, 4, seed=1), normal(2, 5, 13, 7, seed=2)
        with using(engine):
            return pellucid.attention(query, key, value, dropout_p=p, **more)

    def test_a_seed_makes_it_repeatable(self, engine):
        torch.manual_seed(3)
        first, second = self.call(engine, 0.4), self.call(engine, 0.4)
        torch.manual_seed(3)
        assert torch.equal(self.call(engine, 0.4), first)
        assert not torch.equal(first, second)

    def test_without_dropout_no_number_is_drawn(self, engine):
        before = torch.get_rng_state()
        self.call(engine, 0.0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_all_dropped_is_zero(self, engine):
        assert torch.equal(self.call(engine, 1.0), torch.zeros(2, 5, 11, 7))

    def test_the_mean_is_the_undropped_output(self, engine):
        query, key, value = normal(1, 5, 4), normal(1, 13, 4, seed=1), normal(1, 13, 2, seed=2)
        many = [t.expand(4001, 1, -1, -1) for t in (query, key, value)]
        with using(engine):
            mean = pellucid.attention(*many, dropout_p=0.25).mean(0)
            exact = pellucid.attention(query, key, value)
        assert (mean - exact).abs().max() < 0.05  # 4 standard deviations of a mean of 4001


def test_any_tiling_and_the_reference_agree():
    query = normal(2, 3, 23, 4).requires_grad_()
    results = []
    for engine, tile in (("reference", (5, 7)), ("portable", (5, 7)), ("portable", (23, 3)), ("portable", (1, 29))):
        torch.manual_seed(5)
        with using(engine), tiles(*tile):
            output = pellucid.attention(query, query, query, dropout_p=0.3, is_causal=True)
        results.append((output, *torch.autograd.grad(output.square().sum(), query)))
    for output, gradient in results[1:]:
        torch.testing.assert_close(output, results[0][0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-11, atol=1e-12)
