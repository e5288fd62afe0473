"""Random functions in the score language, as source text, and the tensors that they capture.

The same text runs on plain tensors, which is what it means, and on symbols, which is what is tested. Every drawn
expression is a tensor when run on tensors; numbers stand only where torch takes a number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pellucid.language import Expression, trace

BATCH, HEADS, Q_LEN, K_LEN = 2, 3, 7, 11
NAMES = ("score", "b", "h", "q", "k")


def _numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CAPTURED: dict[str, Tensor] = {
    "SLOPES": _numbers(HEADS, seed=1),
    "BIAS": _numbers(HEADS, Q_LEN, K_LEN, seed=2),
    "TABLE": _numbers(5, HEADS, seed=3),
    "FAR": torch.tensor([0.0, -torch.inf, 2.5, torch.inf, 0.0, -1e30, 1e-30], dtype=torch.float64),
    "TEMPERATURE": torch.tensor(1.375, dtype=torch.float64),
    "WIDTH": torch.tensor(4),
    "OPEN": torch.tensor(True),
    "IDS": torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, -3, 4]),
    "OFFSETS": torch.tensor([[0, 2, 5, 1, -4], [3, 0, 1, 1, 2]], dtype=torch.int32),
    "FLAGS": torch.tensor([True, False, True, True, False, True, True]),
}
NAMESPACE = {"torch": torch, "inf": torch.inf, **CAPTURED}


def function(source: str, captured: dict[str, Tensor] | None = None) -> Callable[..., Any]:
    """The function of score, b, h, q and k that `source` is."""
    return eval(f"lambda {', '.join(NAMES)}: {source}", NAMESPACE | (captured or {}))


def traced(source: str) -> Expression:
    """The function's expression."""
    return trace(function(source), "score_mod", NAMES)


def places() -> dict[str, Tensor]:
    """Every b, h, q and k, and a score for each, shaped to broadcast."""
    return {
        "score": _numbers(BATCH, HEADS, Q_LEN, K_LEN, seed=4),
        "b": torch.arange(BATCH)[:, None, None, None],
        "h": torch.arange(HEADS)[:, None, None],
        "q": torch.arange(Q_LEN)[:, None],
        "k": torch.arange(K_LEN),
    }


def programs(kind: str | None = None, *, score: bool = True, depth: int = 4) -> st.SearchStrategy[str]:
    """Sources of one kind, or of any; without the score if asked."""
    kinds = st.sampled_from(("float", "int", "bool")) if kind is None else st.just(kind)
    return kinds.flatmap(lambda chosen: _of_kind[chosen](depth, score))


@cache
def _floats(depth: int, score: bool) -> st.SearchStrategy[str]:
    atoms = ["SLOPES[h]", "BIAS[h, q, k]", "BIAS[0][q, k]", "BIAS[h, -1, k]", "TEMPERATURE"]
    atoms += ["TABLE[b + 1, h]", "FAR[q]"] + ["score", "score", "score"] * score
    if depth == 0:
        return st.sampled_from(atoms)
    x, i, c = _floats(depth - 1, score), _ints(depth - 1, score), _bools(depth - 1, score)
    either = x | i
    n = st.sampled_from(("0.5", "3.0", "-1.25", "2", "-3", "0.0", "1.0"))
    return st.one_of(
        st.sampled_from(atoms),
        _form("({}) {} ({})", x, st.sampled_from(("+", "-", "*", "/", "//", "%")), either),
        _form("({}) {} ({})", either, st.sampled_from(("+", "-", "*", "/", "//", "%")), x),
        _form("({}) {} {}", x, st.sampled_from(("+", "-", "*", "/", "//", "%")), n),
        _form("{} {} ({})", n, st.sampled_from(("+", "-", "*", "/", "//", "%")), x),
        _form("({}) / ({})", i, i),
        _form("({}) * 0.5", i),
        _form("-({})", x),
        _form("abs({})", x),
        _form("torch.{}({})", st.sampled_from(("exp", "exp2", "log", "log2", "tanh", "sigmoid", "sqrt")), either),
        _form("torch.{}({})", st.sampled_from(("floor", "ceil", "round", "trunc", "sign", "relu")), x),
        _form("torch.{}({}, {})", st.sampled_from(("minimum", "maximum")), x, either),
        _form("torch.clamp({}, {}, 1.5)", x, st.sampled_from(("-1", "-0.25", "None"))),
        _form("({}).clamp(min=({}) - 1.0625, max=({}) + 0.8125)", x, either, x),
        _form("torch.where({}, {}, {})", c, x, either),
        _form("torch.where({}, {}, -inf)", c, x),
        _form("({}).where({}, {})", x, c, x),
        _form("({}).masked_fill({}, -2.5)", x, c),
        _form("({}) ** {}", x, st.sampled_from(("2", "3", "-1", "0", "0.5"))),
        _form("({}) ** 2.0", i),
        _form("{} ** ({})", st.sampled_from(("2", "0.5")), x),
        _form("({}).to(torch.float64)", i | c),
        _form("TABLE[({}) % 5, ({}) % 3]", i, i),
        _form("torch.full_like({}, 0.75)", x),
    )


