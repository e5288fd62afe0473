"""The compiled kernels against float64: an error of at most twice the dense one's plus a few last places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks, readouts, scores

Call = dict[str, Any]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = {  # batch, heads, kv_heads, q_len, k_len, head_dim, value_dim
    "ragged": (2, 3, 3, 37, 53, 13, 21),
    "several tiles": (1, 4, 2, 101, 601, 64, 64),
    "wide": (1, 2, 1, 53, 270, 131, 83),
    "wide, more queries": (1, 2, 1, 85, 270, 131, 83),
    "many packed keys": (1, 1, 1, 50, 2311, 64, 64),
    "decode": (2, 8, 2, 1, 1153, 32, 32),
    "decode, ragged": (1, 6, 3, 3, 2309, 17, 29),
    "decode, many rows": (1, 8, 1, 2, 331, 80, 150),
}


def every_call(shape: tuple[int, ...], draw: Callable[..., Tensor]) -> dict[str, Call]:
    """One call of each kind that the compiler lowers differently."""
    batch, heads, _, q_len, k_len, _, _ = shape
    longest = max(q_len, k_len)
    ids = torch.arange(longest) // 11
    batch_ids = torch.randint(0, 4, (batch, longest)).sort().values
    offsets, table = torch.tensor([0, 3, 5, 9]), draw(32, heads)
    bias, key_bias = draw(heads, q_len, k_len), draw(k_len)
    bias[bias > 1] = -torch.inf
    allowed = torch.rand(q_len, k_len) > 0.3
    return {
        "plain": {},
        "causal": {"is_causal": True},
        "lower right": {"mask_mod": masks.causal_lower_right(q_len, k_len)},
        "window": {"mask_mod": masks.sliding_window(9, 3)},
        "prefix": {"mask_mod": masks.causal() | masks.prefix(7)},
        "documents": {"mask_mod": masks.documents(ids)},
        "documents by batch": {"mask_mod": masks.documents(batch_ids) & masks.causal()},
        "key lengths": {"mask_mod": masks.key_lengths(torch.randint(0, k_len + 1, (batch,)))},
        "bool mask": {"attn_mask": allowed},
        "bool row": {"attn_mask": allowed[:1]},
        "bool column": {"attn_mask": allowed[:, :1]},
        "bias": {"attn_mask": bias},
        "alibi": {"score_mod": scores.alibi(draw(heads).abs())},
        "softcap": {"score_mod": scores.softcap(2.0)},
        "relative bias": {"score_mod": scores.relative_bias(table)},
        "neighbourhood": {"mask_mod": lambda b, h, q, k: ((q // 8 - k // 8).abs() <= 1) & ((q % 8 - k % 8).abs() <= 2)},
        "nested": {
            "score_mod": lambda s, b, h, q, k: (
                s
                + offsets[batch_ids[b, q]] * 0.01 * key_bias[k]
                + torch.sigmoid(s) * torch.log(1 + (q - k).abs())
                - torch.exp(-s.abs())
            )
        },
        "where": {"score_mod": lambda s, b, h, q, k: torch.where((q >= k) | (h == 0), s.clamp(-1, 1), -torch.inf)},
        "nobody": {"mask_mod": lambda b, h, q, k: k < 0},
        "bools": {"mask_mod": lambda b, h, q, k: (((q > k) ^ (k % 2 == 0)) <= (q % 3 == 0)) & ~(k == 5)},
        "sinks": {"sinks": draw(heads), "is_causal": True, "mask_mod": lambda b, h, q, k: q != 3},
        "scale": {"scale": -0.3},
    }


def every_readout(k_len: int) -> list[readouts.Readout]:
    fn = lambda b, h, q, k: torch.tanh((q - k) / 3) * (h + 1)  # noqa: E731
    return [
        readouts.LogSumExp(),
        readouts.Entropy(),
        readouts.MaxScore(),
        readouts.TopK(min(5, k_len)),
        readouts.Received(slice(-9, None, 2)),
        readouts.mean_distance(),
        readouts.Expect(fn, "tanh"),
    ]


def observed(engine: str, tensors: list[Tensor], call: Call) -> dict[str, Tensor]:
    """What is found; where queries are few the bins are read by a second call, for with them none is decode."""
    q_len, k_len = tensors[0].shape[-2], tensors[1].shape[-2]
    most, bins = every_readout(k_len), [readouts.Pooled(5, 7), readouts.PooledMax(4, 9)]
    with engines.using(engine):
        first = most if q_len < 5 else [*most, *bins]
        output, seen = pellucid.observe(*tensors, enable_gqa=True, readouts=first, **call)
        found = {name: seen[name] for name in seen.readouts if name != "topk"}
        if q_len < 5:
            _, pooled = pellucid.observe(*tensors, enable_gqa=True, readouts=bins, **call)
            found |= {name: pooled[name] for name in pooled.readouts}
    return found | {"output": output, "top weights": seen.topk.weights, "top keys": seen.topk.keys}


def in_float64(call: Call) -> Call:
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in call.items()}


def error(found: Tensor, exact: Tensor) -> float:
    found = found.double()
    assert torch.equal(found.isinf(), exact.isinf())
    return float((found - exact).masked_fill(exact.isinf(), 0.0).abs().max())


FEW = ("plain", "causal", "documents", "bias", "sinks", "nested")
ALL_CALLS = [("ragged", dtype) for dtype in DTYPES] + [("several tiles", DTYPES[0]), ("decode, ragged", DTYPES[0])]
FEW_CALLS = [(shape, dtype) for shape in SHAPES for dtype in DTYPES[:3] if (shape, dtype) not in ALL_CALLS]


@pytest.mark.parametrize(("shape", "dtype"), ALL_CALLS + FEW_CALLS, ids=str)
def test_every_call_and_readout(shape: str, dtype: torch.dtype) -> None:
    batch, heads, kv_heads, q_len, k_len, head_dim, value_dim = SHAPES[shape]

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64).to(dtype)

    tensors = [
        draw(batch, heads, q_len, head_dim),
        draw(batch, kv_heads, k_len, head_dim),
        draw(batch, kv_heads, k_len, value_dim),
    ]
    for name, call in every_call(SHAPES[shape], draw).items():
        if name not in FEW and (shape, dtype) not in ALL_CALLS:
            continue
        found, dense = observed("cpu", tensors, call), observed("reference", tensors, call)
        exact = observed("reference", [t.double() for t in tensors], in_float64(call))
        for what, numbers in exact.items():
            if what == "top keys":
                if dtype == torch.float64:
                    assert torch.equal(found[what], numbers), name
                continue
            last_place = float(torch.finfo(dtype if what == "output" else dense["lse"].dtype).eps)
            magnitude = float(numbers.masked_fill(numbers.isinf(), 0.0).abs().max()) + 1
            allowed = 2 * error(dense[what], numbers) + 24 * last_place * magnitude
            assert error(found[what], numbers) <= allowed, (name, what)


def test_thread_counts_give_the_same_bits() -> None:
    tensors = [torch.randn(1, 3, length, 16) for length in (211, 307, 307)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(observed("cpu", tensors, {"is_causal": True}))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, numbers in found[0].items():
            assert torch.equal(other[name], numbers), name


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "zero stride", "head_dim not contiguous"])
def test_strides_are_read_in_place(layout: str) -> None:
    views = {
        "transposed": lambda: torch.randn(2, 29, 3, 16).transpose(1, 2),
        "sliced": lambda: torch.randn(2, 3, 61, 40)[:, :, 1::2, 3:19][:, :, :29],
        "expanded": lambda: torch.randn(1, 1, 29, 16).expand(2, 3, 29, 16),
        "zero stride": lambda: torch.randn(2, 3, 1, 16).expand(2, 3, 29, 16),
        "head_dim not contiguous": lambda: torch.randn(2, 3, 16, 29).mT,
    }
    tensors = [views[layout]() for _ in range(3)]
    found = observed("cpu", tensors, {})
    for name, numbers in observed("cpu", [t.contiguous() for t in tensors], {}).items():
        assert torch.equal(found[name], numbers), name


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 1, 3)])
def test_batch_dimensions_broadcast(batch: tuple[int, ...]) -> None:
    query = torch.randn(*batch, 2, 19, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, 23, 8, dtype=torch.float64).unbind(0)
    call = {"score_mod": lambda s, b, h, q, k: s + b * 0.1 * k}
    found, exact = (observed(engine, [query, key, value], call) for engine in ("cpu", "reference"))
    for name, numbers in exact.items():
        torch.testing.assert_close(found[name], numbers, rtol=1e-10, atol=1e-10)


def test_nan_in_a_score_reaches_the_output_as_in_torch() -> None:
    query, key, value = torch.randn(3, 1, 1, 7, 16).unbind(0)
    key[..., 3, 0] = torch.nan
    with engines.using("cpu"):
        assert pellucid.attention(query, key, value).isnan().all()
        masked = pellucid.attention(query, key, value, mask_mod=lambda b, h, q, k: k != 3)
    assert masked.isfinite().all()
