"""Kernels on matrix tiles, of bfloat16 and of numbers in parts, against float64; soft tiles where there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import engines, masks
from pellucid.engines.cpu import ir_of
from pellucid.engines.cpu.machine import threads
from tests.cases import examples
from tests.engines.cpu.calls import check, every_call
from tests.engines.cpu.direct import observe
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded
from tests.engines.cpu.soft_tiles import needs_tiles
from tests.engines.cpu.test_protected_page import EDGES, Edge, inputs_of
from tests.thorough import thorough

pytestmark = [needs_tiles, pytest.mark.usefixtures("tiles", "fresh_memory")]
DTYPES = {torch.bfloat16: (45, 37), torch.float16: (40, 80), torch.float32: (80, 45)}  # head_dim, value_dim
KINDS = ("plain", "causal", "window", "documents by batch", "bool mask", "sinks", "scale")
MOST_KEYS = 1100


@pytest.fixture(scope="module")
def fresh_memory() -> Iterator[None]:
    """What a kernel finds in its scratch memory is NaN."""
    usual = threads.scratch

    def scratch(size: int) -> Tensor:
        return usual(size).fill_(255)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "scratch", scratch)
        yield


def drawn(dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda *size: torch.randn(*size, dtype=torch.float64).to(dtype)


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    batch, heads, kv_heads, q_len, k_len, head_dim, value_dim = shape
    sizes = (heads, q_len, head_dim), (kv_heads, k_len, head_dim), (kv_heads, k_len, value_dim)
    return [drawn(dtype)(batch, *size) for size in sizes]


def ids(parameter: Any) -> str:
    return str(parameter).removeprefix("torch.")


@pytest.mark.sampled
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", thorough(DTYPES, every_day=[torch.bfloat16, torch.float32]), ids=ids)
def test_every_readout(dtype: torch.dtype, name: str) -> None:
    shape = (1, 4, 2, 101, 601, *DTYPES[dtype])
    check(inputs(shape, dtype), every_call(shape, drawn(dtype))[name])


@pytest.mark.parametrize("dtype", thorough(DTYPES, every_day=[torch.bfloat16]), ids=ids)
@given(
    q_len=st.integers(80, 200),
    k_len=st.integers(80, MOST_KEYS),
    group=st.sampled_from((1, 16, 32, 64, 100)),
    ranges=st.lists(st.tuples(st.integers(0, MOST_KEYS), st.integers(0, MOST_KEYS)), min_size=1, max_size=7),
)
@example(q_len=130, k_len=1000, group=64, ranges=[(70, 100), (300, 20), (511, 2), (0, 1000), (64, 64)])
@example(q_len=97, k_len=545, group=32, ranges=[(500, 100), (513, 10), (256, 256), (200, 300)])
@examples(60, "cpu")
def test_any_range_of_keys_of_any_query(
    q_len: int, k_len: int, group: int, ranges: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    """Groups of queries look at keys from one on; one kernel for all, which cuts tiles of keys to them."""
    bounds = torch.zeros(2, 2, MOST_KEYS, dtype=torch.long)  # first and last, head, query
    for head in range(2):
        for number, start in enumerate(range(0, q_len, group)):
            first, count = ranges[(number + head) % len(ranges)]
            bounds[:, head, start : start + group] = torch.tensor([[first], [first + count]])
    first, stop = bounds
    call = {"mask_mod": lambda b, h, q, k: (k >= first[h, q]) & (k < stop[h, q])}
    check(inputs((1, 2, 1, q_len, k_len, *DTYPES[dtype]), dtype), call)


DECODE = {
    "even": (2, 8, 2, 1, 1153, 32, 32),
    "ranges of keys": (1, 6, 3, 3, 2309, 17, 29),
    "many rows": (1, 8, 1, 2, 331, 80, 150),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("shape", "name"),
    [(shape, "plain") for shape in DECODE]
    + [
        ("even", "documents by batch"),
        ("ranges of keys", "window"),
        ("many rows", "scale"),
        ("many rows", "bool mask"),
    ],
)
def test_decode(shape: str, name: str) -> None:
    check(inputs(DECODE[shape], torch.bfloat16), every_call(DECODE[shape], drawn(torch.bfloat16))[name])


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.bfloat16, (1, 1, 1, 1, 1, 1, 1)),
        (torch.bfloat16, (2, 1, 1, 33, 19, 31, 65)),
        (torch.bfloat16, (1, 2, 2, 70, 2311, 64, 64)),
        (torch.bfloat16, (1, 1, 1, 64, 257, 256, 255)),
        (torch.float16, (1, 2, 1, 85, 270, 131, 83)),
        (torch.float16, (1, 1, 1, 80, 2311, 64, 16)),
        (torch.float32, (2, 1, 1, 97, 83, 32, 1)),
        (torch.float32, (1, 1, 1, 81, 257, 256, 200)),
    ],
    ids=ids,
)
def test_dimensions(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = inputs(shape, dtype)
    call = {"enable_gqa": True, "mask_mod": masks.causal_lower_right(*shape[3:5])}
    with engines.using("cpu"):
        found = pellucid.attention(*tensors, **call)
    with engines.using("reference"):
        dense = pellucid.attention(*tensors, **call).double()
        exact = pellucid.attention(*(t.double() for t in tensors), **call)
    limit = 2 * (dense - exact).abs().max() + 8 * torch.finfo(dtype).eps * exact.abs().max()
    assert (found.double() - exact).abs().max() <= limit


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["plain", "window"])
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_weights(dtype: torch.dtype, name: str) -> None:
    shape = (1, 4, 2, 101, 601, *DTYPES[dtype])
    tensors, call = inputs(shape, dtype), every_call(shape, drawn(dtype))[name]
    parts = [{}, {"queries": slice(3, 99, 4), "keys": slice(100, 600, 3)}, {"queries": [5, 100, 5], "heads": [3, 1]}]

    def seen(engine: str, tensors: list[Tensor]) -> list[Tensor]:
        with engines.using(engine), torch.no_grad():
            observation = pellucid.observe(*tensors, enable_gqa=True, readouts=[pellucid.LogSumExp()], **call)[1]
            return [observation.weights(**part) for part in parts]

    found, usual, exact = (
        seen("cpu", tensors),
        seen("portable", tensors),
        seen("reference", [t.double() for t in tensors]),
    )
    for own, other, numbers in zip(found, usual, exact, strict=True):
        limit = 2 * (other - numbers).abs().max() + 16 * torch.finfo(torch.float32).eps
        assert (own - numbers).abs().max() <= limit


@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_dropout(dtype: torch.dtype) -> None:
    """Dropped where the products read the weights, not where a readout does."""
    tensors = inputs((1, 4, 2, 101, 601, *DTYPES[dtype]), dtype)
    with engines.using("cpu"):
        output, seen = pellucid.observe(*tensors, dropout_p=0.4, enable_gqa=True, readouts=[pellucid.Pooled(5, 7)])
        _, whole = pellucid.observe(*tensors, enable_gqa=True, readouts=[pellucid.Pooled(5, 7)])
    assert torch.equal(seen.pooled, whole.pooled)
    kept = seen.weights().masked_fill(seen.dropped(), 0.0) / 0.6
    exact = kept @ tensors[2].float().repeat_interleave(2, 1)
    assert (output - exact).abs().max() < 8 * torch.finfo(dtype).eps * (1 + exact.abs().max())


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ((53, 259, 33, 47), torch.bfloat16),
        ((3, 283, 64, 80), torch.bfloat16),  # decode
        ((83, 113, 39, 41), torch.float32),
        ((91, 97, 64, 24), torch.float16),
    ],
    ids=ids,
)
def test_nothing_beyond_the_edge_is_touched(case: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    def stays_inside(edge: Edge) -> bool:
        guarded = Guarded(edge)
        for strided in (False, True):
            tensors = inputs_of(edge, case, dtype, strided)
            with engines.using("cpu"), torch.no_grad(), guarded:
                output, seen = observe(*tensors, readouts=[pellucid.LogSumExp()])
                assert torch.cat([output.flatten().float(), seen.weights().flatten()]).isfinite().all()
        return guarded.count > 5

    child = forked(lambda: all(stays_inside(edge) for edge in EDGES.values()))
    assert exit_code(child, 120) == 0


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("q_len", [1, 80])
def test_tiles_are_used(q_len: int, dtype: torch.dtype) -> None:
    """Or the tests above would prove nothing. Few queries over many keys are faster without, if they must be split."""
    query, key = torch.zeros(1, 1, q_len, 32, dtype=dtype), torch.zeros(1, 1, 80, 32, dtype=dtype)
    assert ("tdpbf16ps" in ir_of(query, key, key)) == (q_len == 80 or dtype == torch.bfloat16)
