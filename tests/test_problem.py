"""The description of a call: places, parts of the matrix, grouped heads, what is captured."""

import pytest
import torch

from pellucid import dropout
from pellucid.language import SCORE, load, operation, trace
from pellucid.problem import ALL, Problem, is_autocast
from pellucid.readouts import Expect
from tests.cases import normal

BATCH, HEADS, Q_LEN, K_LEN, DIM = (2, 3), 6, 5, 7, 4


def problem(kv_heads=2, **more):
    query, key = normal(1, 3, HEADS, Q_LEN, DIM), normal(2, 1, kv_heads, K_LEN, DIM, seed=1)
    return Problem(query, key, normal(2, 3, 3, K_LEN, 11, seed=2), BATCH, HEADS, 0.3, **more)


def whole(kv_heads=2):
    """query @ key.T * scale with everything expanded."""
    made = problem(kv_heads)
    key = made.key.repeat_interleave(HEADS // kv_heads, 2)
    return (made.query @ key.mT * 0.3).expand(*BATCH, HEADS, Q_LEN, K_LEN)


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_the_matrix_and_any_part_of_it(kv_heads):
    made, exact = problem(kv_heads), whole(kv_heads)
    torch.testing.assert_close(made.matrix(), exact)
    torch.testing.assert_close(made.matrix(slice(1, 4), slice(2, None)), exact[..., 1:4, 2:])
    heads, rows, keys = torch.tensor([5, 0, 3]), torch.tensor([4, 4]), torch.tensor([6, 1, 0])
    part = made.matrix(rows, keys, heads)
    torch.testing.assert_close(part, exact[..., heads, :, :][..., rows, :][..., keys])


def test_places_say_where_each_score_is():
    place = problem().place(slice(1, 4), torch.tensor([6, 2]), torch.tensor([5, 0]))
    b, h, q, k = torch.broadcast_tensors(*place.values())
    assert b.shape == (*BATCH, 2, 3, 2)
    assert b[1, 2].unique().tolist() == [5]
    assert h[0, 0, :, 0, 0].tolist() == [5, 0]
    assert q[0, 0, 0, :, 0].tolist() == [1, 2, 3]
    assert k[0, 0, 0, 0].tolist() == [6, 2]


def test_a_function_sees_the_flattened_batch():
    made = problem(score=trace(lambda score, b: score * 0 + b, "score_mod", ("score", "b")))
    assert made.scores()[..., 0, 0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_mask_of_a_full_part_is_left_out():
    mask = trace(lambda q, k: q >= k, "mask_mod", ("q", "k"))
    made = problem(mask=mask)
    raw, place = made.matrix(), made.place()
    exact = whole().masked_fill(~torch.ones(Q_LEN, K_LEN, dtype=torch.bool).tril(), -torch.inf)
    torch.testing.assert_close(made.modify(raw, place), exact)
    torch.testing.assert_close(made.scores(), exact)
    assert made.modify(raw, place, full=True) is raw


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_the_precision_to_compute_in(dtype, computed):
    made = Problem(*(normal(1, 3, 4, dtype=dtype),) * 3, (), 1, 1.0)
    assert made.dtype == computed
    assert made.matrix().dtype == made.value_of_heads().dtype == computed


def test_what_is_captured():
    bias, table, ids = normal(3).requires_grad_(), normal(7).requires_grad_(), torch.arange(7)
    score = trace(lambda score, h, k: score + bias[h] * bias[h] + normal(7)[k], "score_mod", ("score", "h", "k"))
    mask = trace(lambda k: ids[k] < 4, "mask_mod", ("k",))
    made = problem(score=score, mask=mask, readouts=(Expect(lambda b, h, q, k: table[k], "x"),))
    assert [tuple(node.value.shape) for node in made.loads] == [(3,), (3,), (7,), (7,), (7,)]
    assert len(made.captured) == 2
    assert made.captured[0] is bias
    assert made.captured[1] is table
    assert [t.shape for t in made.differentiable[3:]] == [bias.shape, table.shape]


def test_dropout_multiplies_by_0_or_what_keeps_the_mean():
    made = problem(dropout_p=0.1, dropout_seed=7)
    factors = made.dropout(made.place())
    kept = dropout.kept(7, 0.1, made.place(), HEADS, Q_LEN, K_LEN)
    assert factors.dtype == torch.float64
    assert torch.equal(factors, kept / torch.tensor(0.9, dtype=torch.float64))
    assert not problem(dropout_p=1.0).dropout(made.place()).any()


def test_lengths_and_rows():
    made = problem()
    assert (made.q_len, made.k_len, made.rows) == (Q_LEN, K_LEN, (2, 3, HEADS, Q_LEN))
    assert made.query_of_heads(ALL).shape == made.query.shape


def test_autocast_is_known_for_any_device():
    assert not is_autocast("cpu")
    assert not is_autocast("meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_autocast("cpu")
        with problem().own_precision():
            assert not is_autocast("cpu")


def test_a_constant_score_fills_the_matrix():
    made = problem(score=operation("mul", load(torch.tensor(2.5), ()), load(torch.tensor(2.0), ())))
    assert torch.equal(made.scores(), torch.full((*BATCH, HEADS, Q_LEN, K_LEN), 5.0, dtype=torch.float64))
    assert problem().score is SCORE
