"""The named score functions, against the published formulas."""

import math

import pytest
import torch

import pellucid
from pellucid import scores
from pellucid.engines import using
from tests.cases import normal

HEADS = 3


def place(q_len, k_len):
    return (
        torch.zeros(1, 1, 1, 1, dtype=torch.long),
        torch.arange(HEADS)[:, None, None],
        torch.arange(q_len)[:, None],
        torch.arange(k_len),
    )


def bias(function, q_len, k_len):
    """What a function adds to a score of 0, [heads, q_len, k_len]."""
    return function(torch.zeros(1, HEADS, q_len, k_len), *place(q_len, k_len))[0]


def test_alibi():
    slopes = torch.tensor([0.5, 0.25, 2.0])
    expected = [[[-slope * abs(q - k) for k in range(5)] for q in range(3)] for slope in slopes.tolist()]
    assert bias(scores.alibi(slopes), 3, 5).tolist() == expected


def paper_slopes(heads):
    """get_slopes of the ALiBi authors' code, transcribed."""

    def of_power_of_2(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(heads).is_integer():
        return of_power_of_2(heads)
    closest = 2 ** math.floor(math.log2(heads))
    return of_power_of_2(closest) + paper_slopes(2 * closest)[0::2][: heads - closest]


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 31, 32, 112])
def test_the_slopes_are_the_papers(heads):
    torch.testing.assert_close(scores.alibi_slopes(heads), torch.tensor(paper_slopes(heads)), rtol=1e-6, atol=0)


def test_softcap():
    score = torch.tensor([-1e30, -20.0, 0.0, 1e-3, 5.0, 1e30])
    capped = scores.softcap(20.0)(score, *place(1, 6))
    torch.testing.assert_close(capped, 20 * torch.tanh(score / 20), rtol=0, atol=0)
    assert capped.abs().max() == 20


def t5_bucket(relative_position, bidirectional, num_buckets, max_distance):
    """T5's _relative_position_bucket of key position - query position, transcribed."""
    relative_buckets = 0
    if bidirectional:
        num_buckets //= 2
        relative_buckets += (relative_position > 0).to(torch.long) * num_buckets
        relative_position = torch.abs(relative_position)
    else:
        relative_position = -torch.min(relative_position, torch.zeros_like(relative_position))
    max_exact = num_buckets // 2
    is_small = relative_position < max_exact
    if_large = max_exact + (
        torch.log(relative_position.float() / max_exact)
        / math.log(max_distance / max_exact)
        * (num_buckets - max_exact)
    ).to(torch.long)
    if_large = torch.min(if_large, torch.full_like(if_large, num_buckets - 1))
    return relative_buckets + torch.where(is_small, relative_position, if_large)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (16, 1000), (5, 7), (64, 37)])
@pytest.mark.parametrize(("q_len", "k_len", "offset"), [(211, 307, 0), (1, 307, 211), (307, 1, 0)])
def test_the_buckets_are_t5s(bidirectional, buckets, max_distance, q_len, k_len, offset):
    table = normal(buckets, HEADS, dtype=torch.float32)
    function = scores.relative_bias(table, bidirectional=bidirectional, max_distance=max_distance, offset=offset)
    relative = torch.arange(k_len) - (torch.arange(q_len)[:, None] + offset)
    # Bucket of distance 0: the logarithm of 0 converted to an integer is not defined, and not used.
    expected = table[t5_bucket(relative, bidirectional, buckets, max_distance)]
    assert torch.equal(bias(function, q_len, k_len), expected.permute(2, 0, 1))


