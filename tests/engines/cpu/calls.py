"""Calls of every kind, and what a call reads compared with float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks, readouts, scores

Call = dict[str, Any]


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


def check(tensors: list[Tensor], call: Call, name: str = "") -> None:
    """The compiled engine errs by at most twice what the dense one does, plus a few last places."""
    dtype = tensors[0].dtype
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
