"""The bins of `Pooled` and `PooledMax` as the forward pass fills them, against the definition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from pellucid import engines, masks
from pellucid.arguments import Arguments, describe
from pellucid.engines.cpu.call import arguments, plan
from pellucid.engines.cpu.call.plan import Plan, plan_of
from pellucid.engines.cpu.layout import CHUNK
from pellucid.engines.cpu.machine.target import host
from pellucid.engines.cpu.stages import pooled as stage
from pellucid.readouts import Pooled, PooledMax, Readout, TopK
from tests.cases import examples
from tests.engines.cpu.direct import observe
from tests.thorough import thorough

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BINS = (1, 2, 3, 7, 16, 17, 64, 65, 1009)
BLOCK = 48  # queries at a time; 32 with matrix tiles

OUTER_KEYS = torch.tensor([3, 640])  # those before the first and from the second are allowed
CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "causal": lambda: {"is_causal": True},
    "window": lambda: {"mask_mod": masks.sliding_window(17, 3)},  # most tiles are empty for a block
    "a gap of two tiles": lambda: {"mask_mod": lambda b, h, q, k: (k < OUTER_KEYS[0]) | (k >= OUTER_KEYS[1])},
    "empty rows, sinks": lambda: {
        "mask_mod": lambda b, h, q, k: (q % 5 != 2) & (q < 60),
        "sinks": torch.tensor([0.5, -math.inf, 3.0, -2.0]),
    },
    "growing": lambda: {"score_mod": lambda score, b, h, q, k: score + k * 0.03},  # every tile has a larger maximum
    "shrinking": lambda: {"score_mod": lambda score, b, h, q, k: score - k * 0.03},
}


@contextmanager
def cut(memory: int, ranges: int) -> Iterator[None]:
    """Chunks for whose bins `memory` bytes are enough, or of one block; and at most so many ranges of chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "KEPT_BYTES", memory)
        patch.setattr(stage, "RANGES", ranges)
        patch.setattr(plan, "_plans", {})
        yield


def inputs(heads: int, kv_heads: int, q_len: int, k_len: int, dtype: torch.dtype, dim: int = 20) -> list[Tensor]:
    sizes = ((heads, q_len), (kv_heads, k_len), (kv_heads, k_len))
    return [torch.randn(2, *size, dim, dtype=torch.float64).to(dtype) for size in sizes]


def pooled(engine: str, tensors: list[Tensor], call: dict[str, Any], *bins: int) -> list[Tensor]:
    """`Pooled` and `PooledMax` of so many bins."""
    call = call | {name: call[name].to(tensors[0].dtype) for name in ("sinks",) if name in call}
    with engines.using(engine), torch.no_grad():
        _, seen = observe(*tensors, readouts=[Pooled(*bins), PooledMax(*bins)], **call)
    return [seen.pooled, seen.pooled_max]


def check(tensors: list[Tensor], call: dict[str, Any], *bins: int) -> list[Tensor]:
    """The compiled engine errs by at most twice what the definition does in this dtype, plus a few last places."""
    found, dense = pooled("cpu", tensors, call, *bins), pooled("reference", tensors, call, *bins)
    exact = pooled("reference", [t.double() for t in tensors], call, *bins)
    for own, other, numbers in zip(found, dense, exact, strict=True):
        assert own.dtype == (torch.float64 if tensors[0].dtype == torch.float64 else torch.float32)
        assert own.shape == numbers.shape
        allowed = 2 * (other - numbers).abs().max() + 48 * torch.finfo(own.dtype).eps
        assert (own - numbers).abs().max() <= allowed
    return found


def planned(q_len: int, k_len: int, readouts: list[Readout], heads: int = 1, **options: Any) -> Plan:
    """The plan for a call of these lengths; no tensor is as large."""
    x, y = (torch.randn(1, 1, 1, options.get("dim", 64)).to(options.get("dtype", torch.float32)) for _ in range(2))
    query, key = x.expand(1, heads, q_len, -1), y.expand(1, heads, k_len, -1)
    with torch.no_grad():
        return plan_of(describe(Arguments(query, key, key, enable_gqa=True, readouts=tuple(readouts)))[0])[0]


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", thorough(DTYPES, every_day=[torch.float32, torch.bfloat16]), ids=str)
@pytest.mark.parametrize("name", CALLS)
@given(
    q_len=st.integers(1, 211),
    k_len=st.integers(65, 701),
    bins=st.tuples(st.sampled_from(BINS), st.sampled_from(BINS)),
    memory=st.sampled_from((1, 100_000, 2 << 20)),
    ranges=st.sampled_from((1, 2, 64)),
    kv_heads=st.sampled_from((1, 2, 4)),
)
@example(q_len=211, k_len=701, bins=(1, 3), memory=1, ranges=64, kv_heads=4)
@example(q_len=211, k_len=701, bins=(1, 3), memory=1, ranges=2, kv_heads=2)
@example(q_len=1, k_len=700, bins=(7, 1009), memory=1, ranges=1, kv_heads=4)
@examples(24, "cpu")
def test_any_bins_of_any_chunks(
    name: str, dtype: torch.dtype, q_len: int, k_len: int, bins: tuple[int, int], memory: int, ranges: int,
    kv_heads: int,
) -> None:  # fmt: skip
    if dtype == torch.float16 and not host().half:
        pytest.skip("this processor leaves float16 to the portable engine")
    with cut(memory, ranges):
        check(inputs(4, kv_heads, q_len, k_len, dtype), CALLS[name](), *bins)


