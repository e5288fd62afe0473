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
    "POINTS": _numbers(K_LEN, 3, seed=5),
    "GRID": torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2], [-3, 40], [7, -9]]),
    "WEIGHTS": _numbers(3, seed=6),
    "SINGLES": _numbers(K_LEN, seed=7).float(),
    "HALVES": _numbers(K_LEN, seed=8).half(),
    "BRAINS": _numbers(HEADS, K_LEN, seed=9).bfloat16(),
    "BYTES": torch.tensor([0, 1, 2, 3, 100, 127, 128, 200, 254, 255, 7], dtype=torch.uint8),
    "SHORTS": torch.tensor([-32768, 32767, 0, -1, 1, 12, -300], dtype=torch.int16),
    "TINY": torch.tensor([-128, 127, 0, 5, -1, 1, 2, 3, 4, -7, 9], dtype=torch.int8),
    "LARGE": torch.tensor([1 << 40, -(1 << 62), 3, 1 << 33, -1, 0, (1 << 63) - 1]),
}


def beside(value: Any) -> Any:
    """A number as it broadcasts against a row, which is a tensor's last dimension."""
    return value[..., None] if isinstance(value, Tensor) else value


NAMESPACE = {"torch": torch, "inf": torch.inf, "beside": beside, **CAPTURED}


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
    atoms += [
        "TABLE[b + 1, h]",
        "FAR[q]",
        "POINTS[q, 0]",
        "POINTS[k][..., -1]",
        "SINGLES[k].double()",
        "HALVES[q].double()",
    ]
    atoms += ["BRAINS[h, k].double()"]
    atoms += ["score"] * (5 * score)
    if depth == 0:
        return st.sampled_from(atoms)
    x, i, c = _floats(depth - 1, score), _ints(depth - 1, score), _bools(depth - 1, score)
    either = x | i
    row = _rows(depth - 1, score)
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
        _form("torch.{}({})", st.sampled_from(FLOAT_FUNCTIONS), either),
        _form("torch.{}({})", st.sampled_from(("frac", "sinc", "nan_to_num", "special.ndtr", "special.logit")), x),
        _form("torch.nn.functional.{}({})", st.sampled_from(ACTIVATIONS), x),
        _form("torch.nn.functional.gelu({}, approximate='tanh')", x),
        _form("torch.nn.functional.{}({}, {})", st.sampled_from(("leaky_relu", "softplus", "elu", "celu")), x, _slopes),
        _form("torch.{}({}, {})", st.sampled_from(("atan2", "fmod", "hypot", "logaddexp", "copysign", "fmin")), x, x),
        _form("torch.{}({}, {}, {})", st.sampled_from(("lerp", "addcmul")), x, x, x),
        _form("torch.pow({}, {})", x, either),
        _form("torch.pow(abs({}), {})", x, x),
        _form("({}).{}(dim=-1)", row, st.sampled_from(("sum", "mean", "amax", "amin", "prod", "norm", "std"))),
        _form("({})[..., {}]", row, st.sampled_from(("0", "1", "-1"))),
        _form("torch.linalg.vecdot({}, {})", row, row),
        _form("torch.linalg.norm(({}) - ({}), dim=-1)", row, row),
    )


FLOAT_FUNCTIONS = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")
FLOAT_FUNCTIONS += ("erf", "erfc", "expm1", "log1p", "log10", "rsqrt", "reciprocal", "square")
ACTIVATIONS = ("silu", "gelu", "softplus", "logsigmoid", "mish", "hardtanh", "relu6", "hardsigmoid", "hardswish")
ACTIVATIONS += ("selu", "softsign", "tanhshrink", "hardshrink", "softshrink", "elu", "celu", "leaky_relu")
_slopes = st.sampled_from(("0.5", "1.25", "3"))


@cache
def _rows(depth: int, score: bool) -> st.SearchStrategy[str]:
    """Of three floats. On tensors the last dimension is the row's, on symbols it is all there is."""
    atoms = ("POINTS[q]", "POINTS[k]", "WEIGHTS", "(POINTS[q] - POINTS[k])", "(POINTS[k] * WEIGHTS)", "-POINTS[q]")
    if depth == 0:
        return st.sampled_from(atoms)
    x, row = _floats(depth - 1, score), _rows(depth - 1, score)
    return st.one_of(
        st.sampled_from(atoms[:2] + atoms[3:]),
        _form("({}) {} ({})", st.sampled_from(("POINTS[q]", "POINTS[k]")), st.sampled_from(("+", "-", "*")), row),
        _form("({}) {} beside({})", row, st.sampled_from(("+", "-", "*", "/")), x),
        _form("torch.{}({})", st.sampled_from(("exp", "sin", "abs", "square", "tanh")), row),
        _form("({}).clamp(-1, 1)", row),
    )


@cache
def _ints(depth: int, score: bool) -> st.SearchStrategy[str]:
    atoms = ["b", "h", "q", "k", "q - k", "IDS[k]", "IDS[q]", "OFFSETS[b, q % 5].long()", "WIDTH", "BYTES[k].long()"]
    atoms += ["SHORTS[q].long()", "TINY[k].long()", "LARGE[q]", "GRID[k, 0]", "GRID[q][..., 1]"]
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
        _form("OFFSETS[({}) % 2, IDS[({}) % 9]].long()", i, i),
        _form("torch.sign({})", i),
        _form(
            "({}) {} {}",
            i,
            st.sampled_from(("<<", ">>")),
            st.sampled_from(("0", "1", "5", "31", "33", "63", "64", "-1")),
        ),
        _form("({}) {} ({})", i, st.sampled_from(("<<", ">>")), i),
        _form("{} {} ({})", n, st.sampled_from(("<<", ">>")), i),
        _form("torch.fmod({}, abs({}) + 1)", i, i),
        _form("({}) ** (abs({}) % 9)", i, i),
        _form("3 ** (({}) % 7)", i),
        _form(
            "({}).{}(-1)",
            st.sampled_from(("GRID[q]", "GRID[k]", "(GRID[q] - GRID[k])")),
            st.sampled_from(("sum", "amax")),
        ),
        _form("(beside({}) == GRID[{}]).sum(-1)", i, st.sampled_from(("q", "k"))),
        _form("torch.bucketize({}, WEIGHTS.sort().values)", _floats(0, score)),
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
        _form("torch.{}({})", st.sampled_from(("isfinite", "isnan", "isinf", "signbit")), x),
        _form("(beside({}) == GRID[{}]).{}(-1)", i, st.sampled_from(("q", "k")), st.sampled_from(("any", "all"))),
        _form("({}).gt(beside({})).any(-1)", _rows(depth - 1, score), x),
        _form("torch.isin({}, GRID[3])", i),
        _form("({}).new_ones((), dtype=torch.bool)", i),
    )


def _form(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda drawn: template.format(*drawn))


_of_kind = {"float": _floats, "int": _ints, "bool": _bools}
