"""score_mods and mask_mods that nobody would write: random expressions of the whole language, on every engine.

Each is drawn as source text, so that a failure shows the function that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from tests.cases import Call, assert_close, dense, examples, largest, normal, running
from tests.thorough import thorough

BATCH, HEADS, Q_LEN, K_LEN = 2, 2, 11, 13
TENSORS = (
    normal(BATCH, HEADS, Q_LEN, 3),
    normal(BATCH, HEADS, K_LEN, 3, seed=1),
    normal(BATCH, HEADS, K_LEN, 2, seed=2),
)
INTS = torch.tensor([3, -1, 0, 8, 2, 5, -4])
BOOLS = torch.tensor([True, False, False, True, True])
FLOATS = normal(11, seed=3)
TABLE = normal(3, 7, seed=4)
# Half of the digits: the function may magnify what rounding leaves of the others.
HALF = torch.finfo(torch.float64).eps ** 0.5


def combined(*templates: str, **parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One of the templates, its named fields filled with parts."""
    return st.sampled_from(templates).flatmap(
        lambda template: st.fixed_dictionaries(parts).map(lambda given_: template.format(**given_))
    )


NUMBER = st.sampled_from(("2", "3", "5", "-2", "-3", "7"))
POSITIVE = st.sampled_from(("2", "3", "5", "7"))


