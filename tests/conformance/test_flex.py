"""Every score_mod and mask_mod against torch's own FlexAttention, run eagerly in float64, and ours inside it."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import pellucid
from pellucid import masks, scores
from tests.cases import (
    DIFFERENTIABLE,
    ENGINES,
    Call,
    assert_close,
    default_dtype,
    dense,
    largest,
    normal,
    running,
    tolerance,
)
from tests.conformance.functions import (
    BATCH,
    BUCKETS,
    COLUMNS,
    DOCUMENT,
    HEADS,
    K_LEN,
    LEARNED,
    MAX_DISTANCE,
    PREFIX,
    Q_LEN,
    ROWS,
    SLOPES,
    TABLE,
    VARIANTS,
    Functions,
    Learned,
)

DIM, VALUE_DIM = 5, 7
EPS = torch.finfo(torch.float64).eps
TILE = (6, 7)  # several tiles in each direction, none of them aligned with a document, a pixel row or a window


# What torch's own warning names for debugging: not compiled, it is then not traced by torch.compile first either.
NOT_TRACED = mock.patch.object(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, create=True)


def inputs(kv_heads: int = HEADS, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return (
        normal(BATCH, HEADS, Q_LEN, DIM, dtype=dtype, seed=1),
        normal(BATCH, kv_heads, K_LEN, DIM, dtype=dtype, seed=2),
        normal(BATCH, kv_heads, K_LEN, VALUE_DIM, dtype=dtype, seed=3),
    )


def flex(query: Tensor, key: Tensor, value: Tensor, functions: Functions) -> tuple[Tensor, Tensor]:
    """FlexAttention's output and lse, not compiled."""
    block_mask = None
    if functions.mask_mod is not None:
        block_mask = torch_flex.create_block_mask(
            functions.mask_mod, query.shape[0], query.shape[1], query.shape[2], key.shape[2], device="cpu"
        )
    double = query.dtype == torch.float64
    with warnings.catch_warnings(), default_dtype(torch.float64 if double else torch.float32), NOT_TRACED:
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        output, aux = torch_flex.flex_attention(
            query,
            key,
            value,
            score_mod=functions.score_mod,
            block_mask=block_mask,
            enable_gqa=query.shape[1] != key.shape[1],
            return_aux=torch_flex.AuxRequest(lse=True),
        )
    return output, aux.lse


@pytest.mark.sampled
@pytest.mark.parametrize("kv_heads", [HEADS, 1])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_function_means_what_it_means_to_flex(name: str, kv_heads: int) -> None:
    assert_flex_agrees(inputs(kv_heads), VARIANTS[name])


def assert_flex_agrees(tensors: tuple[Tensor, Tensor, Tensor], functions: Functions) -> None:
    grouped = tensors[0].shape[1] != tensors[1].shape[1]
    output, lse = flex(*tensors, functions)
    exact = dense(Call(*tensors, enable_gqa=grouped), **functions._asdict())
    for engine in ENGINES:
        with running(engine, TILE):
            ours, seen = pellucid.observe(*tensors, enable_gqa=grouped, **functions._asdict())
        assert_close(ours, output, 2 * tolerance(torch.float64, exact))
        assert_close(seen.lse, lse, 32 * EPS * (1 + largest(exact.scores)))


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_function_in_lower_precision(name: str, dtype: torch.dtype) -> None:
    """FlexAttention in the same precision is the peer whose error is allowed twice."""
    tensors, functions = inputs(dtype=dtype), VARIANTS[name]
    output, _ = flex(*tensors, functions)
    exact = dense(Call(*tensors), **functions._asdict())
    for engine in ENGINES:
        with running(engine, TILE):
            ours = pellucid.attention(*tensors, **functions._asdict())
        assert ours.dtype == dtype
        assert_close(ours, exact.output, tolerance(dtype, exact, output))


