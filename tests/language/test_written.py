"""Expressions as text: what is read again computes the same, with other tensors as well."""

from __future__ import annotations

import math

import pytest
import torch

from pellucid.language import TRUE, evaluate, read, trace, write
from tests.cases import normal

TABLE, OTHER = normal(5, 7), normal(5, 7, seed=1)
PLACE = {"b": torch.zeros(1), "h": torch.arange(5)[:, None], "q": torch.arange(5)[:, None], "k": torch.arange(7)}
FUNCTIONS = {
    "constants": lambda s, b, h, q, k: torch.where(k > 2, s * 0.1, -math.inf) + 1e-300 * s + (q - 3) * -7,
    "loads": lambda s, b, h, q, k: s + TABLE[h, k] * TABLE[q, k],
    "a bool": lambda s, b, h, q, k: (k <= q) | ~(q == 2) & True,
    "casts": lambda s, b, h, q, k: torch.floor(s).to(torch.long) // 3 + (q % 2).to(torch.bool),
    "itself": lambda s, b, h, q, k: s,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_read_computes_the_same(name):
    expression = trace(FUNCTIONS[name], "score_mod", ("score", "b", "h", "q", "k"))
    text, tensors = write(TRUE, expression)
    first, again = read(text, tensors)
    assert first is TRUE
    inputs = {"score": normal(5, 7, seed=2), **PLACE}
    (value,), (expected,) = (evaluate(e, inputs=inputs, dtype=torch.float64) for e in (again, expression))
    assert torch.equal(value, expected)
    assert value.dtype == expected.dtype


def test_a_tensor_is_listed_once_and_may_be_another():
    text, tensors = write(trace(FUNCTIONS["loads"], "score_mod", ("score", "b", "h", "q", "k")))
    assert len(tensors) == 1
    assert tensors[0] is TABLE
    (other,) = read(text, [OTHER])
    score = normal(5, 7, seed=2)
    (value,) = evaluate(other, inputs={"score": score, **PLACE}, dtype=torch.float64)
    torch.testing.assert_close(value, score + OTHER * OTHER)