@cache
def _ints(depth: int, score: bool) -> st.SearchStrategy[str]:
    atoms = ["b", "h", "q", "k", "q - k", "IDS[k]", "IDS[q]", "OFFSETS[b, q % 5]", "WIDTH"]
    if depth == 0:
        return st.sampled_from(atoms)
    i, c = _ints(depth - 1, score), _bools(depth - 1, score)
    n = st.sampled_from(("2", "3", "-1", "-5", "7"))
    return st.one_of(
        st.sampled_from(atoms),
        _form("({}) {} ({})", i, st.sampled_from(("+", "-", "*", "&", "|", "^")), i),
        _form("({}) {} {}", i, st.sampled_from(("+", "-", "*", "//", "%", "&", "|", "^")), n),
        _form("{} {} ({})", n, st.sampled_from(("+", "-", "*", "&", "|", "^")), i),
        _form("({}) {} (abs({}) + 1)", i, st.sampled_from(("//", "%")), i),
        _form("{} {} (-abs({}) - 1)", n, st.sampled_from(("//", "%")), i),
        _form("({}) * ({})", c, i),
        _form("2 ** (({}) % 5)", i),
        _form("({}) ** {}", i, st.sampled_from(("0", "1", "2", "3"))),
        _form("({}).abs()", i),
        _form("-({})", i),
        _form("~({})", i),
        _form("torch.{}({}, {})", st.sampled_from(("minimum", "maximum")), i, i),
        _form("torch.clamp({}, -2, 3)", i),
        _form("torch.where({}, {}, {})", c, i, i),
        _form("torch.where({}, 3, {})", c, i),
        _form("torch.div({}, {}, rounding_mode='trunc')", i, n),
        _form("torch.div({}, {}, rounding_mode='floor')", i, n),
        _form("({}).long()", c),
        _form("torch.clamp(torch.where(torch.isfinite({0}), {0}, 0.0), -40.0, 40.0).long()", _floats(0, score)),
        _form("IDS[({}) % 11]", i),
        _form("IDS[-(({}) % 11) - 1]", i),
        _form("OFFSETS[({}) % 2, IDS[({}) % 9]]", i, i),
        _form("torch.sign({})", i),
    )


@cache
def _bools(depth: int, score: bool) -> st.SearchStrategy[str]:
    atoms = ["q >= k", "IDS[q] == IDS[k]", "FLAGS[q]", "FLAGS[(q + k) % 7]", "(q - k).abs() <= WIDTH", "OPEN"]
    if depth == 0:
        return st.sampled_from(atoms)
    x, i, c = _floats(depth - 1, score), _ints(depth - 1, score), _bools(depth - 1, score)
    either = x | i
    comparison = st.sampled_from(("<", "<=", ">", ">=", "==", "!="))
    return st.one_of(
        st.sampled_from(atoms),
        _form("({}) {} ({})", either, comparison, either),
        _form("({}) {} {}", either, comparison, st.sampled_from(("0", "2", "0.5", "-1.25"))),
        _form("{} {} ({})", st.sampled_from(("0", "2", "0.5")), comparison, either),
        _form("({}) {} ({})", c, st.sampled_from(("&", "|", "^", "==", "!=", "*", "+")), c),
        _form("({}) {} ({})", st.sampled_from(("True", "False")), st.sampled_from(("&", "|", "^")), c),
        _form("~({})", c),
        _form("torch.logical_{}({}, {})", st.sampled_from(("and", "or", "xor")), c | i, c),
        _form("torch.logical_not({})", c | either),
        _form("torch.where({}, {}, {})", c, c, c),
        _form("torch.{}({}, {})", st.sampled_from(("minimum", "maximum")), c, c),
        _form("({}).bool()", either),
        _form("torch.isfinite({})", x),
        _form("({}).new_ones((), dtype=torch.bool)", i),
    )


def _form(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda drawn: template.format(*drawn))


_of_kind = {"float": _floats, "int": _ints, "bool": _bools}