def more_ints(ints: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return combined(
        "({a} + {b})",
        "({a} - {b})",
        "({n} - {a})",
        "({a} * {n})",
        "({a} // {n})",
        "({a} % {n})",
        "({a} % {p})",
        "(-{a})",
        "({a}).abs()",
        "torch.minimum({a}, {b})",
        "torch.maximum({a}, {b})",
        "torch.clamp({a}, {n}, {p} + 7)",
        "torch.clamp({a}, max={p})",
        "torch.where({a} < {b}, {b}, {a} - {p})",
        "torch.div({a}, {p}, rounding_mode='floor')",
        "INTS[{a} % 7]",
        "(INTS[{a} % 7] * ({b} > {n}))",
        a=ints,
        b=ints,
        n=NUMBER,
        p=POSITIVE,
    )


INT = st.recursive(st.sampled_from(("q", "k", "q", "k", "b", "h")), more_ints, max_leaves=6)


def more_bools(bools: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return combined(
        "({a} & {b})",
        "({a} | {b})",
        "({a} ^ {b})",
        "(~{a})",
        "torch.logical_and({a}, {b})",
        "torch.logical_or({a}, torch.logical_not({b}))",
        "torch.where({a}, {b}, k <= q)",
        a=bools,
        b=bools,
    )


COMPARISON = combined(
    *(f"({{a}} {sign} {{b}})" for sign in ("<", "<=", ">", ">=", "==", "!=")),
    *(f"({{a}} {sign} {{n}})" for sign in ("<", "<=", ">", ">=", "==", "!=")),
    "BOOLS[{a} % 5]",
    "torch.eq({a}, {b})",
    "({a}).bool()",
    "(({a} / {n}) > 0.3)",
    a=INT,
    b=INT,
    n=NUMBER,
)
BOOL = st.recursive(COMPARISON, more_bools, max_leaves=4)


def more_floats(floats: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return combined(
        "({x} + {y})",
        "({x} - {y})",
        "({x} * {y})",
        "(0.7 - {x})",
        "({x} / {n})",
        "({x} * {i} / 5)",
        "({x} + {i})",
        "torch.abs({x})",
        "torch.tanh({x})",
        "torch.sigmoid({x})",
        "torch.exp(torch.clamp({x}, max=1.3))",
        "torch.log(torch.abs({x}) + 1.1)",
        "torch.sqrt({x} * {x} + 0.5)",
        "torch.minimum({x}, {y})",
        "torch.maximum({x}, {y})",
        "torch.clamp({x}, -0.7, 1.3)",
        "torch.where({c}, {x}, {y})",
        "({x} * {c})",
        x=floats,
        y=floats,
        n=NUMBER,
        i=INT,
        c=COMPARISON,
    )


FLOAT = st.recursive(
    st.sampled_from(("score", "score", "score"))
    | combined("FLOATS[{i} % 11]", "TABLE[{i} % 3, {j} % 7]", i=INT, j=INT),
    more_floats,
    max_leaves=5,
)


def function(parameters: str, body: str, **tensors: Tensor) -> Callable[..., Any]:
    names = {"torch": torch, "INTS": INTS, "BOOLS": BOOLS, "FLOATS": FLOATS, "TABLE": TABLE} | tensors
    return eval(f"lambda {parameters}: {body}", names)


TILINGS = pytest.mark.parametrize(
    ("engine", "tile"),
    thorough(
        [("reference", (1, 1)), ("tiles", (2, 3)), ("tiles", (4, 4)), ("tiles", (11, 1)), ("cpu", (1, 1))],
        every_day=[("tiles", (2, 3)), ("cpu", (1, 1))],
    ),
)


@pytest.mark.sampled
@TILINGS
def test_a_random_mask(engine: str, tile: tuple[int, int]) -> None:
    @examples(120, engine)
    @given(body=BOOL)
    def agree(body: str) -> None:
        mask_mod = function("b, h, q, k", body)
        exact = dense(Call(*TENSORS), mask_mod=mask_mod)
        with running(engine, tile):
            output, seen = pellucid.observe(*TENSORS, mask_mod=mask_mod)
        assert_close(output, exact.output, HALF)
        assert_close(seen.lse, exact.lse, HALF)
        assert torch.equal(seen.weights() > 0, exact.weights > 0)

    agree()


@pytest.mark.sampled
@TILINGS
def test_a_random_score(engine: str, tile: tuple[int, int]) -> None:
    @examples(120, engine)
    @given(body=FLOAT, mask=st.none() | BOOL)
    def agree(body: str, mask: str | None) -> None:
        score_mod = function("score, b, h, q, k", body)
        mask_mod = None if mask is None else function("b, h, q, k", mask)
        exact = dense(Call(*TENSORS), score_mod=score_mod, mask_mod=mask_mod)
        with running(engine, tile):
            output, seen = pellucid.observe(*TENSORS, score_mod=score_mod, mask_mod=mask_mod)
        assert_close(output, exact.output, HALF * (1 + largest(exact.scores)))
        assert_close(seen.lse, exact.lse, HALF * (1 + largest(exact.scores)))

    agree()


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ["reference", "tiles"])
def test_the_gradients_of_a_random_score(engine: str) -> None:
    cotangents = normal(BATCH, HEADS, Q_LEN, 2, seed=5), normal(BATCH, HEADS, Q_LEN, seed=6)

    @examples(120)
    @given(body=FLOAT, mask=st.none() | BOOL)
    def agree(body: str, mask: str | None) -> None:
        mask_mod = None if mask is None else function("b, h, q, k", mask)
        found = []
        for run in (dense_results, our_results):
            leaves = [tensor.clone().requires_grad_() for tensor in (*TENSORS, FLOATS, TABLE)]
            score_mod = function("score, b, h, q, k", body, FLOATS=leaves[3], TABLE=leaves[4])
            with running(engine, (3, 4)):
                output, lse = run(Call(*leaves[:3]), score_mod, mask_mod)
            lse = lse.masked_fill(lse == -torch.inf, 0.0)
            gradients = torch.autograd.grad((output, lse), leaves, cotangents, allow_unused=True)
            found.append([torch.zeros_like(t) if g is None else g for t, g in zip(leaves, gradients, strict=True)])
        for expected, result in zip(*found, strict=True):
            assert_close(result, expected, HALF * (1 + largest(expected)))

    agree()


def dense_results(call: Call, score_mod: Any, mask_mod: Any) -> tuple[Tensor, Tensor]:
    exact = dense(call, score_mod=score_mod, mask_mod=mask_mod)
    return exact.output, exact.lse


def our_results(call: Call, score_mod: Any, mask_mod: Any) -> tuple[Tensor, Tensor]:
    output, seen = pellucid.observe(call.query, call.key, call.value, score_mod=score_mod, mask_mod=mask_mod)
    return output, seen.lse
