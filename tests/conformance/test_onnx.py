"""ONNX's Attention operator, by its own backend cases and by its written semantics (opset 25), through our face.

And the preview of FlexAttention, whose score_mod is a graph of ONNX operators: written again as a function here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import scores
from tests.cases import ENGINES, Call, assert_close, dense, normal, running, tolerance
from tests.conformance.onnx_attention import BIASED, CAPPED, RAW, SOFTMAXED, Attributes, attention

onnx = pytest.importorskip("onnx")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other operators' cases divide by zero as they are made
    from onnx.backend.test.loader import load_node_model_tests

    BASE_CASES = {case.name: case for case in load_node_model_tests() if "_expanded" not in case.name}

CASES = {name: case for name, case in BASE_CASES.items() if name.startswith("test_attention")}
FLEX_CASES = {name: case for name, case in BASE_CASES.items() if name.startswith("test_flexattention")}

# Every case of Attention can be said. One that a later onnx adds must pass, or be named here with the reason.
INEXPRESSIBLE: dict[str, str] = {
    "test_flexattention_prob_mod": "it changes the weights after softmax, so they need not be a distribution any more",
}

# The score_mod graphs of the FlexAttention cases that have one.
SCORE_MODS: dict[str, Callable[..., Any]] = {
    "test_flexattention_score_mod": lambda score, b, h, q, k: score + 0.5,
    "test_flexattention_causal_mask": lambda score, b, h, q, k: torch.where(q >= k, score, -torch.inf),
    "test_flexattention_soft_cap": scores.softcap(20.0),
    "test_flexattention_relative_positional": lambda score, b, h, q, k: score + (q - k).to(score.dtype),
}

INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")


def test_the_suite_is_the_one_we_know() -> None:
    assert len(CASES) >= 93
    assert len(FLEX_CASES) >= 11
    assert set(INEXPRESSIBLE) == {"test_flexattention_prob_mod"}
    with_graph = {name for name, case in FLEX_CASES.items() if "score_mod" in graph_attributes(case)}
    assert set(SCORE_MODS) == with_graph
    assert {name for name, case in FLEX_CASES.items() if "prob_mod" in graph_attributes(case)} == set(INEXPRESSIBLE)


def graph_attributes(case: Any) -> set[str]:
    (node,) = case.model.graph.node
    return {attribute.name for attribute in node.attribute}


def tensor(array: np.ndarray) -> Tensor:
    """A torch tensor of an ONNX array; numpy has no bfloat16 of its own."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array.copy())


def attributes(node: Any) -> Attributes:
    return Attributes(**{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(set(CASES) - set(INEXPRESSIBLE)))
def test_backend_case(name: str, engine: str) -> None:
    case = CASES[name]
    (node,) = case.model.graph.node
    ((inputs, outputs),) = case.data_sets
    given = dict(zip([n for n in node.input if n], map(tensor, inputs), strict=True))
    assert set(given) <= set(INPUTS)
    with running(engine, tile=(3, 2)):
        results = attention(attributes(node), *(given.get(name) for name in INPUTS))  # type: ignore[arg-type]
    for expected_name, expected in zip([n for n in node.output if n], outputs, strict=True):
        assert_matches(getattr(results, expected_name), tensor(expected), case)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(set(FLEX_CASES) - set(INEXPRESSIBLE)))
def test_flex_backend_case(name: str, engine: str) -> None:
    case = FLEX_CASES[name]
    (node,) = case.model.graph.node
    ((inputs, (expected,)),) = case.data_sets
    scale = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "scale"}
    with running(engine, tile=(3, 2)):
        result = pellucid.attention(*map(tensor, inputs), **scale, enable_gqa=True, score_mod=SCORE_MODS.get(name))
    assert_matches(result, tensor(expected), case)


def assert_matches(result: Tensor, expected: Tensor, case: Any) -> None:
    """As ONNX's own runner compares; half precision apart, where ONNX rounds scores and weights and we round once."""
    assert result.dtype == expected.dtype
    slack = 8 * torch.finfo(result.dtype).eps * expected[torch.isfinite(expected)].abs().max().item()
    np.testing.assert_allclose(
        result.double().numpy(), expected.double().numpy(), rtol=case.rtol, atol=max(case.atol, slack)
    )


# The written semantics, by hand.

BATCH, HEADS, Q_LEN, K_LEN, DIM = 2, 3, 4, 8, 5
QUERY = normal(BATCH, HEADS, Q_LEN, DIM, seed=1)
KEY = normal(BATCH, HEADS, K_LEN, DIM, seed=2)
VALUE = normal(BATCH, HEADS, K_LEN, DIM, seed=3)
EPS = torch.finfo(torch.float64).eps


def weights_of(given: Attributes, **inputs: Tensor) -> Tensor:
    inputs = {"query": QUERY, "key": KEY, "value": VALUE} | inputs
    return attention(Attributes(**(vars(given) | {"qk_matmul_output_mode": SOFTMAXED})), **inputs).qk_matmul_output


def drawn(*rows: str) -> Tensor:
    """A mask as the specification draws it."""
    return torch.tensor([[sign == "#" for sign in row.replace(" ", "")] for row in rows])


