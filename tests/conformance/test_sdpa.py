"""attention against torch.nn.functional.scaled_dot_product_attention: agrees where it answers, raises where it raises.

Where torch's two CPU paths disagree with one another ours is written down here: attn_mask with is_causal composes
(torch's dense path raises), a value shorter or longer than the keys is an error (torch's fused path reads it anyway),
tensors with no element are checked and broadcast like others (torch returns query's own shape before it looks), and a
mask of 0 or 1 dimensions broadcasts or is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

import pellucid
from tests.cases import (
    DTYPES,
    ENGINES,
    LENGTHS,
    Call,
    assert_close,
    calls,
    dense,
    error,
    examples,
    normal,
    running,
    tolerance,
)

RAISED = (ValueError, TypeError, RuntimeError)
TORCH_RAISED = (*RAISED, IndexError)


def torch_answer(call: Call) -> Tensor:
    """Torch's output; the causal mask is folded into attn_mask, since only torch's fused path takes both."""
    if call.attn_mask is None or not call.is_causal:
        return call.by(sdpa)
    mask = call.attn_mask
    causal = torch.ones(call.query.shape[-2], call.key.shape[-2], dtype=torch.bool).tril()
    composed = mask & causal if mask.dtype == torch.bool else torch.where(causal, mask, -torch.inf)
    return replace(call, attn_mask=composed, is_causal=False).by(sdpa)


@pytest.mark.sampled
@pytest.mark.parametrize(("engine", "count"), [("reference", 150), ("portable", 250), ("tiles", 100), ("cpu", 60)])
def test_random_calls_agree(engine: str, count: int) -> None:
    @examples(count)
    @given(call=calls())
    def agree(call: Call) -> None:
        exact, peer = dense(call), torch_answer(call)
        with running(engine, tile=(33, 31)):
            output = call.by(pellucid.attention)
        assert output.dtype == peer.dtype
        assert_close(output, exact.output, tolerance(peer.dtype, exact, peer))
        assert output.shape == peer.shape or 0 in exact.scores.shape

    agree()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("length", LENGTHS[1:])
@pytest.mark.parametrize("causal", [False, True])
def test_float32_is_within_two_millionths_of_the_outputs_scale(engine: str, length: int, causal: bool) -> None:
    query, key, value = (normal(2, 3, length, 64, seed=seed).float() for seed in range(3))
    exact = dense(Call(query, key, value, is_causal=causal)).output
    with running(engine, tile=(33, 31)):
        output = pellucid.attention(query, key, value, is_causal=causal)
    assert error(output, exact) <= 2e-6 * exact.abs().max()


def shape(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(*sizes, dtype=dtype, seed=sum(sizes))


Q, K, V = shape(2, 3, 5, 4), shape(2, 3, 7, 4), shape(2, 3, 7, 6)
G = shape(2, 6, 5, 4)  # twice K's heads
BOOLS = torch.arange(35).reshape(5, 7) % 3 > 0

ACCEPTED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "2-D": ((Q[0, 0], K[0, 0], V[0, 0]), {}),
    "3-D": ((Q[0], K[0], V[0]), {}),
    "5-D": ((Q[None], K[None], V[None]), {}),
    "6-D": ((Q[None, None], K[None, None], V[None, None]), {}),
    "query 2-D, key and value 3-D": ((Q[0, 0], K[0], V[0]), {}),
    "query 4-D, key and value 2-D": ((Q, K[0, 0], V[0, 0]), {}),
    "query 3-D, key 4-D, value 2-D": ((Q[0], K, V[0, 0]), {}),
    "value alone has batches": ((Q[:1], K[:1], V), {}),
    "key alone broadcasts": ((Q, K[:1], V), {}),
    "query has one head": ((Q[:, :1], K, V), {}),
    "key and value have one head": ((Q, K[:, :1], V[:, :1]), {}),
    "value alone has one head": ((Q, K, V[:, :1]), {}),
    "batches broadcast crosswise": ((Q[:, None], K[None], V), {}),
    "value_dim 1": ((Q, K, V[..., :1]), {}),
    "value_dim 0": ((Q, K, V[..., :0]), {}),
    "head_dim 0": ((Q[..., :0], K[..., :0], V), {}),
    "no queries": ((Q[..., :0, :], K, V), {}),
    "no keys": ((Q, K[..., :0, :], V[..., :0, :]), {}),
    "no keys, causal": ((Q, K[..., :0, :], V[..., :0, :]), {"is_causal": True}),
    "no keys, 2-D": ((Q[0, 0], K[0, 0, :0], V[0, 0, :0]), {}),
    "no batches": ((Q[:0], K[:0], V[:0]), {}),
    "no heads": ((Q[:, :0], K[:, :0], V[:, :0]), {}),
    "no batches in query, one in key": ((Q[:0], K[:1], V[:1]), {}),
    "causal, fewer queries than keys": ((Q, K, V), {"is_causal": True}),
    "causal, more queries than keys": ((K, Q, shape(2, 3, 5, 3)), {"is_causal": True}),
    "causal, one query": ((Q[..., :1, :], K, V), {"is_causal": True}),
    "groups": ((G, K, V), {"enable_gqa": True}),
    "groups, 3-D": ((G[0], K[0], V[0]), {"enable_gqa": True}),
    "groups, 5-D": ((G[None], K[None], V[None]), {"enable_gqa": True}),
    "groups, one key head": ((G, K[:, :1], V[:, :1]), {"enable_gqa": True}),
    "groups, key and value differ": ((G, K[:, :2], V), {"enable_gqa": True}),
    "groups, key has one head and value three": ((G, K[:, :1], V), {"enable_gqa": True}),
    "groups, batches broadcast": ((G, K[:1], V[:1]), {"enable_gqa": True}),
    "groups, query's batch broadcasts": ((G[:1], K, V), {"enable_gqa": True}),
    "groups, mixed ranks": ((G, K[0], V[0]), {"enable_gqa": True}),
    "groups, query 3-D": ((G[0], K, V), {"enable_gqa": True}),
    "groups of one": ((Q, K, V), {"enable_gqa": True}),
    "mask [q, k]": ((Q, K, V), {"attn_mask": shape(5, 7)}),
    "mask [1, k]": ((Q, K, V), {"attn_mask": shape(1, 7)}),
    "mask [q, 1]": ((Q, K, V), {"attn_mask": BOOLS[:, :1]}),
    "mask [1, 1]": ((Q, K, V), {"attn_mask": shape(1, 1)}),
    "mask [heads, q, k]": ((Q, K, V), {"attn_mask": shape(3, 5, 7)}),
    "mask [heads, 1, k]": ((Q, K, V), {"attn_mask": shape(3, 1, 7)}),
    "mask [batch, 1, 1, k]": ((Q, K, V), {"attn_mask": BOOLS[:2, None, None]}),
    "mask [batch, heads, q, k]": ((Q, K, V), {"attn_mask": shape(2, 3, 5, 7)}),
    "mask [1, heads, q, 1]": ((Q, K, V), {"attn_mask": shape(1, 3, 5, 1)}),
    "mask bool": ((Q, K, V), {"attn_mask": BOOLS}),
    "mask [q, k] for 2-D": ((Q[0, 0], K[0, 0], V[0, 0]), {"attn_mask": shape(5, 7)}),
    "mask [heads, q, k] for 3-D": ((Q[0], K[0], V[0]), {"attn_mask": shape(3, 5, 7)}),
    "mask of 4 dimensions for 5-D": ((Q[None], K[None], V[None]), {"attn_mask": shape(2, 3, 5, 7)}),
    "mask of 5 dimensions for 5-D": ((Q[None], K[None], V[None]), {"attn_mask": shape(1, 2, 3, 5, 7)}),
    **{
        f"mask {list(sizes)} for batches [3, 2]": (
            (shape(3, 2, 3, 5, 4), shape(3, 2, 3, 7, 4), V),
            {"attn_mask": shape(*sizes)},
        )
        for sizes in ((3, 2, 3, 5, 7), (3, 2, 1, 1, 7), (3, 1, 1, 5, 1), (2, 1, 1, 7), (2, 3, 5, 7))
    },
    "mask batch from key alone": ((Q[:1], K, V), {"attn_mask": shape(2, 3, 5, 7)}),
    "mask with groups": ((G, K, V), {"attn_mask": shape(2, 6, 5, 7), "enable_gqa": True}),
    "mask with no keys": ((Q, K[..., :0, :], V[..., :0, :]), {"attn_mask": shape(5, 0)}),
    "mask with no queries": ((Q[..., :0, :], K, V), {"attn_mask": shape(0, 7)}),
    "mask float32, query float64": ((Q.double(), K.double(), V.double()), {"attn_mask": shape(5, 7)}),
    "mask float32, query float16": ((Q.half(), K.half(), V.half()), {"attn_mask": shape(5, 7)}),
    "mask float32, query bfloat16": ((Q.bfloat16(), K.bfloat16(), V.bfloat16()), {"attn_mask": shape(5, 7)}),
    "mask float16, query float16": ((Q.half(), K.half(), V.half()), {"attn_mask": shape(5, 7).half()}),
    "mask that requires a gradient": ((Q, K, V), {"attn_mask": shape(5, 7).requires_grad_()}),
    "mask all False": ((Q, K, V), {"attn_mask": torch.zeros(5, 7, dtype=torch.bool)}),
    "mask all -inf": ((Q, K, V), {"attn_mask": torch.full((5, 7), -torch.inf)}),
    "scale 0": ((Q, K, V), {"scale": 0.0}),
    "scale negative": ((Q, K, V), {"scale": -1.0}),
    "scale int": ((Q, K, V), {"scale": 2}),
    "scale bool": ((Q, K, V), {"scale": True}),
    "scale large": ((Q, K, V), {"scale": 1e30}),
    "scale of 0 dimensions": ((Q, K, V), {"scale": torch.tensor(0.5)}),
    "dropout_p 0": ((Q, K, V), {"dropout_p": 0}),
    "dropout_p 1": ((Q, K, V), {"dropout_p": 1.0}),
    "positional": ((Q, K, V, BOOLS, 0.0, False), {}),
}

RAISING: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "query of 0 dimensions": ((torch.tensor(1.0), K, V), {}),
    "query of 1 dimension": ((Q[0, 0, 0], K, V), {}),
    "key of 1 dimension": ((Q, K[0, 0, 0], V), {}),
    "value of 1 dimension": ((Q, K, V[0, 0, 0]), {}),
    "head_dim differs": ((Q, shape(2, 3, 7, 5), V), {}),
    "batches differ": ((Q, torch.cat([K, K[:1]]), torch.cat([V, V[:1]])), {}),
    "batch of none and of two": ((Q[:0], K, V), {}),
    "heads differ": ((G, K, V), {}),
    "no keys, some values": ((Q, K[..., :0, :], V), {}),
    "value longer, dense": ((Q[0], K[0, :, :5], V[0]), {}),
    "groups do not divide, key": ((shape(2, 4, 5, 4), K, V), {"enable_gqa": True}),
    "groups do not divide, value": ((shape(2, 4, 5, 4), K[:, :1], V), {"enable_gqa": True}),
    "groups, fewer query heads": ((Q[:, :1], K, V), {"enable_gqa": True}),
    "groups, 2-D": ((Q[0, 0], K[0, 0], V[0, 0]), {"enable_gqa": True}),
    "groups, key 2-D": ((G, K[0, 0], V[0, 0]), {"enable_gqa": True}),
    "groups, batches differ": ((G, torch.cat([K, K[:1]]), torch.cat([V, V[:1]])), {"enable_gqa": True}),
    "key of another dtype": ((Q, K.double(), V.double()), {}),
    "value of another dtype": ((Q, K, V.half()), {}),
    "int64": ((Q.long(), K.long(), V.long()), {}),
    "int32": ((Q.int(), K.int(), V.int()), {}),
    "uint8": ((Q.byte(), K.byte(), V.byte()), {}),
    "bool": ((Q > 0, K > 0, V > 0), {}),
    "complex64": ((Q.cfloat(), K.cfloat(), V.cfloat()), {}),
    "float8": (tuple(t.to(torch.float8_e4m3fn) for t in (Q, K, V)), {}),
    "other device": ((Q, K.to("meta"), V.to("meta")), {}),
    "query a list": (([[1.0]], K, V), {}),
    "query None": ((None, K, V), {}),
    "key an array": ((Q, K.numpy(), V), {}),
    "value missing": ((Q, K), {}),
    "unknown argument": ((Q, K, V), {"softcap": 1.0}),
    "mask a list": ((Q, K, V), {"attn_mask": BOOLS.tolist()}),
    "mask int64": ((Q, K, V), {"attn_mask": BOOLS.long()}),
    "mask uint8": ((Q, K, V), {"attn_mask": BOOLS.byte()}),
    "mask float64, query float32": ((Q, K, V), {"attn_mask": shape(5, 7).double()}),
    "mask float16, query float32": ((Q, K, V), {"attn_mask": shape(5, 7).half()}),
    "mask bfloat16, query float16": ((Q.half(), K.half(), V.half()), {"attn_mask": shape(5, 7).bfloat16()}),
    "mask complex": ((Q, K, V), {"attn_mask": shape(5, 7).cfloat()}),
    "mask of more keys": ((Q, K, V), {"attn_mask": shape(5, 8)}),
    "mask of fewer queries": ((Q, K, V), {"attn_mask": shape(4, 7)}),
    "mask transposed": ((Q, K, V), {"attn_mask": shape(7, 5)}),
    "mask [q]": ((Q, K, V), {"attn_mask": shape(5)}),
    "mask of other heads": ((Q, K, V), {"attn_mask": shape(2, 5, 7)}),
    "mask of other batches": ((Q, K, V), {"attn_mask": shape(3, 1, 5, 7)}),
    "mask of kv_heads": ((G, K, V), {"attn_mask": shape(2, 3, 5, 7), "enable_gqa": True}),
    "mask of more dimensions": ((Q, K, V), {"attn_mask": shape(1, 2, 3, 5, 7)}),
    "mask of 3 dimensions for 2-D": ((Q[0, 0], K[0, 0], V[0, 0]), {"attn_mask": shape(3, 5, 7)}),
    "mask enlarges the batch": ((Q[:1], K[:1], V[:1]), {"attn_mask": shape(2, 3, 5, 7)}),
    "mask enlarges query and key, value has the batch": ((Q[:1], K[:1], V), {"attn_mask": shape(2, 3, 5, 7)}),
    "mask enlarges the heads": ((Q[:, :1], K[:, :1], V[:, :1]), {"attn_mask": shape(2, 3, 5, 7)}),
    "mask enlarges the queries": ((Q[..., :1, :], K, V), {"attn_mask": shape(5, 7)}),
    "mask enlarges the keys": ((Q, K[..., :1, :], V[..., :1, :]), {"attn_mask": shape(5, 7)}),
    "dropout_p beyond 1": ((Q, K, V), {"dropout_p": 1.1}),
    "dropout_p None": ((Q, K, V), {"dropout_p": None}),
    "dropout_p a string": ((Q, K, V), {"dropout_p": "0.1"}),
    "scale a string": ((Q, K, V), {"scale": "0.5"}),
    "scale complex": ((Q, K, V), {"scale": 1j}),
    "scale of 1 dimension": ((Q, K, V), {"scale": torch.tensor([0.5])}),
    "is_causal an int": ((Q, K, V), {"is_causal": 1}),
    "is_causal None": ((Q, K, V), {"is_causal": None}),
    "is_causal a tensor": ((Q, K, V), {"is_causal": torch.tensor(True)}),
    "enable_gqa an int": ((Q, K, V), {"enable_gqa": 1}),
    "enable_gqa None": ((Q, K, V), {"enable_gqa": None}),
}


def options_of(options: dict[str, Any]) -> dict[str, Any]:
    return {name: option for name, option in options.items() if name != "dropout_p"}


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_torch_accepts(name: str, engine: str) -> None:
    arguments, options = ACCEPTED[name]
    expected = sdpa(*arguments, **options)
    with running(engine, tile=(2, 3)):
        output = pellucid.attention(*arguments, **options)
    assert output.dtype == expected.dtype
    exact = dense(Call(*arguments[:4], **options_of(options)))
    if options.get("dropout_p"):  # 1: torch drops everything, and so must we
        exact = exact._replace(output=torch.zeros_like(exact.output))
    assert expected.shape == exact.output.shape or 0 in exact.scores.shape
    assert_close(output, exact.output, tolerance(output.dtype, exact, expected))


@pytest.mark.parametrize("name", RAISING)
def test_what_torch_refuses(name: str) -> None:
    arguments, options = RAISING[name]
    with pytest.raises(TORCH_RAISED):
        sdpa(*arguments, **options)
    with pytest.raises(RAISED):
        pellucid.attention(*arguments, **options)


@pytest.mark.parametrize("name", [name for name, (_, options) in RAISING.items() if "unknown" not in name])
def test_observe_refuses_the_same(name: str) -> None:
    arguments, options = RAISING[name]
    with pytest.raises(RAISED):
        pellucid.observe(*arguments, **options)


def grow(tensor: Tensor, dimension: int) -> Tensor:
    """One more along a dimension."""
    return torch.cat([tensor, tensor.narrow(dimension, 0, 1)], dimension)


# What may be wrong with a call. Each takes a call of at least one query, key and element of a dimension.
CORRUPTIONS: dict[str, Callable[[Call], Call]] = {
    "nothing": lambda call: call,
    "key's head_dim": lambda call: replace(call, key=grow(call.key, -1)),
    "query's head_dim": lambda call: replace(call, query=grow(call.query, -1)),
    "key's length": lambda call: replace(call, key=grow(call.key, -2)),
    "query's length": lambda call: replace(call, query=grow(call.query, -2)),
    "query's first dimension": lambda call: replace(call, query=grow(call.query, 0)),
    "key's first dimension": lambda call: replace(call, key=grow(call.key, 0)),
    "value's first dimension": lambda call: replace(call, value=grow(call.value, 0)),
    "query's heads": lambda call: replace(call, query=grow(call.query, -3)) if call.query.ndim > 2 else call,
    "key's heads": lambda call: replace(call, key=grow(call.key, -3)) if call.key.ndim > 2 else call,
    "value's heads": lambda call: replace(call, value=grow(call.value, -3)) if call.value.ndim > 2 else call,
    "query's rank": lambda call: replace(call, query=call.query[0]),
    "key's rank": lambda call: replace(call, key=call.key[0]),
    "value's rank": lambda call: replace(call, value=call.value[0]),
    "key's dtype": lambda call: replace(call, key=call.key.to(torch.float32)),
    "value's dtype": lambda call: replace(call, value=call.value.to(torch.float64)),
    "integers": lambda call: replace(call, query=call.query.int(), key=call.key.int(), value=call.value.int()),
    "enable_gqa": lambda call: replace(call, enable_gqa=not call.enable_gqa),
    "mask's keys": lambda call: replace(call, attn_mask=with_mask(call, 0, 1)),
    "mask's queries": lambda call: replace(call, attn_mask=with_mask(call, 1, 0)),
    "mask's rank": lambda call: replace(call, attn_mask=with_mask(call, 0, 0)[(None,) * call.query.ndim]),
    "mask's dtype": lambda call: replace(call, attn_mask=with_mask(call, 0, 0).to(torch.bfloat16)),
    "mask's batch": lambda call: replace(call, attn_mask=with_mask(call, 0, 0).expand(4, 1, -1, -1)),
}


def with_mask(call: Call, queries: int, keys: int) -> Tensor:
    return torch.zeros(call.query.shape[-2] + queries, call.key.shape[-2] + keys, dtype=call.query.dtype)


def outcome(function: Callable[..., Tensor], call: Call, raised: tuple[type[Exception], ...]) -> Tensor | Exception:
    try:
        return call.by(function)
    except raised as exception:
        return exception


def stricter(call: Call) -> bool:
    """Where torch answers without looking, and ours may raise."""
    empty = 0 in (*call.query.shape, *call.key.shape, *call.value.shape)
    return empty or call.key.shape[-2] != call.value.shape[-2]


@examples(400)
@given(call=calls(), corruption=st.sampled_from(sorted(CORRUPTIONS)))
def test_random_calls_raise_where_torch_raises(call: Call, corruption: str) -> None:
    if 0 in (*call.query.shape, *call.key.shape):
        call = Call(Q, K, V)
    call = CORRUPTIONS[corruption](call)
    if call.attn_mask is not None:
        call = replace(call, is_causal=False)
    theirs = outcome(sdpa, call, TORCH_RAISED)
    with running("portable"):  # what raises does so before an engine is chosen
        ours = outcome(pellucid.attention, call, RAISED)
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), f"torch raises {theirs}"
    elif isinstance(ours, Exception):
        assert stricter(call), f"torch accepts, ours raises {ours}"
    elif not stricter(call):
        exact = dense(call)
        assert_close(ours, exact.output, tolerance(ours.dtype, exact, theirs))


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_attn_mask_and_is_causal_compose(rank: int, engine: str) -> None:
    call = Call(*(tensor.double()[(0,) * (4 - rank)] for tensor in (Q, K, V)), is_causal=True)
    for mask in (BOOLS, normal(5, 7, seed=3)):
        masked = replace(call, attn_mask=mask)
        exact = dense(masked)
        with running(engine, tile=(2, 3)):
            output = masked.by(pellucid.attention)
        assert_close(output, exact.output, tolerance(torch.float64, exact))


@pytest.mark.parametrize("mask", [torch.tensor(0.5), shape(7), BOOLS[0]], ids=["0-D", "1-D", "1-D bool"])
def test_a_mask_of_few_dimensions_broadcasts_or_is_refused(mask: Tensor) -> None:
    """Torch's dense path broadcasts it (here: 3-D tensors), its fused path raises IndexError (4-D)."""
    expected = sdpa(Q[0], K[0], V[0], attn_mask=mask)
    try:
        output = pellucid.attention(Q[0], K[0], V[0], attn_mask=mask)
    except ValueError as refusal:
        assert "attn_mask" in str(refusal)  # noqa: PT017 - either answer is right, and this is one of them
    else:
        assert_close(output, expected, 8 * torch.finfo(torch.float32).eps * expected.abs().max().item())