def test_a_t5_layer_of_one_bucket_each_is_drawn():
    """Keys after the query have buckets 4 to 7; near distances one each."""
    table = torch.arange(8.0)[:, None].expand(8, HEADS)
    drawn = bias(scores.relative_bias(table, max_distance=16), 3, 7)[0].tolist()
    assert drawn == [[0, 5, 6, 6, 6, 6, 7], [1, 0, 5, 6, 6, 6, 6], [2, 1, 0, 5, 6, 6, 6]]
    table = torch.arange(4.0)[:, None].expand(4, HEADS)
    drawn = bias(scores.relative_bias(table, bidirectional=False, max_distance=16), 5, 5)[0].tolist()
    assert drawn == [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [2, 1, 0, 0, 0], [2, 2, 1, 0, 0], [2, 2, 2, 1, 0]]


def test_one_function_after_another():
    slopes = torch.tensor([0.5, 0.25, 2.0])
    both = scores.chain(scores.alibi(slopes), scores.softcap(3.0))
    score = normal(1, HEADS, 5, 7, dtype=torch.float32)
    expected = 3 * torch.tanh((score - slopes[:, None, None] * (place(5, 7)[2] - place(5, 7)[3]).abs()) / 3)
    torch.testing.assert_close(both(score, *place(5, 7)), expected)
    assert both.__name__ == "alibi_then_softcap"
    assert scores.chain()(score, *place(5, 7)) is score


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: scores.alibi(scores.alibi_slopes(HEADS).double()),
        lambda: scores.softcap(0.7),
        lambda: scores.relative_bias(normal(16, HEADS), max_distance=20),
        lambda: scores.relative_bias(normal(8, HEADS), bidirectional=False, max_distance=20, offset=3),
        lambda: scores.chain(scores.relative_bias(normal(16, HEADS)), scores.softcap(2.0)),
    ],
)
def test_attention_is_the_formula(make, engine):
    function = make()
    query, key = normal(1, HEADS, 29, 4), normal(1, HEADS, 31, 4, seed=1)
    with using(engine):
        output = pellucid.attention(query, key, key, score_mod=function)
    exact = function(query @ key.mT / 2, *place(29, 31)).softmax(-1) @ key
    torch.testing.assert_close(output, exact, rtol=1e-10, atol=1e-11)


def test_gradients_flow_to_slopes_and_tables():
    slopes, table = normal(HEADS).requires_grad_(), normal(8, HEADS).requires_grad_()
    function = scores.chain(scores.alibi(slopes), scores.relative_bias(table, max_distance=20))
    query = normal(1, HEADS, 11, 4)
    output = pellucid.attention(query, query, query, score_mod=function)
    exact = function(query @ query.mT / 2, *place(11, 11)).softmax(-1) @ query
    upstream = normal(1, HEADS, 11, 4, seed=5)
    found = torch.autograd.grad((output * upstream).sum(), [slopes, table])
    expected = torch.autograd.grad((exact * upstream).sum(), [slopes, table])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: scores.alibi(torch.tensor([1, 2])),
            r"^slopes: a float tensor of 1 dim.* got torch.int64 of shape \[2\]",
        ),
        (lambda: scores.alibi(0.5), r"^slopes: a float tensor of 1 dimensions is needed, got float"),
        (lambda: scores.alibi_slopes(0), r"^heads: at least 1 is needed, got 0"),
        (lambda: scores.softcap(0.0), r"^cap: a positive finite number is needed, got 0.0"),
        (lambda: scores.softcap(-1.0), r"^cap: a positive"),
        (lambda: scores.softcap(math.inf), r"^cap: a positive"),
        (lambda: scores.softcap(math.nan), r"^cap: a positive"),
        (lambda: scores.relative_bias(normal(3, 2)), r"^table: at least 4 buckets are needed, got 3"),
        (
            lambda: scores.relative_bias(normal(1, 2), bidirectional=False),
            r"^table: at least 2 buckets are needed, got 1",
        ),
        (lambda: scores.relative_bias(normal(32)), r"^table: a float tensor of 2 dimensions is needed"),
        (lambda: scores.relative_bias(normal(32, 2), max_distance=8), r"^max_distance: more than 8, half the buckets"),
    ],
)
def test_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
