"""Bad input raises ValueError or TypeError with one message: the argument, the rule, what was given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import masks, readouts, scores
from tests.cases import normal

Q, K, V = normal(2, 8, 5, 64).float(), normal(2, 8, 7, 64, seed=1).float(), normal(2, 8, 7, 64, seed=2).float()


def shape(*sizes: int) -> Tensor:
    return torch.zeros(sizes)


def with_score_mod(function: Any) -> Callable[[], Any]:
    return lambda: pellucid.attention(Q, K, V, score_mod=function)


def with_mask_mod(function: Any) -> Callable[[], Any]:
    return lambda: pellucid.attention(Q, K, V, mask_mod=function)


def observing(*asked: Any) -> Callable[[], Any]:
    return lambda: pellucid.observe(Q, K, V, readouts=list(asked))


def branching(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    if q_idx >= kv_idx:
        return True
    return kv_idx == 0


def both(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx and kv_idx > 0


def chained(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return 0 <= q_idx - kv_idx <= 3


def clipped(s: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return min(s, 3.0)


# Name: the call, and what its message must hold: the argument, and what was given where that has a shape or a name.
BAD: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    # ranks and shapes
    "query of 1 dimension": (lambda: pellucid.attention(shape(64), K, V), ("query", "[64]")),
    "key of 1 dimension": (lambda: pellucid.attention(Q, shape(64), V), ("key", "[64]")),
    "value of 0 dimensions": (lambda: pellucid.attention(Q, K, shape()), ("value", "[]")),
    "head_dim": (lambda: pellucid.attention(Q, shape(2, 8, 7, 32), V), ("key", "[2, 8, 5, 64]", "[2, 8, 7, 32]")),
    "value's length": (
        lambda: pellucid.attention(Q, K, shape(2, 8, 9, 64)),
        ("value", "[2, 8, 7, 64]", "[2, 8, 9, 64]"),
    ),
    "batches": (lambda: pellucid.attention(Q, shape(3, 8, 7, 64), shape(3, 8, 7, 64)), ("batch", "[3, 8, 7, 64]")),
    "heads": (lambda: pellucid.attention(Q, K[:, :3], V[:, :3]), ("heads", "[2, 3, 7, 64]", "enable_gqa")),
    "groups of key": (
        lambda: pellucid.attention(Q, K[:, :3], V[:, :3], enable_gqa=True),
        ("key", "3", "8", "divide", "[2, 3, 7, 64]"),
    ),
    "groups of value": (
        lambda: pellucid.attention(Q, K[:, :2], V[:, :5], enable_gqa=True),
        ("value", "5", "8", "divide", "[2, 5, 7, 64]"),
    ),
    "groups of 2-D": (
        lambda: pellucid.attention(Q[0, 0], K[0, 0], V[0, 0], enable_gqa=True),
        ("enable_gqa", "[5, 64]"),
    ),
    # types
    "query a list": (lambda: pellucid.attention([[1.0]], K, V), ("query", "list")),  # type: ignore[arg-type]
    "key an array": (lambda: pellucid.attention(Q, K.numpy(), V), ("key", "ndarray")),  # type: ignore[arg-type]
    "value None": (lambda: pellucid.attention(Q, K, None), ("value", "NoneType")),  # type: ignore[arg-type]
    "integers": (lambda: pellucid.attention(Q.long(), K.long(), V.long()), ("query", "int64", "float32")),
    "bools": (lambda: pellucid.attention(Q > 0, K > 0, V > 0), ("query", "bool")),
    "complex": (lambda: pellucid.attention(Q.cfloat(), K.cfloat(), V.cfloat()), ("query", "complex64")),
    "key's dtype": (lambda: pellucid.attention(Q, K.double(), V), ("key", "float32", "float64")),
    "value's dtype": (lambda: pellucid.attention(Q, K, V.half()), ("value", "float32", "float16")),
    "key's device": (lambda: pellucid.attention(Q, K.to("meta"), V), ("key", "cpu", "meta")),
    # attn_mask
    "mask's shape": (
        lambda: pellucid.attention(Q, K, V, shape(5, 8)),
        ("attn_mask", "broadcast", "[2, 8, 5, 7]", "[5, 8]"),
    ),
    "mask's rank": (lambda: pellucid.attention(Q, K, V, shape(1, 2, 8, 5, 7)), ("attn_mask", "[1, 2, 8, 5, 7]")),
    "mask of integers": (lambda: pellucid.attention(Q, K, V, shape(5, 7).long()), ("attn_mask", "bool", "int64")),
    "mask a list": (lambda: pellucid.attention(Q, K, V, [[True]]), ("attn_mask", "list")),  # type: ignore[arg-type]
    "mask's device": (lambda: pellucid.attention(Q, K, V, shape(5, 7).to("meta")), ("attn_mask", "meta", "[5, 7]")),
    "mask sparse": (lambda: pellucid.attention(Q, K, V, shape(5, 7).to_sparse()), ("attn_mask", "dense", "sparse")),
    # numbers and flags
    "dropout_p negative": (lambda: pellucid.attention(Q, K, V, dropout_p=-0.1), ("dropout_p", "-0.1")),
    "dropout_p beyond 1": (lambda: pellucid.attention(Q, K, V, dropout_p=1.5), ("dropout_p", "1.5")),
    "dropout_p NaN": (lambda: pellucid.attention(Q, K, V, dropout_p=float("nan")), ("dropout_p", "nan")),
    "dropout_p None": (lambda: pellucid.attention(Q, K, V, dropout_p=None), ("dropout_p", "None")),  # type: ignore[arg-type]
    "dropout_p a string": (lambda: pellucid.attention(Q, K, V, dropout_p="a"), ("dropout_p", "str")),  # type: ignore[arg-type]
    "scale a string": (lambda: pellucid.attention(Q, K, V, scale="0.5"), ("scale", "str")),  # type: ignore[arg-type]
    "scale a list": (lambda: pellucid.attention(Q, K, V, scale=[0.5]), ("scale", "list")),  # type: ignore[arg-type]
    "is_causal an int": (lambda: pellucid.attention(Q, K, V, is_causal=1), ("is_causal", "bool", "int")),
    "is_causal None": (lambda: pellucid.attention(Q, K, V, is_causal=None), ("is_causal", "NoneType")),  # type: ignore[arg-type]
    "enable_gqa an int": (lambda: pellucid.attention(Q, K, V, enable_gqa=1), ("enable_gqa", "bool", "int")),
    # sinks
    "sinks' shape": (lambda: pellucid.attention(Q, K, V, sinks=shape(3)), ("sinks", "[8]", "[3]")),
    "sinks' rank": (lambda: pellucid.attention(Q, K, V, sinks=shape(8, 1)), ("sinks", "[8]", "[8, 1]")),
    "sinks of integers": (lambda: pellucid.attention(Q, K, V, sinks=shape(8).long()), ("sinks", "int64")),
    "sinks a number": (lambda: pellucid.attention(Q, K, V, sinks=0.5), ("sinks", "float")),  # type: ignore[arg-type]
    "sinks' device": (lambda: pellucid.attention(Q, K, V, sinks=shape(8).to("meta")), ("sinks", "meta")),
    # functions
    "mask_mod branches": (with_mask_mod(branching), ("mask_mod", "branching", "branches", "torch.where")),
    "mask_mod says and": (with_mask_mod(both), ("mask_mod", "both", "branches", "&")),
    "mask_mod chains comparisons": (with_mask_mod(chained), ("mask_mod", "chained", "branches", "&")),
    "score_mod takes min()": (with_score_mod(clipped), ("score_mod", "clipped", "branches", "torch.minimum")),
    "score_mod converts": (with_score_mod(lambda s, b, h, q, k: s * int(h)), ("score_mod", "number")),
    "unknown torch function": (with_score_mod(lambda s, b, h, q, k: torch.lgamma(s)), ("score_mod", "lgamma")),
    "unknown method": (with_score_mod(lambda s, b, h, q, k: s.lgamma()), ("score_mod", "lgamma")),
    "cumulative sum of a score": (with_score_mod(lambda s, b, h, q, k: s.cumsum(0)), ("score_mod", "cumsum")),
    "softmax of a score": (with_score_mod(lambda s, b, h, q, k: torch.softmax(s, -1)), ("score_mod", "softmax")),
    "numpy": (with_score_mod(lambda s, b, h, q, k: np.where(q >= k, s, 0.0)), ("score_mod",)),
    "a list is indexed": (with_score_mod(lambda s, b, h, q, k: s + [0.1, 0.2][h]), ("score_mod", "torch tensor")),
    "a tensor used whole": (with_score_mod(lambda s, b, h, q, k: s + shape(8)), ("score_mod", "[8]", "reduce")),
    "too few indices": (with_score_mod(lambda s, b, h, q, k: s + shape(8, 5)[h]), ("score_mod", "[5]", "reduce")),
    "too many indices": (with_score_mod(lambda s, b, h, q, k: s + shape(8)[h, q]), ("score_mod", "[8]")),
    "indexed by a float": (with_score_mod(lambda s, b, h, q, k: s + shape(8)[s]), ("score_mod", "float")),
    "an index is indexed": (with_score_mod(lambda s, b, h, q, k: s + q[0]), ("score_mod", "indexed")),
    "score_mod of 4 parameters": (with_score_mod(lambda b, h, q, k: 0.0), ("score_mod", "5", "(b, h, q, k)")),
    "mask_mod of 5 parameters": (with_mask_mod(lambda s, b, h, q, k: q >= k), ("mask_mod", "4", "(s, b, h, q, k)")),
    "score_mod no function": (with_score_mod(1.0), ("score_mod", "float")),
    "mask_mod a tensor": (with_mask_mod(shape(5, 7) > 0), ("mask_mod", "Tensor")),
    "score_mod gives nothing": (with_score_mod(lambda s, b, h, q, k: None), ("score_mod", "NoneType")),
    "score_mod gives two": (with_score_mod(lambda s, b, h, q, k: (s, s)), ("score_mod", "tuple")),
    "score_mod gives a bool": (with_score_mod(lambda s, b, h, q, k: q >= k), ("score_mod", "bool", "mask_mod")),
    "mask_mod gives a number": (with_mask_mod(lambda b, h, q, k: q - k), ("mask_mod", "bool", "int")),
    "a captured tensor's device": (
        with_score_mod(lambda s, b, h, q, k: s + torch.zeros(8, device="meta")[h]),
        ("captured", "[8]", "meta"),
    ),
    "a captured tensor sparse": (
        with_score_mod(lambda s, b, h, q, k: s + shape(5, 7).to_sparse()[q, k]),
        ("captured", "dense", "sparse"),
    ),
    # readouts
    "keys sparse": (observing(readouts.At(shape(5, 2).long().to_sparse())), ("captured", "dense", "sparse")),
    "k beyond the keys": (observing(readouts.TopK(8)), ("TopK", "8", "7")),
    "k of zero": (lambda: readouts.TopK(0), ("k", "0")),
    "k a float": (lambda: readouts.TopK(2.5), ("k", "2.5")),  # type: ignore[arg-type]
    "a readout's class": (observing(readouts.Entropy), ("readouts", "Entropy")),
    "a readout's name": (observing("entropy"), ("readouts", "'entropy'")),
    "readouts a string": (lambda: pellucid.observe(Q, K, V, readouts="entropy"), ("readouts", "entropy")),  # type: ignore[arg-type]
    "one readout, no list": (lambda: pellucid.observe(Q, K, V, readouts=readouts.Entropy()), ("readouts", "list")),  # type: ignore[arg-type]
    "two of one name": (observing(readouts.Entropy(), readouts.Entropy(sink=False)), ("readouts", "entropy")),
    "an Expect called lse": (
        observing(readouts.Expect(lambda b, h, q, k: k, "lse"), readouts.LogSumExp()),
        ("readouts", "lse"),
    ),
    "Expect branches": (lambda: readouts.Expect(branching, "mine"), ("Expect", "branches")),
    "Expect of 5 parameters": (lambda: readouts.Expect(lambda s, b, h, q, k: k, "mine"), ("Expect", "4")),
    "Expect without a name": (lambda: readouts.Expect(lambda b, h, q, k: k, ""), ("name", "''")),
    "Pooled of no bins": (lambda: readouts.Pooled(0, 3), ("queries", "0")),
    "Pooled of half a bin": (lambda: readouts.Pooled(3, 0.5), ("keys", "0.5")),  # type: ignore[arg-type]
    "Received from a number": (lambda: readouts.Received(3), ("queries", "slice", "int")),  # type: ignore[arg-type]
    "Received from no numbers": (lambda: readouts.Received(slice("a")), ("queries", "slice", "'a'")),
    # named functions
    "a negative window": (lambda: masks.sliding_window(-1), ("left", "-1")),
    "a negative window to the right": (lambda: masks.sliding_window(0, -2), ("right", "-2")),
    "documents of floats": (lambda: masks.documents(shape(5)), ("ids", "float32", "[5]")),
    "documents of 3 dimensions": (lambda: masks.documents(shape(5, 2, 1).long()), ("ids", "[5, 2, 1]")),
    "key documents of floats": (lambda: masks.documents(shape(5).long(), shape(7)), ("key_ids", "float32")),
    "key_lengths a list": (lambda: masks.key_lengths([1, 2]), ("lengths", "list")),  # type: ignore[arg-type]
    "prefix of floats": (lambda: masks.prefix(shape(2)), ("length", "float32")),
    "an even neighbourhood": (lambda: masks.neighborhood_2d(4, 5, 2), ("kernel", "2")),
    "a neighbourhood too large": (lambda: masks.neighborhood_2d(4, 5, 5), ("kernel", "4", "5")),
    "slopes of 2 dimensions": (lambda: scores.alibi(shape(2, 2)), ("slopes", "[2, 2]")),
    "slopes a list": (lambda: scores.alibi([0.5]), ("slopes", "list")),  # type: ignore[arg-type]
    "softcap of zero": (lambda: scores.softcap(0.0), ("cap", "0.0")),
    "a table of 1 dimension": (lambda: scores.relative_bias(shape(32)), ("table", "[32]")),
    "a table of integers": (lambda: scores.relative_bias(shape(32, 8).long()), ("table", "int64")),
    # engines
    "an unknown engine": (lambda: pellucid.engines.using("fast").__enter__(), ("fast", "portable", "reference")),
}


@pytest.mark.parametrize("name", BAD)
def test_the_message_names_the_argument_and_what_was_given(name: str) -> None:
    call, fragments = BAD[name]
    with pytest.raises((ValueError, TypeError)) as raised:
        call()
    message = str(raised.value)
    assert message.count("\n") == 0
    for fragment in fragments:
        assert fragment in message, message


@pytest.mark.parametrize("name", BAD)
def test_the_message_is_readable(name: str) -> None:
    """It does not show how the package is built inside."""
    call, _ = BAD[name]
    with pytest.raises((ValueError, TypeError)) as raised:
        call()
    message = str(raised.value)
    assert 10 < len(message) < 600
    assert not re.search(r"Symbol|_Row|_Unsupported|Expression\(|object at 0x", message), message
    assert raised.value.__cause__ is None


def test_an_error_inside_a_function_is_the_user_s_own() -> None:
    def broken(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        pellucid.attention(Q, K, V, score_mod=broken)


@pytest.mark.parametrize(
    ("selection", "fragments"),
    [
        ({"queries": 5}, ("queries", "5")),
        ({"queries": -6}, ("queries", "-6")),
        ({"keys": 7}, ("keys", "7")),
        ({"heads": 8}, ("heads", "8")),
        ({"heads": [0, 8]}, ("heads", "[0, 8]")),
        ({"keys": "last"}, ("keys", "last")),
    ],
)
def test_weights_beyond_the_matrix(selection: dict[str, Any], fragments: tuple[str, ...]) -> None:
    _, seen = pellucid.observe(Q, K, V)
    with pytest.raises(IndexError) as raised:
        seen.weights(**selection)
    for fragment in fragments:
        assert fragment in str(raised.value)


@pytest.mark.parametrize("engine", ["reference", "portable"])
@pytest.mark.parametrize(
    "score_mod",
    [
        lambda s, b, h, q, k: s + torch.zeros(4)[k],
        lambda s, b, h, q, k: s + torch.zeros(3)[h],
        lambda s, b, h, q, k: s + torch.zeros(8, 5)[h, q + k],
    ],
    ids=["fewer keys", "fewer heads", "beyond the end"],
)
def test_a_captured_tensor_too_small_is_no_silent_read(score_mod: Any, engine: str) -> None:
    with pellucid.engines.using(engine), pytest.raises((IndexError, ValueError)):
        pellucid.attention(Q, K, V, score_mod=score_mod)


def test_the_environment_names_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_ENGINE", "quick")
    with pytest.raises(ValueError, match=r"PELLUCID_ENGINE.*quick.*portable.*reference"):
        pellucid.attention(Q, K, V)
    monkeypatch.setenv("PELLUCID_ENGINE", "reference")
    pellucid.attention(Q, K, V)
