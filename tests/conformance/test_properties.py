"""What attention is, by property: these hold for any input, with no peer and no oracle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import masks, readouts
from tests.cases import ENGINES, LENGTHS, Call, assert_close, calls, examples, largest, normal, running

EPS = torch.finfo(torch.float64).eps
CLOSE = 64 * EPS

engines = pytest.mark.parametrize("engine", ENGINES)


@st.composite
def cross_attentions(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Call:
    """Query, key and value of any lengths, without a mask."""
    q_len, k_len = draw(st.sampled_from(LENGTHS[1:-1])), draw(st.sampled_from(LENGTHS[1:-1]))
    head_dim, value_dim = draw(st.sampled_from((1, 3, 8))), draw(st.sampled_from((1, 5)))
    seed = draw(st.integers(0, 2**20))
    shapes = ((2, 3, q_len, head_dim), (2, 3, k_len, head_dim), (2, 3, k_len, value_dim))
    return Call(*(normal(*shape, dtype=dtype, seed=seed + i) for i, shape in enumerate(shapes)))


@pytest.mark.sampled
@engines
def test_weights_sum_to_one(engine: str) -> None:
    @examples(40, engine)
    @given(call=cross_attentions())
    def holds(call: Call) -> None:
        with running(engine, (13, 17)):
            output = replace(call, value=torch.ones_like(call.value)).by(pellucid.attention)
            _, seen = call.by(pellucid.observe)
        assert_close(output, torch.ones_like(output), CLOSE)
        weights = seen.weights()
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]).double(), CLOSE)

    holds()


@engines
def test_a_sink_takes_its_share(engine: str) -> None:
    call, sinks = (
        Call(normal(2, 3, 5, 4), normal(2, 3, 7, 4, seed=1), torch.ones(2, 3, 7, 1).double()),
        normal(3, seed=2),
    )
    with running(engine, (2, 3)):
        output, seen = call.by(pellucid.observe, sinks=sinks)
    share = torch.exp(sinks[:, None] - seen.lse)
    assert_close(output[..., 0], 1 - share, CLOSE)
    assert_close(seen.weights().sum(-1), 1 - share, CLOSE)


@pytest.mark.sampled
@engines
def test_permuting_the_keys_changes_nothing(engine: str) -> None:
    asked = [readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.Received()]

    @examples(40, engine)
    @given(call=cross_attentions(), seed=st.integers(0, 2**20))
    def holds(call: Call, seed: int) -> None:
        order = torch.randperm(call.key.shape[-2], generator=torch.Generator().manual_seed(seed))
        permuted = replace(call, key=call.key[..., order, :], value=call.value[..., order, :])
        with running(engine, (13, 17)):
            output, seen = call.by(pellucid.observe, readouts=asked)
            again, seen_again = permuted.by(pellucid.observe, readouts=asked)
        assert_close(again, output, CLOSE * largest(output))
        for name in ("lse", "entropy", "max_scores"):
            assert_close(seen_again[name], seen[name], CLOSE * (1 + largest(seen[name])))
        assert_close(seen_again.received, seen.received[..., order], CLOSE * (1 + largest(seen.received)))

    holds()


@engines
def test_adding_a_constant_to_the_scores_changes_nothing_but_the_lse(engine: str) -> None:
    @examples(40, engine)
    @given(call=cross_attentions(), constant=st.sampled_from((-1e4, -3.0, 0.5, 700.0, 1e4)))
    def holds(call: Call, constant: float) -> None:
        with running(engine, (13, 17)):
            output, seen = call.by(pellucid.observe)
            shifted, seen_shifted = call.by(pellucid.observe, score_mod=lambda s, b, h, q, k: s + constant)
        bound = CLOSE * (1 + abs(constant))  # the sum is rounded at the constant's last place
        assert_close(shifted, output, bound * largest(output))
        assert_close(seen_shifted.entropy, seen.entropy, bound)
        assert_close(seen_shifted.lse, seen.lse + constant, bound)
        assert_close(seen_shifted.max_scores, seen.max_scores + constant, bound)

    holds()


POISONS = pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])


@engines
@POISONS
@pytest.mark.parametrize("means", ["bool mask", "mask_mod", "score_mod", "is_causal"])
def test_masked_keys_may_hold_anything(means: str, poison: float, engine: str) -> None:
    """The last two of seven keys are masked, in these ways; five causal rows never see them either."""
    query, key, value = normal(2, 3, 5, 4), normal(2, 3, 7, 4, seed=1), normal(2, 3, 7, 4, seed=2)
    options: dict[str, dict[str, Any]] = {
        "bool mask": {"attn_mask": (torch.arange(7) < 5).expand(5, 7)},
        "mask_mod": {"mask_mod": lambda b, h, q, k: k < 5},
        "score_mod": {"score_mod": lambda s, b, h, q, k: torch.where(k < 5, s, -float("inf"))},
        "is_causal": {"is_causal": True},
    }
    asked = [readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.TopK(2), readouts.Received()]
    asked += [readouts.Pooled(2, 2), readouts.mean_distance()]
    poisoned = key.clone()
    poisoned[..., 5:, :] = poison
    with running(engine, (2, 2)):
        output, seen = pellucid.observe(query, key, value, **options[means], readouts=asked)
        again, seen_again = pellucid.observe(query, poisoned, value, **options[means], readouts=asked)
    assert torch.equal(output, again)
    for name in seen.readouts:
        for one, other in zip(tensors(seen[name]), tensors(seen_again[name]), strict=True):
            assert torch.equal(one, other), name
    assert torch.equal(seen.weights(), seen_again.weights())


@engines
@POISONS
def test_a_float_mask_is_added_even_to_what_is_not_finite(poison: float, engine: str) -> None:
    """NaN - inf and inf - inf are NaN: a float mask hides a finite score only, here as in torch."""
    query, key = normal(2, 3, 5, 4).abs(), normal(2, 3, 7, 4, seed=1)
    key[..., 5:, :] = poison
    mask = torch.zeros(5, 7, dtype=torch.float64)
    mask[1:, 5:] = -torch.inf
    with running(engine, (2, 2)):
        output = pellucid.attention(query, key, key.nan_to_num(0, 0, 0), mask)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, key.nan_to_num(0, 0, 0), mask)
    assert torch.equal(output.isnan(), expected.isnan())
    assert output.isnan().any() == (poison != -float("inf"))


@engines
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nan_is_never_taken_for_a_forbidden_key(dtype: torch.dtype, engine: str) -> None:
    """Row i sees key i alone, whose score is NaN in row 3: that row is NaN, not an empty one, and no other is."""
    query, key = normal(2, 3, 5, 4, dtype=dtype), normal(2, 3, 5, 4, dtype=dtype, seed=1)
    key[..., 3, :] = float("nan")
    with running(engine, (2, 2)):
        output, seen = pellucid.observe(query, key, key.nan_to_num(), mask_mod=lambda b, h, q, k: q == k)
    for of_row in (output[..., 0], seen.lse):
        assert torch.equal(of_row.isnan(), (torch.arange(5) == 3).expand(2, 3, 5))


def tensors(reading: Any) -> tuple[Tensor, ...]:
    return (reading,) if isinstance(reading, Tensor) else tuple(reading)


@engines
def test_self_attention_is_cross_attention_with_the_key_from_the_query(engine: str) -> None:
    x = normal(2, 3, 17, 8)
    with running(engine):
        assert torch.equal(pellucid.attention(x, x, x), pellucid.attention(x, x.clone(), x.clone()))


@engines
@pytest.mark.parametrize("q_len", [1, 5, 7, 9])
def test_causal_is_each_row_s_prefix(q_len: int, engine: str) -> None:
    """Row i of a causal call is a call of query i alone with keys 0 ... i, also for more queries than keys."""
    query, key, value = normal(2, q_len, 4), normal(2, 7, 4, seed=1), normal(2, 7, 3, seed=2)
    with running(engine, (2, 3)):
        output, seen = pellucid.observe(query, key, value, is_causal=True)
        for row in range(q_len):
            prefix = slice(0, row + 1)
            one, of_row = pellucid.observe(query[:, row : row + 1], key[:, prefix], value[:, prefix])
            assert_close(one, output[:, row : row + 1], CLOSE * largest(output))
            for name in ("lse", "entropy", "max_scores"):
                assert_close(of_row[name], seen[name][:, row : row + 1], CLOSE * (1 + largest(seen[name])))


@engines
def test_is_causal_is_the_causal_mask_is_a_tensor(engine: str) -> None:
    query, key = normal(2, 3, 11, 4), normal(2, 3, 7, 4, seed=1)
    with running(engine, (2, 3)):
        flag = pellucid.attention(query, key, key, is_causal=True)
        named = pellucid.attention(query, key, key, mask_mod=masks.causal())
        tensor = pellucid.attention(query, key, key, torch.ones(11, 7).tril().bool())
    assert torch.equal(flag, named)
    assert_close(tensor, flag, CLOSE * largest(flag))


@engines
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_grouped_heads_equal_repeated_heads(kv_heads: int, engine: str) -> None:
    asked = [readouts.Entropy(), readouts.Received(), readouts.TopK(3)]
    query, key, value = normal(2, 6, 11, 4), normal(2, kv_heads, 7, 4, seed=1), normal(2, kv_heads, 7, 3, seed=2)
    repeated = [tensor.repeat_interleave(6 // kv_heads, 1) for tensor in (key, value)]
    sinks = normal(6, seed=3)
    with running(engine, (5, 3)):
        output, seen = pellucid.observe(query, key, value, enable_gqa=True, sinks=sinks, readouts=asked)
        expected, seen_expected = pellucid.observe(query, *repeated, sinks=sinks, readouts=asked)
    assert_close(output, expected, CLOSE * largest(expected))
    assert_close(seen.entropy, seen_expected.entropy, CLOSE)
    assert_close(seen.received, seen_expected.received, 11 * CLOSE)
    assert torch.equal(seen.topk.keys, seen_expected.topk.keys)
    assert_close(seen.weights(heads=slice(1, 4)), seen_expected.weights(heads=slice(1, 4)), CLOSE)


@engines
def test_batches_are_independent(engine: str) -> None:
    call = Call(normal(3, 2, 11, 4), normal(3, 2, 7, 4, seed=1), normal(3, 2, 7, 4, seed=2), is_causal=True)
    with running(engine, (5, 3)):
        whole = call.by(pellucid.attention)
        for i in range(3):
            alone = replace(call, query=call.query[i], key=call.key[i], value=call.value[i]).by(pellucid.attention)
            assert_close(alone, whole[i], CLOSE * largest(whole))


@engines
def test_the_keys_may_be_split_anywhere(engine: str) -> None:
    """Two calls over parts of the keys merge by their lse into the call over all."""
    query, key, value = normal(2, 5, 4), normal(2, 11, 4, seed=1), normal(2, 11, 3, seed=2)
    with running(engine, (2, 3)):
        whole, seen = pellucid.observe(query, key, value)
        for split in (0, 1, 5, 10, 11):
            parts = [pellucid.observe(query, key[:, s], value[:, s]) for s in (slice(0, split), slice(split, 11))]
            lse = torch.logaddexp(parts[0][1].lse, parts[1][1].lse)
            merged = sum(output * torch.exp(of.lse - lse)[..., None] for output, of in parts)
            assert_close(lse, seen.lse, CLOSE * largest(seen.lse))
            assert_close(merged, whole, CLOSE * largest(whole))


@pytest.mark.parametrize("tile", [(1, 1), (1, 100), (100, 1), (3, 4), (64, 64)])
def test_any_tiling_gives_the_same(tile: tuple[int, int]) -> None:
    @examples(25)
    @given(call=calls())
    def holds(call: Call) -> None:
        call = call.to(torch.float64)
        call = replace(call, query=call.query[..., :9, :], key=call.key[..., :9, :], value=call.value[..., :9, :])
        if call.attn_mask is not None:
            call = replace(call, attn_mask=call.attn_mask[..., :9, :9])
        with running("reference"):
            expected, seen_expected = call.by(pellucid.observe)
        with running("tiles", tile):
            output, seen = call.by(pellucid.observe)
        bound = CLOSE * (1 + largest(seen_expected.max_scores))
        assert_close(output, expected, bound * largest(call.value))
        for name in ("lse", "entropy", "max_scores"):
            assert_close(seen[name], seen_expected[name], bound * 4)

    holds()


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, engine: str) -> None:
    tensors_ = [normal(2, 6, length, 16, dtype=dtype, seed=length).requires_grad_() for length in (257, 131, 132)]
    query, key, value = tensors_[0], tensors_[1], tensors_[2][..., :131, :]
    results = []
    for count in (1, 2):
        with threads(count), running(engine, (64, 64)):
            output, seen = pellucid.observe(
                query,
                key,
                value,
                is_causal=True,
                readouts=[readouts.Entropy(), readouts.Received(), readouts.Pooled(5, 7), readouts.TopK(3)],
            )
            gradients = torch.autograd.grad(output.float().sum() + seen.entropy.sum(), tensors_)
        results.append([output, seen.lse, seen.entropy, seen.received, seen.pooled, *seen.topk, *gradients])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@engines
def test_the_same_call_gives_the_same_bits(engine: str) -> None:
    call = Call(*(normal(2, 3, 65, 8, seed=seed).float() for seed in range(3)), is_causal=True)
    with running(engine):
        assert torch.equal(call.by(pellucid.attention), call.by(pellucid.attention))


@engines
def test_observing_changes_no_bit_of_the_output(engine: str) -> None:
    call = Call(*(normal(2, 3, 65, 8, seed=seed).float() for seed in range(3)), is_causal=True)
    with running(engine):
        observed, _ = call.by(pellucid.observe, readouts=[readouts.Entropy(), readouts.Received(), readouts.TopK(3)])
        assert torch.equal(call.by(pellucid.attention), observed)
