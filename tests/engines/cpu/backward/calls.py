"""Calls whose gradients are asked of the compiled engine: what is drawn, and how far from float64 it may be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import engines, masks
from pellucid.arguments import asked, describe
from pellucid.engines.cpu.call import differentiate

KINDS: dict[str, Callable[[int, int, int], dict[str, Any]]] = {
    "plain": lambda heads, q_len, k_len: {},
    "causal": lambda heads, q_len, k_len: {"is_causal": True},
    "window": lambda heads, q_len, k_len: {"mask_mod": masks.sliding_window(70)},
    "lengths": lambda heads, q_len, k_len: {"mask_mod": masks.key_lengths(torch.tensor([k_len, k_len // 3]))},
    "bool mask": lambda heads, q_len, k_len: {"attn_mask": torch.rand(2, 1, q_len, k_len) > 0.4},
    "float mask": lambda heads, q_len, k_len: {"attn_mask": torch.randn(q_len, k_len).double()},
    "softcap": lambda heads, q_len, k_len: {"score_mod": lambda s, b, h, q, k: 3 * torch.tanh(s / 3) - 0.01 * (q - k)},
    "scale": lambda heads, q_len, k_len: {"scale": -0.3},
    "sinks": lambda heads, q_len, k_len: {"sinks": torch.randn(heads).double(), "is_causal": True},
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PRODUCT = list(itertools.product(KINDS, DTYPES))
SHAPES = (1, 2, 17, 48, 49, 255, 256, 257, 300)
MANY = (63, 255, 257, 300)  # for fewer there are kernels of their own, and for whole panels
DIMS = (1, 3, 8, 31, 64, 80)
# Of head and value: each kind of call has its own, so that one kernel serves all of its examples.
OWN_DIMS = dict(
    zip(KINDS, ((64, 80), (31, 8), (3, 64), (80, 31), (8, 1), (1, 3), (64, 64), (8, 31), (31, 64)), strict=True)
)
HEADS = ((1, 1), (2, 2), (4, 2), (3, 1))
Shape = tuple[int, ...]  # heads, heads of keys, and the other sizes


@st.composite
def sizes(draw: st.DrawFn, kind: str) -> Shape:
    """Of calls that one kernel serves each way."""
    q_len, k_len = draw(st.sampled_from(MANY)), draw(st.sampled_from(MANY[1:]))
    return *draw(st.sampled_from(HEADS)), q_len, k_len, *OWN_DIMS[kind]


@st.composite
def any_sizes(draw: st.DrawFn) -> Shape:
    """Of which nearly each asks for kernels of its own."""
    lengths, dims = st.sampled_from(SHAPES), st.sampled_from(DIMS)
    return *draw(st.sampled_from(HEADS)), draw(lengths), draw(lengths), draw(dims), draw(dims)


def tensors(shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value, and the gradient of the output."""
    heads, kv_heads, q_len, k_len, head_dim, value_dim = shape
    made = (
        torch.randn(2, heads, q_len, head_dim),
        torch.randn(2, kv_heads, k_len, head_dim),
        torch.randn(2, kv_heads, k_len, value_dim),
        torch.randn(2, heads, q_len, value_dim),
    )
    return [tensor.to(dtype) for tensor in made]


def in_dtype(call: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A call whose float tensors are of a dtype."""
    kept = {name: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for name, t in call.items()}
    if "sinks" in kept:
        kept["sinks"] = kept["sinks"].clone().requires_grad_()
    return kept


def gradients(engine: str, made: Sequence[Tensor], call: dict[str, Any]) -> list[Tensor]:
    """Of query, key, value and sinks, for a loss that output and lse are parts of."""
    *inputs, upstream = made
    call = in_dtype(call, upstream.dtype)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    grouped = {"enable_gqa": leaves[0].shape[-3] != leaves[1].shape[-3]}
    with engines.using(engine):
        if engine == "cpu":
            assert_compiled(*leaves, **grouped, **call)
        output, seen = pellucid.observe(*leaves, readouts=[pellucid.LogSumExp()], **grouped, **call)
        some = torch.where(seen.lse.isfinite(), seen.lse, 0.0)
        loss = (output.to(some.dtype) * upstream).sum() + some.sin().sum()
        wanted = [*leaves, *([call["sinks"]] if "sinks" in call else [])]
        return list(torch.autograd.grad(loss, wanted))


def assert_compiled(*leaves: Tensor, **call: Any) -> None:
    """The compiled engine itself differentiates the call."""
    problem, _ = describe(asked(*leaves, readouts=[pellucid.LogSumExp()], **call))
    assert engines.name_for(problem) == "cpu", engines.why(*leaves, readouts=[pellucid.LogSumExp()], **call)
    assert differentiate is not None


def assert_right(
    found: Sequence[Tensor], exact: Sequence[Tensor], made: Sequence[Tensor], peer: Sequence[Tensor]
) -> None:
    """Each at most twice as far from the exact one as a peer's, and a few units in the last place.

    What is added up to a gradient may cancel, such as a row's one weight with its mean; its size counts.
    """
    query, key, value, upstream = made
    dtype = query.dtype
    added = (upstream.double().norm(dim=-1).max() * value.double().norm(dim=-1).max()).clamp(min=1)
    added = added * max(query.double().norm(dim=-1).max(), key.double().norm(dim=-1).max(), 1)
    computed = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for own, true, other in zip(found, exact, peer, strict=True):
        allowed = 2 * (other.double() - true).abs().max() + 4 * torch.finfo(dtype).eps * true.abs().max()
        assert (own.double() - true).abs().max() <= allowed + 4 * computed * added, own.shape