@pytest.mark.parametrize("engine", ENGINES)
def test_external_cache_causal_is_drawn_per_batch(engine: str) -> None:
    """The specification's two drawings: nonpad_kv_seqlen 4 (offset 0) and 8 (offset 4)."""
    with running(engine, tile=(3, 3)):
        weights = weights_of(Attributes(is_causal=1), nonpad_kv_seqlen=torch.tensor([4, 8]))
    offset_0 = drawn("#... ....", "##.. ....", "###. ....", "#### ....")
    offset_4 = drawn("#### #...", "#### ##..", "#### ###.", "#### ####")
    assert torch.equal(weights > 0, torch.stack([offset_0, offset_4])[:, None].expand_as(weights))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_window_is_inclusive_on_both_sides(engine: str) -> None:
    """The specification's drawing: 4 queries, 6 keys, left 2, right 1."""
    with running(engine, tile=(3, 3)):
        weights = weights_of(
            Attributes(left_window_size=2, right_window_size=1), key=KEY[..., :6, :], value=VALUE[..., :6, :]
        )
    window = drawn("##....", "###...", "####..", ".####.")
    assert torch.equal(weights > 0, window.expand_as(weights))


def test_the_causal_bound_still_excludes_what_a_right_window_allows() -> None:
    weights = weights_of(Attributes(is_causal=1, right_window_size=3))
    assert torch.equal(weights > 0, torch.ones(Q_LEN, K_LEN).tril().bool().expand_as(weights))


def test_without_a_cache_causal_is_aligned_top_left() -> None:
    weights = weights_of(Attributes(is_causal=1))
    assert torch.equal(weights > 0, torch.ones(Q_LEN, K_LEN).tril().bool().expand_as(weights))


def test_an_internal_cache_moves_the_diagonal_by_its_length() -> None:
    past, new = slice(0, 4), slice(4, 8)
    given = Attributes(is_causal=1)
    results = attention(
        given,
        QUERY,
        KEY[..., new, :],
        VALUE[..., new, :],
        past_key=KEY[..., past, :],
        past_value=VALUE[..., past, :],
    )
    assert torch.equal(results.present_key, KEY)
    assert torch.equal(results.present_value, VALUE)
    exact = dense(Call(QUERY, KEY, VALUE, attn_mask=torch.ones(Q_LEN, K_LEN).tril(4).bool()))
    assert_close(results.Y, exact.output, tolerance(torch.float64, exact))


@pytest.mark.parametrize("engine", ENGINES)
def test_queries_before_the_cache_see_nothing_and_give_zero(engine: str) -> None:
    """nonpad_kv_seqlen 2 < 4 queries: offset -2, so the first two rows are empty."""
    lengths = torch.tensor([2, 3])
    with running(engine, tile=(3, 3)):
        results = attention(Attributes(is_causal=1), QUERY, KEY, VALUE, nonpad_kv_seqlen=lengths)
        weights = weights_of(Attributes(is_causal=1), nonpad_kv_seqlen=lengths)
    for batch, empty in enumerate((2, 1)):
        assert (results.Y[batch, :, :empty] == 0).all()
        assert (weights[batch, :, :empty] == 0).all()
        assert (results.Y[batch, :, empty:] != 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_softcap_comes_before_the_mask(engine: str) -> None:
    """Capped after the mask, -inf would become -softcap, and a forbidden key would be looked at."""
    mask = torch.zeros(Q_LEN, K_LEN, dtype=torch.float64)
    mask[:, 5:] = -torch.inf
    capped = 0.5 * torch.tanh(QUERY @ KEY.mT * DIM**-0.5 / 0.5)
    expected = (capped + mask).softmax(-1)
    with running(engine, tile=(3, 3)):
        weights = weights_of(Attributes(softcap=0.5), attn_mask=mask)
    assert (weights[..., 5:] == 0).all()
    assert_close(weights, expected, 16 * EPS)


def test_a_bool_mask_intersects_and_a_float_mask_is_added() -> None:
    causal = torch.ones(Q_LEN, K_LEN).tril().bool()
    allowed = normal(Q_LEN, K_LEN, seed=4) > -1
    bias = normal(Q_LEN, K_LEN, seed=5)
    raw = QUERY @ KEY.mT * DIM**-0.5
    both = raw.masked_fill(~(causal & allowed), -torch.inf)
    assert_close(weights_of(Attributes(is_causal=1), attn_mask=allowed), softmax(both), 16 * EPS)
    added = (raw + bias).masked_fill(~causal, -torch.inf)
    assert_close(weights_of(Attributes(is_causal=1), attn_mask=bias), softmax(added), 16 * EPS)


def softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1).nan_to_num(0.0)


def test_a_mask_shorter_than_the_keys_forbids_the_rest() -> None:
    mask = torch.ones(Q_LEN, 6, dtype=torch.bool)
    weights = weights_of(Attributes(), attn_mask=mask, nonpad_kv_seqlen=torch.tensor([6, 5]))
    assert (weights[0, ..., :6] > 0).all()
    assert (weights[0, ..., 6:] == 0).all()
    assert (weights[1, ..., :5] > 0).all()
    assert (weights[1, ..., 5:] == 0).all()


def test_the_four_stages_of_the_matrix() -> None:
    bias = normal(Q_LEN, K_LEN, seed=6)
    raw = QUERY @ KEY.mT * 0.7
    capped = 2.0 * torch.tanh(raw / 2.0)
    stages = {RAW: raw, CAPPED: capped, BIASED: capped + bias, SOFTMAXED: (capped + bias).softmax(-1)}
    for mode, expected in stages.items():
        given = Attributes(scale=0.7, softcap=2.0, qk_matmul_output_mode=mode)
        result = attention(given, QUERY, KEY, VALUE, attn_mask=bias).qk_matmul_output
        assert_close(result, expected, 64 * EPS * expected.abs().max().item())