@pytest.mark.parametrize("readout", [Pooled, PooledMax])
@given(q_len=st.integers(1, 50), k_len=st.integers(1, 64), bins=st.tuples(*[st.sampled_from(BINS)] * 2))
@examples(40, "cpu")
def test_either_alone_and_few_keys(
    readout: type[Pooled | PooledMax], q_len: int, k_len: int, bins: tuple[int, int]
) -> None:
    tensors = inputs(2, 2, q_len, k_len, torch.float64)
    results = []
    for engine in ("cpu", "reference"):
        with engines.using(engine), torch.no_grad():
            results.append(observe(*tensors, readouts=[readout(*bins)], is_causal=True)[1][readout.name])
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)


def test_the_two_may_have_bins_of_their_own() -> None:
    tensors = inputs(2, 1, 150, 530, torch.float64)
    results = []
    for engine in ("cpu", "reference"):
        with engines.using(engine), torch.no_grad(), cut(1, 64):
            seen = observe(*tensors, readouts=[PooledMax(2, 100), TopK(3), Pooled(9, 4)], is_causal=True)[1]
        results.append([seen.pooled, seen.pooled_max, seen.topk.weights])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("ranges", [1, 2, 3, 64])
def test_a_bin_of_queries_over_three_chunks_and_more(ranges: int) -> None:
    tensors = inputs(1, 1, 7 * BLOCK + 5, 300, torch.float64)
    with cut(1, ranges):
        check(tensors, {"is_causal": True}, 2, 5)
        (made,) = plan._plans.values()
    assert made.prepared.queries == -(-8 // max(2, ranges)) * BLOCK


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "call", [{}, {"is_causal": True}, {"mask_mod": lambda b, h, q, k: k != 300}], ids=["full", "causal", "mask_mod"]
)
def test_numbers_that_are_not_finite(call: dict[str, Any], bad: float, dtype: torch.dtype) -> None:
    """A row that they reach is NaN, as by the definition also where it skips tiles; no other bin is any different.

    `Pooled` is defined by a product, in which NaN would spread: its bins are the portable engine's, which leaves 0
    where it skips tiles.
    """
    if dtype == torch.float16 and not host().half:
        pytest.skip("this processor leaves float16 to the portable engine")
    tensors = inputs(2, 2, 401, 701, dtype)
    tensors[1][0, 1, 300, 0] = bad
    with cut(100_000, 64):
        means, largest = pooled("cpu", tensors, call, 9, 7)
    assert largest[0, 1].isnan().any() == ("mask_mod" not in call)
    torch.testing.assert_close(
        largest, pooled("reference", tensors, call, 9, 7)[1], rtol=2e-5, atol=2e-6, equal_nan=True
    )
    expected = pooled("portable", tensors, call, 9, 7)[0].masked_fill(largest.isnan(), math.nan)
    torch.testing.assert_close(means, expected, rtol=2e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("q_len", [1, 3])
def test_few_queries_over_many_keys(q_len: int) -> None:
    """Which without these readouts would be decode, with ranges of keys of their own."""
    assert planned(q_len, 5003, [TopK(3)]).kept
    assert not planned(q_len, 5003, [TopK(3), Pooled(2, 50)]).kept
    check(inputs(1, 1, q_len, 5003, torch.float32), {}, 2, 50)
    check(inputs(8, 2, q_len, 1103, torch.bfloat16), {}, 1, 1103)


def test_a_bin_for_each_of_very_many_keys() -> None:
    tensors = inputs(1, 1, 200, 20_000, torch.float32)
    found = pooled("cpu", tensors, {}, 8, 20_000)
    with engines.using("reference"), torch.no_grad():
        weights = observe(*[t.double() for t in tensors], readouts=[])[1].weights().unflatten(-2, (8, 25))
    torch.testing.assert_close(found, [weights.mean(-2).float(), weights.amax(-2).float()], rtol=1e-4, atol=1e-9)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES[:2] + DTYPES[3:], ids=str)
@pytest.mark.parametrize("length", [257, 4_096, 131_072, 1 << 20])
def test_memory_does_not_grow_with_the_length(length: int, dtype: torch.dtype) -> None:
    every = [Pooled(256, 256), PooledMax(256, 256), TopK(8)]
    for dim in (16, 64, 128):
        made = planned(length, length, every, dtype=dtype, dim=dim)
        assert made.prepared.scratch <= 4 << 20


def test_memory_with_a_bin_for_each_of_very_many_keys() -> None:
    """A block's bins for each thread, and a row for each of 64 ranges of queries."""
    length = 131_072
    made = planned(length, length, [Pooled(8, length)])
    assert made.prepared.scratch < made.spec.block * length * 4 + (2 << 20)
    assert -(-length // made.prepared.queries) <= 64


def test_few_bins_are_not_cut_up() -> None:
    """Nor by the number of threads: sums that are rounded together must be the same."""
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(planned(20_000, 20_000, [Pooled(64, 64)], heads=8).prepared.queries)
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1
    assert -(-20_000 // found[0]) == -(-20_000 // CHUNK)
