"""Weights that a user gives are shown as they were given, and what is no weight is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid.record.given import record_of_weights
from pellucid.record.observed import record_of

TOKENS = list("abcabcd")


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape).softmax(-1)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.floats(0.01, 3.0), st.randoms())
def test_they_are_given_back_unchanged(shape: list[int], scale: float, random: Any) -> None:
    weights = rows(*shape) * scale
    layer = record_of_weights(weights)[0]
    whole = weights[(None,) * (4 - weights.ndim)]
    assert torch.equal(layer.weights(), whole)
    queries = [random.randrange(layer.q_len) for _ in range(3)]
    keys = slice(random.randrange(layer.k_len), None)
    assert torch.equal(layer.weights(queries=queries, keys=keys, heads=-1), whole[:, -1:, queries, keys])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_they_keep_their_precision(dtype: torch.dtype) -> None:
    weights = rows(2, 5, 5).to(dtype)
    found = record_of_weights(weights)[0].weights()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found[0].to(dtype), weights)


def test_several_are_layers() -> None:
    one, two = rows(1, 2, 5, 5), rows(1, 3, 5, 7)
    assert record_of_weights((one, two)).layers == ["layer.0", "layer.1"]
    assert record_of_weights({"first": one, "second": two}).layers == ["first", "second"]
    assert record_of_weights(torch.stack([one, one])).layers == ["layer.0", "layer.1"]
    assert record_of_weights([one[0].tolist(), one[0].tolist()]).layers == ["layer.0", "layer.1"]
    assert [layer.role for layer in record_of_weights((one, two)).values()] == ["self", "cross"]


def test_arrays_and_lists_of_numbers_are_taken() -> None:
    weights = rows(2, 3, 5)
    for given_ in (weights.numpy(), np.asarray(weights, order="F"), weights.tolist(), weights.requires_grad_()):
        assert torch.equal(record_of_weights(given_)[0].weights()[0], weights)


def test_the_role_is_seen_or_asked_for() -> None:
    weights = rows(2, 5, 5).tril()
    assert record_of_weights(weights)[0].role == "causal self"
    assert record_of_weights(weights, role="self")[0].role == "self"
    assert record_of_weights(weights, list("abcde"), list("vwxyz"))[0].role == "cross"
    assert record_of_weights(rows(1, 1))[0].role == "self"
    with pytest.raises(ValueError, match=r"^role: one of self, causal self, cross, got 'own'$"):
        record_of_weights(weights, role="own")
    with pytest.raises(ValueError, match="needs as many keys as queries"):
        record_of_weights(rows(2, 5, 7), role="self")


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0])])
def test_their_numbers_are_those_of_the_call_that_made_them(sinks: Tensor | None) -> None:
    x = torch.randn(3, 2, 7, 8)
    _, seen = pellucid.observe(x, x, x, is_causal=True, sinks=sinks)
    observed = record_of(seen, [TOKENS] * 3).summary()
    given_ = record_of_weights(seen.weights(), [TOKENS] * 3).summary()
    for name, values in observed.columns().items():
        if isinstance(values[0], float):
            assert given_.columns()[name] == pytest.approx(values, abs=2e-5, nan_ok=True), name


def test_rows_of_more_than_one_have_few_numbers_and_say_so() -> None:
    record = record_of_weights(rows(2, 5, 5) * 3)
    (row, _) = record.summary()
    assert row.entropy > 0
    assert np.isnan(row.previous)
    assert record.notes == ["weights: rows sum to as much as 3, so its heads have few numbers"]


def test_rows_of_nan_are_padding() -> None:
    weights = rows(2, 5, 5)
    weights[:, 3] = torch.nan
    layer = record_of_weights(weights)[0]
    assert layer.padding.queries is not None
    assert layer.padding.queries.tolist() == [[False, False, False, True, False]]
    assert np.isfinite(record_of_weights(weights).summary()[0].entropy)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (rows(2, 5, 5).int(), TypeError, r"^weights: floating-point numbers are needed, got torch.int32"),
        (rows(2, 5, 5) > 0.1, TypeError, "got torch.bool"),
        (rows(2, 5, 5).to(torch.complex64), TypeError, "got torch.complex64"),
        (rows(2, 5, 5).to(torch.float8_e4m3fn), TypeError, "got torch.float8_e4m3fn"),
        (
            torch.nested.nested_tensor([rows(5, 5), rows(5, 5)], layout=torch.jagged),
            TypeError,
            "dense tensor with numbers",
        ),
        ({1: rows(2, 5, 5), "1": rows(2, 5, 5)}, ValueError, r"names of layers must differ as texts, got \[1, '1'\]"),
        (rows(2, 5, 5).to("meta"), TypeError, "dense tensor with numbers"),
        (rows(5, 5).to_sparse(), TypeError, "dense tensor with numbers"),
        ("text", TypeError, r"^weights: a tensor .* is needed, got str"),
        (None, TypeError, "attn_implementation"),
        ((rows(1, 2, 5, 5), None), TypeError, r"^layer\.1: there are no weights, only None"),
        (((rows(1, 2, 5, 5),), (rows(1, 2, 5, 5),)), TypeError, "got a tuple of tensors"),
        (rows(5), ValueError, r"is needed, none of them 0, got \[5\]"),
        (torch.zeros(2, 0, 5), ValueError, r"got \[2, 0, 5\]"),
        ([], ValueError, "none"),
        (
            -rows(2, 3, 3),
            ValueError,
            r"^weights: a weight is 0 or more, got -0\..*, at sequence 0, head 0, query 0, key 0",
        ),
        (torch.full((1, 3, 3), torch.inf), ValueError, "got inf"),
        ([rows(1, 2, 5, 5), rows(2, 2, 5, 5)], ValueError, "batch of 2 differs"),
    ],
)
def test_what_is_no_weight_is_refused(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        record_of_weights(wrong)


def test_a_lone_nan_is_refused() -> None:
    weights = rows(2, 5, 5)
    weights[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"got nan, NaN in a row .* at sequence 0, head 1, query 2, key 3"):
        record_of_weights(weights)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (list("abcd"), ValueError, r"^tokens: 5 are needed, got 4$"),
        ("abcde", TypeError, "a list of texts"),
        ([1, 2, 3, 4, 5], TypeError, "a list of texts"),
        ([list("abcde")] * 2, ValueError, r"one list for each of 1 sequences"),
        (5, TypeError, "got int"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        record_of_weights(rows(2, 5, 5), tokens)


def test_a_tensor_that_was_changed_is_refused() -> None:
    weights = rows(2, 5, 5)
    layer = record_of_weights(weights)[0]
    weights.zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        layer.weights()