@pytest.mark.parametrize("lengths", [(7, 5), (5, 7), (1, 7), (7, 1)])
def test_a_value_of_another_length_than_the_keys_is_refused(lengths: tuple[int, int]) -> None:
    """Torch's fused path accepts it, and reads beyond the value's end."""
    with pytest.raises(ValueError, match=r"value.*length"):
        pellucid.attention(Q, shape(2, 3, lengths[0], 4), shape(2, 3, lengths[1], 4))


@pytest.mark.parametrize("p", [-0.1, float("nan"), 1.5])
def test_a_dropout_that_is_no_probability_is_refused(p: float) -> None:
    """Torch's dense path accepts a negative one and NaN."""
    with pytest.raises(ValueError, match="dropout_p"):
        pellucid.attention(Q, K, V, dropout_p=p)


def test_a_mask_on_another_device_is_refused() -> None:
    """Torch's fused path accepts it, and gives NaN."""
    with pytest.raises(RAISED, match="attn_mask"):
        pellucid.attention(Q, K, V, attn_mask=shape(5, 7).to("meta"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_ten_thousand(dtype: torch.dtype, engine: str) -> None:
    query = torch.full((1, 1, 2, 4), 100.0, dtype=dtype)
    key = torch.full((1, 1, 3, 4), 100.0, dtype=dtype) * torch.tensor([1.0, -1.0, 1.0])[:, None].to(dtype)
    value = torch.tensor([[1.0], [5.0], [3.0]], dtype=dtype).expand(1, 1, 3, 1)
    with running(engine, tile=(1, 1)):
        output, seen = pellucid.observe(query, key, value)
    assert output.flatten().tolist() == [2.0, 2.0]
    computed = torch.finfo(seen.max_scores.dtype).eps
    assert_close(seen.max_scores, torch.full((1, 1, 2), 2e4).to(seen.max_scores), 2 * computed * 2e4)
    assert_close(seen.entropy, torch.full((1, 1, 2), 2.0).log().to(seen.entropy), 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_scores_beyond_its_range(engine: str) -> None:
    query = torch.full((1, 1, 2, 4), 1000.0, dtype=torch.float16)
    value = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float16)[None, None]
    with running(engine, tile=(1, 2)):
        output = pellucid.attention(query, query[..., :1, :].expand(1, 1, 3, 4), value)
    assert output.flatten().tolist() == [3.0, 3.0]


class TestDropout:
    """Torch's random numbers are its own, so what is compared is what dropout means."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_weights_are_dropped_or_scaled_up(self, engine: str) -> None:
        query, key = normal(3, 11, 4), normal(3, 13, 4, seed=1)
        weights = dense(Call(query, key, key)).weights
        with running(engine):
            dropped = pellucid.attention(
                query, key, torch.eye(13, dtype=torch.float64).expand(3, 13, 13), dropout_p=0.25
            )
        kept = dropped > 0
        assert_close(dropped[kept], weights[kept] / 0.75, 16 * torch.finfo(torch.float64).eps)
        assert 0.65 < kept.double().mean() < 0.85  # 429 draws of 0.75: 4.8 standard deviations
        rows = kept.flatten(0, 1)
        assert len({tuple(row.tolist()) for row in rows}) > 30  # of 33, not one pattern repeated

    def test_weights_are_dropped_independently(self) -> None:
        """Of two weights near each other, in one head or in two, both are dropped or both kept half of the time."""
        x = torch.zeros(2, 3, 67, 5)
        kept = pellucid.attention(x, x, torch.eye(67).expand(2, 3, 67, 67), dropout_p=0.5) > 0
        for rows in (-2, -1, 0, 1, 2):
            for keys in (-2, -1, 0, 1, 2):
                for dimension in (None, 0, 1):
                    other = kept.roll((rows, keys), (-2, -1))
                    other = other if dimension is None else other.roll(1, dimension)
                    if (rows, keys, dimension) != (0, 0, None):
                        agreement = (kept == other).double().mean().item()
                        assert abs(agreement - 0.5) < 6 * 0.5 / kept.numel() ** 0.5

    def test_every_engine_drops_the_same_weights(self) -> None:
        query, key = normal(2, 11, 4), normal(2, 13, 4, seed=1)
        outputs = []
        for engine in ENGINES:
            torch.manual_seed(7)
            with running(engine):
                outputs.append(pellucid.attention(query, key, key, dropout_p=0.5))
        for output in outputs[1:]:
            assert_close(output, outputs[0], 16 * torch.finfo(torch.float64).eps * outputs[0].abs().max().item())

    def test_calls_differ_and_a_seed_repeats_them(self) -> None:
        x = normal(1, 17, 4)
        torch.manual_seed(1)
        first, second = (pellucid.attention(x, x, x, dropout_p=0.5) for _ in range(2))
        torch.manual_seed(1)
        again = pellucid.attention(x, x, x, dropout_p=0.5)
        assert torch.equal(first, again)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_its_mean_is_the_output_without(self, engine: str) -> None:
        query, key, value = normal(1, 3, 4), normal(1, 5, 4, seed=1), normal(1, 5, 2, seed=2)
        exact = dense(Call(query, key, value))
        with running(engine, tile=(2, 2)):
            many = torch.stack([pellucid.attention(query, key, value, dropout_p=0.5) for _ in range(400)])
        deviation = (exact.weights.square() @ value.square()).sqrt()  # of one draw: p / (1 - p) = 1
        assert ((many.mean(0) - exact.output).abs() <= 5 * deviation / 20).all()

    @pytest.mark.parametrize("engine", ENGINES)
    def test_readouts_come_before_it(self, engine: str) -> None:
        query, key = normal(1, 11, 4), normal(1, 13, 4, seed=1)
        readouts = [pellucid.Entropy(), pellucid.Received(), pellucid.TopK(3)]
        with running(engine):
            _, dropped = pellucid.observe(query, key, key, dropout_p=0.9, readouts=readouts)
            _, whole = pellucid.observe(query, key, key, readouts=readouts)
        assert torch.equal(dropped.entropy, whole.entropy)
        assert torch.equal(dropped.received, whole.received)
        assert torch.equal(dropped.topk.keys, whole.topk.keys)
        assert torch.equal(dropped.weights(), whole.weights())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mask", [None, BOOLS, shape(5, 7)], ids=["no mask", "bool mask", "float mask"])
def test_autocast_casts_what_it_casts_for_torch(mask: Tensor | None, engine: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = sdpa(Q, K, V, mask)
        with running(engine, tile=(2, 3)):
            output = pellucid.attention(Q, K, V, mask)
    exact = dense(Call(Q.bfloat16(), K.bfloat16(), V.bfloat16(), mask))
    assert output.dtype == expected.dtype == torch.bfloat16
    assert_close(output, exact.output, tolerance(torch.bfloat16, exact, expected))


def test_the_output_of_transposed_heads_is_right() -> None:
    """[batch, length, heads, dim] transposed, as models have it, needs no copy."""
    query, key, value = (normal(2, length, 3, 4, seed=length).transpose(1, 2) for length in (5, 7, 7))
    exact = dense(Call(query, key, value))
    output = pellucid.attention(query, key, value)
    assert_close(output, exact.output, tolerance(torch.float64, exact))


def test_inputs_are_left_alone() -> None:
    tensors = [Q.clone(), K.clone(), V.clone(), shape(5, 7)]
    before = [tensor.clone() for tensor in tensors]
    for engine in ENGINES:
        with running(engine, tile=(2, 3)):
            pellucid.observe(*tensors, is_causal=True)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


def test_nothing_requires_a_gradient_unless_an_input_does() -> None:
    assert not pellucid.attention(Q, K, V).requires_grad
    with torch.no_grad():
        assert not pellucid.attention(Q.clone().requires_grad_(), K, V).requires_grad
    for engine in ENGINES:
        with running(engine):
            assert pellucid.attention(Q.clone().requires_grad_(), K, V).requires_grad