NAMED: dict[str, Functions] = {
    "causal": Functions(mask_mod=masks.causal()),
    "causal, offset": Functions(mask_mod=masks.causal(3)),
    "causal, a tensor's offset": Functions(mask_mod=masks.causal(torch.tensor(3))),
    "causal, negative offset": Functions(mask_mod=masks.causal(-4)),
    "causal, lower right": Functions(mask_mod=masks.causal_lower_right(Q_LEN, K_LEN + 2)),
    "window": Functions(mask_mod=masks.sliding_window(3, 2)),
    "window to the left": Functions(mask_mod=masks.sliding_window(left=3)),
    "window to the right": Functions(mask_mod=masks.sliding_window(right=2)),
    "window without limits": Functions(mask_mod=masks.sliding_window()),
    "window, offset": Functions(mask_mod=masks.sliding_window(2, 0, offset=5)),
    "prefix": Functions(mask_mod=masks.prefix(6)),
    "prefix by batch": Functions(mask_mod=masks.prefix(PREFIX)),
    "prefix-LM": Functions(mask_mod=masks.causal() | masks.prefix(PREFIX)),
    "documents": Functions(mask_mod=masks.documents(DOCUMENT)),
    "documents by batch": Functions(mask_mod=masks.documents(torch.stack([DOCUMENT, DOCUMENT.flip(0)]))),
    "documents across": Functions(mask_mod=masks.documents(DOCUMENT, DOCUMENT.flip(0))),
    "documents, causal": Functions(mask_mod=masks.documents(DOCUMENT) & masks.causal()),
    "key lengths": Functions(mask_mod=masks.key_lengths(torch.tensor([0, 13]))),
    "neighbourhood": Functions(mask_mod=masks.neighborhood_2d(ROWS, COLUMNS, 3)),
    "complement": Functions(mask_mod=~masks.causal()),
    "with a function of one's own": Functions(mask_mod=masks.causal() & (lambda b, h, q, k: k % 3 != h)),
    "a function of one's own with it": Functions(mask_mod=masks.causal().__rand__(lambda b, h, q, k: k % 3 != h)),
    "alibi": Functions(scores.alibi(SLOPES)),
    "alibi, the paper's slopes": Functions(scores.alibi(scores.alibi_slopes(HEADS).double())),
    "softcap": Functions(scores.softcap(1.5)),
    "T5": Functions(scores.relative_bias(TABLE, max_distance=MAX_DISTANCE)),
    "T5, decoder": Functions(
        scores.relative_bias(TABLE, bidirectional=False, max_distance=MAX_DISTANCE), masks.causal()
    ),
    "chain": Functions(scores.chain(scores.softcap(2.0), scores.alibi(SLOPES)), masks.sliding_window(5, 0)),
    "chain of none": Functions(scores.chain()),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", NAMED)
def test_our_named_functions_work_in_flex(name: str) -> None:
    assert_flex_agrees(inputs(), NAMED[name])


@pytest.mark.parametrize("name", NAMED)
def test_our_named_functions_have_names_and_flexs_signatures(name: str) -> None:
    for function, parameters in ((NAMED[name].score_mod, 5), (NAMED[name].mask_mod, 4)):
        if function is not None:
            assert len(inspect.signature(function).parameters) == parameters
            assert function.__name__


def matrix(mask: Callable[..., Any], q_len: int = Q_LEN, k_len: int = K_LEN, batch: int = 1) -> Tensor:
    """Where a mask allows a key, [batch, q_len, k_len], from its meaning on index tensors."""
    b = torch.arange(batch)[:, None, None]
    allowed = mask(b, torch.tensor(0), torch.arange(q_len)[:, None], torch.arange(k_len))
    return allowed.expand(batch, q_len, k_len)


def test_the_named_masks_are_what_their_names_say() -> None:
    """Each against dense torch: the peers above only show that both libraries run the same function."""
    ones = torch.ones(5, 9)
    q, k = torch.arange(5)[:, None], torch.arange(9)
    expected: dict[str, tuple[masks.Mask, Tensor]] = {
        "causal": (masks.causal(), ones.tril()),
        "causal(2)": (masks.causal(2), ones.tril(2)),
        "causal(-2)": (masks.causal(-2), ones.tril(-2)),
        "lower right": (masks.causal_lower_right(5, 9), ones.tril(4)),
        "lower right, fewer keys": (masks.causal_lower_right(5, 3), ones.tril(-2)),
        "window(3, 0)": (masks.sliding_window(3, 0), ones.tril().triu(-3)),
        "window(1, 2)": (masks.sliding_window(1, 2), ones.tril(2).triu(-1)),
        "window(1, 2, offset=3)": (masks.sliding_window(1, 2, offset=3), ones.tril(5).triu(2)),
        "window(None, 1)": (masks.sliding_window(None, 1), ones.tril(1)),
        "window(2, None)": (masks.sliding_window(2, None), ones.triu(-2)),
        "window()": (masks.sliding_window(), ones),
        "prefix(3)": (masks.prefix(3), (k < 3).expand(5, 9)),
        "prefix-LM": (masks.prefix(3) | masks.causal(), (k < 3) | (k <= q)),
        "key_lengths": (masks.key_lengths(torch.tensor([4])), (k < 4).expand(5, 9)),
        "documents": (
            masks.documents(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0, 0, 0, 1, 2, 2])),
            torch.tensor([0, 0, 1, 1, 1])[:, None] == torch.tensor([0, 1, 1, 0, 0, 0, 1, 2, 2]),
        ),
        "not": (~masks.causal(), ones.triu(1)),
        "xor": ((masks.causal() | masks.prefix(3)) & ~(masks.causal() & masks.prefix(3)), (k < 3) ^ (k <= q)),
    }
    for name, (mask, allowed) in expected.items():
        assert torch.equal(matrix(mask, 5, 9)[0], allowed.bool()), name


def test_the_neighbourhood_is_natten_s() -> None:
    """By loops: the kernel x kernel pixels nearest to each pixel, moved inwards at the border."""
    height, width, kernel = 4, 5, 3
    allowed = torch.zeros(height * width, height * width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            top = min(max(row - kernel // 2, 0), height - kernel)
            left = min(max(column - kernel // 2, 0), width - kernel)
            for r in range(top, top + kernel):
                allowed[row * width + column, [r * width + c for c in range(left, left + kernel)]] = True
    assert (allowed.sum(-1) == kernel**2).all()
    assert torch.equal(matrix(masks.neighborhood_2d(height, width, kernel))[0], allowed)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 16), (BUCKETS, 20)])
def test_relative_bias_has_t5_s_buckets(buckets: int, max_distance: int, bidirectional: bool) -> None:
    length = 150
    table = torch.arange(buckets, dtype=torch.float64)[:, None]
    q, k = torch.arange(length)[:, None], torch.arange(length)
    bias = scores.relative_bias(table, bidirectional=bidirectional, max_distance=max_distance)
    bucket = bias(torch.zeros(length, length, dtype=torch.float64), torch.tensor(0), torch.tensor(0), q, k)
    assert torch.equal(bucket.long(), t5_bucket(k - q, bidirectional, buckets, max_distance))


def t5_bucket(relative_position: Tensor, bidirectional: bool, buckets: int, max_distance: int) -> Tensor:
    """The paper's rule as transformers computes it (in float32)."""
    bucket = torch.zeros_like(relative_position)
    if bidirectional:
        buckets //= 2
        bucket += (relative_position > 0).long() * buckets
        distance = relative_position.abs()
    else:
        distance = -torch.minimum(relative_position, torch.zeros_like(relative_position))
    exact = buckets // 2
    far = exact + (torch.log(distance.float() / exact) / math.log(max_distance / exact) * (buckets - exact)).long()
    return bucket + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


def test_the_named_scores_are_what_their_names_say() -> None:
    scores_, (b, h, q, k) = (
        normal(3, 5, 7),
        (torch.tensor(0), *torch.meshgrid(*map(torch.arange, (3, 5, 7)), indexing="ij")),
    )
    assert torch.equal(scores.alibi(SLOPES)(scores_, b, h, q, k), scores_ - SLOPES[:, None, None] * (q - k).abs())
    assert torch.equal(scores.softcap(1.5)(scores_, b, h, q, k), 1.5 * torch.tanh(scores_ / 1.5))
    both = scores.chain(scores.softcap(1.5), scores.alibi(SLOPES))(scores_, b, h, q, k)
    assert torch.equal(both, 1.5 * torch.tanh(scores_ / 1.5) - SLOPES[:, None, None] * (q - k).abs())


def test_alibi_slopes_are_the_paper_s() -> None:
    """For 8 heads 1/2, 1/4, ... 1/256."""
    assert scores.alibi_slopes(8).tolist() == [0.5**i for i in range(1, 9)]


@pytest.mark.sampled
@pytest.mark.parametrize("engine", DIFFERENTIABLE)
@pytest.mark.parametrize("kv_heads", [HEADS, 1])
@pytest.mark.parametrize("name", LEARNED)
def test_gradients_of_what_is_learned(name: str, kv_heads: int, engine: str) -> None:
    """Against autograd of the dense formula: FlexAttention has no backward on the CPU."""
    learned = LEARNED[name]
    call, cotangents = Call(*inputs(kv_heads), enable_gqa=kv_heads != HEADS), cotangent(learned)
    exact = gradients(learned, call, cotangents, lambda call, score_mod: dense(call, score_mod=score_mod)[3:1:-1])
    with running(engine, TILE):
        ours = gradients(learned, call, cotangents, observed)
    for result, expected in zip(ours, exact, strict=True):
        assert_close(result, expected, 512 * EPS * (1 + largest(expected)))


def cotangent(learned: Learned) -> tuple[Tensor, Tensor]:
    return normal(BATCH, HEADS, Q_LEN, VALUE_DIM, seed=31), normal(BATCH, HEADS, Q_LEN, seed=32)


def observed(call: Call, score_mod: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    output, seen = call.by(pellucid.observe, score_mod=score_mod)
    return output, seen.lse


def gradients(
    learned: Learned,
    call: Call,
    cotangents: tuple[Tensor, Tensor],
    run: Callable[[Call, Callable[..., Any]], tuple[Tensor, Tensor]],
) -> tuple[Tensor, ...]:
    """Of query, key, value and each learned tensor."""
    leaves = [t.clone().requires_grad_() for t in (call.query, call.key, call.value, *learned.tensors)]
    fresh = Call(*leaves[:3], enable_gqa=call.enable_gqa)
    return torch.autograd.grad(run(fresh, learned.make(*leaves[3:])), leaves, cotangents)


@pytest.mark.parametrize("engine", DIFFERENTIABLE)
@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (scores.alibi, (SLOPES,)),
        (lambda table: scores.relative_bias(table, max_distance=MAX_DISTANCE), (TABLE,)),
        (lambda table: scores.chain(scores.softcap(2.0), scores.relative_bias(table, max_distance=8)), (TABLE,)),
    ],
    ids=["alibi", "T5", "softcap and T5"],
)
def test_gradients_of_our_named_scores(make: Callable[..., Any], tensors: tuple[Tensor, ...], engine: str) -> None:
    learned = Learned(tensors, make)
    call, cotangents = Call(*inputs()), cotangent(learned)
    exact = gradients(learned, call, cotangents, lambda call, score_mod: dense(call, score_mod=score_mod)[3:1:-1])
    with running(engine, TILE):
        ours = gradients(learned, call, cotangents, observed)
    for result, expected in zip(ours, exact, strict=True):
        assert_close(result, expected, 512 * EPS * (1 + largest(expected)))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_flattened_batch_is_row_major(engine: str) -> None:
    """With two batch dimensions b counts them flattened, as if the call had been made on the flattened tensors."""
    query, key, value = (normal(2, 3, HEADS, length, DIM, seed=length) for length in (5, 7, 7))
    bias = normal(6, HEADS, 5, 7, seed=9)
    flat = [tensor.flatten(0, 1) for tensor in (query, key, value)]
    expected, _ = flex(*flat, Functions(lambda s, b, h, q, k: s + bias[b, h, q, k]))
    with running(engine, (2, 3)):
        output = pellucid.attention(query, key, value, score_mod=lambda s, b, h, q, k: s + bias[b, h, q, k])
        # Only key has the first dimension: b still counts what the whole call has.
        partly = pellucid.attention(query[:1], key, value[:, :1], score_mod=lambda s, b, h, q, k: s + bias[b, h, q, k])
    exact = dense(Call(query[:1], key, value[:, :1]), score_mod=lambda s, b, h, q, k: s + bias[b, h, q, k])
    assert_close(output.flatten(0, 1), expected, 64 * EPS)
    assert_close(partly, exact.output, 64 * EPS)


@pytest.mark.parametrize("engine", ENGINES)
def test_functions_compose_with_attn_mask_and_is_causal(engine: str) -> None:
    """Scores, score_mod, then attn_mask, is_causal and mask_mod together."""
    tensors, bias = inputs(), normal(HEADS, Q_LEN, K_LEN, seed=41)
    functions = VARIANTS["softcap in documents"]
    exact = dense(Call(*tensors, attn_mask=bias, is_causal=True), **functions._asdict())
    with running(engine, TILE):
        output = pellucid.attention(*tensors, bias, 0.0, True, **functions._asdict())
    assert_close(output, exact.output, tolerance(torch.float64, exact))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_function_is_read_at_each_call(engine: str) -> None:
    """A captured tensor changed in place between two calls changes the second."""
    tensors, slopes = inputs(), SLOPES.clone()
    score_mod = scores.alibi(slopes)
    with running(engine, TILE):
        before = pellucid.attention(*tensors, score_mod=score_mod)
        slopes.mul_(0)
        after = pellucid.attention(*tensors, score_mod=score_mod)
        plain = pellucid.attention(*tensors)
    assert not torch.equal(before, after)
    assert_close(after, plain, 64 * EPS)
