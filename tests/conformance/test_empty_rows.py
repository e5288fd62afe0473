"""A query that may look at no key: output 0, lse -inf, entropy 0, zero gradients, never NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import masks, readouts
from tests.cases import DIFFERENTIABLE, DTYPES, ENGINES, assert_close, normal, running

Q_LEN, K_LEN, EMPTY = 5, 7, 3
ALLOWED = (torch.arange(Q_LEN) != EMPTY)[:, None].expand(Q_LEN, K_LEN)

# Each forbids every key to query EMPTY, and only to it.
FORBID: dict[str, Callable[[torch.dtype], dict[str, Any]]] = {
    "bool mask": lambda dtype: {"attn_mask": ALLOWED},
    "float mask": lambda dtype: {"attn_mask": torch.zeros(Q_LEN, K_LEN, dtype=dtype).masked_fill(~ALLOWED, -torch.inf)},
    "mask_mod": lambda dtype: {"mask_mod": lambda b, h, q, k: q != EMPTY},
    "named mask": lambda dtype: {"mask_mod": masks.documents(torch.tensor([0, 0, 0, 1, 0]), torch.zeros(7).long())},
    "score_mod": lambda dtype: {"score_mod": lambda s, b, h, q, k: torch.where(q == EMPTY, -float("inf"), s)},
    "score_mod and mask_mod": lambda dtype: {
        "score_mod": lambda s, b, h, q, k: torch.where((q == EMPTY) & (k < 4), -float("inf"), s),
        "mask_mod": lambda b, h, q, k: (q != EMPTY) | (k < 4),
    },
    "float mask and mask_mod": lambda dtype: {
        "attn_mask": torch.zeros(Q_LEN, K_LEN, dtype=dtype).masked_fill(~ALLOWED, -torch.inf),
        "mask_mod": lambda b, h, q, k: q != EMPTY,
    },
}
ASKED = (
    readouts.LogSumExp(),
    readouts.Entropy(),
    readouts.MaxScore(),
    readouts.TopK(3),
    readouts.Received(slice(EMPTY, EMPTY + 1)),
    readouts.Pooled(Q_LEN, 2),
    readouts.mean_distance(),
)

engines = pytest.mark.parametrize("engine", ENGINES)
differentiable = pytest.mark.parametrize("engine", DIFFERENTIABLE)
ways = pytest.mark.parametrize("way", FORBID)
tiles = pytest.mark.parametrize("tile", [(1, 1), (2, 3), (64, 64)])


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(2, 3, length, 4, dtype=dtype, seed=i) for i, length in enumerate((Q_LEN, K_LEN, K_LEN))]


def assert_nothing(output: Tensor, seen: pellucid.Observation, row: int = EMPTY) -> None:
    assert (output[..., row, :] == 0).all()
    assert (seen.lse[..., row] == -torch.inf).all()
    assert (seen.max_scores[..., row] == -torch.inf).all()
    assert (seen.entropy[..., row] == 0).all()
    assert (seen["mean_distance"][..., row] == 0).all()
    assert (seen.topk.weights[..., row, :] == 0).all()
    assert (seen.topk.keys[..., row, :] == -1).all()
    assert (seen.weights(queries=row) == 0).all()
    assert (seen.received == 0).all()
    assert (seen.pooled[..., row, :] == 0).all()


@pytest.mark.sampled
@engines
@ways
@tiles
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_gives_nothing(dtype: torch.dtype, tile: tuple[int, int], way: str, engine: str) -> None:
    with running(engine, tile):
        output, seen = pellucid.observe(*inputs(dtype), **FORBID[way](dtype), readouts=ASKED)
    assert_nothing(output, seen)
    others = [row for row in range(Q_LEN) if row != EMPTY]
    assert torch.isfinite(seen.lse[..., others]).all()
    assert (output[..., others, :] != 0).all()


@pytest.mark.sampled
@differentiable
@ways
@tiles
def test_its_gradients_are_zero(tile: tuple[int, int], way: str, engine: str) -> None:
    query, key, value = (tensor.requires_grad_() for tensor in inputs())
    with running(engine, tile):
        output, seen = pellucid.observe(query, key, value, **FORBID[way](torch.float64), readouts=ASKED)
    of_row = output[..., EMPTY, :].sum() + sum(
        seen[name][..., EMPTY].sum() for name in ("lse", "entropy", "max_scores", "mean_distance")
    )
    for gradient in torch.autograd.grad(of_row, (query, key, value), retain_graph=True):
        assert (gradient == 0).all()
    everything = (
        output.sum() + seen.entropy.sum() + seen.lse.sum() + seen.max_scores.sum() + seen["mean_distance"].sum()
    )
    of_query, of_key, of_value = torch.autograd.grad(everything, (query, key, value))
    assert (of_query[..., EMPTY, :] == 0).all()
    assert (of_query[..., :EMPTY, :] != 0).any()
    for gradient in (of_query, of_key, of_value):
        assert torch.isfinite(gradient).all()


@differentiable
@tiles
def test_it_does_not_move_what_is_learned(tile: tuple[int, int], engine: str) -> None:
    bias = torch.zeros(Q_LEN, K_LEN, dtype=torch.float64).masked_fill(~ALLOWED, -torch.inf).requires_grad_()
    table = normal(3, seed=9).requires_grad_()
    with running(engine, tile):
        output, seen = pellucid.observe(*inputs(), bias, score_mod=lambda s, b, h, q, k: s * table[h])
    of_bias, of_table = torch.autograd.grad(output.sum() + seen.lse.sum() + seen.entropy.sum(), (bias, table))
    assert (of_bias[EMPTY] == 0).all()
    assert torch.isfinite(of_bias).all()
    assert torch.isfinite(of_table).all()


@differentiable
@tiles
def test_with_a_sink_it_is_all_the_sink(tile: tuple[int, int], engine: str) -> None:
    sinks = normal(3, seed=4).requires_grad_()
    with running(engine, tile):
        output, seen = pellucid.observe(*inputs(), ALLOWED, sinks=sinks, readouts=ASKED)
    assert (output[..., EMPTY, :] == 0).all()
    assert torch.equal(seen.lse[..., EMPTY], sinks.detach().expand(2, 3))
    assert (seen.max_scores[..., EMPTY] == -torch.inf).all()
    assert (seen.entropy[..., EMPTY] == 0).all()
    assert (seen.weights(queries=EMPTY) == 0).all()
    (gradient,) = torch.autograd.grad(seen.lse[..., EMPTY].sum(), sinks)
    assert torch.equal(gradient, torch.full((3,), 2.0, dtype=torch.float64))


@engines
def test_a_sink_of_minus_infinity_takes_nothing(engine: str) -> None:
    """As gpt-oss checkpoints are patched to have none: and with an empty row there is then no weight at all."""
    sinks = torch.full((3,), -torch.inf, dtype=torch.float64)
    with running(engine, (2, 3)):
        output, seen = pellucid.observe(*inputs(), ALLOWED, sinks=sinks, readouts=ASKED)
        plain, _ = pellucid.observe(*inputs(), ALLOWED)
    assert_nothing(output, seen)
    assert_close(output, plain, 8 * torch.finfo(torch.float64).eps * plain.abs().max().item())


@differentiable
def test_a_sink_of_minus_infinity_has_no_gradient(engine: str) -> None:
    sinks = torch.full((3,), -torch.inf, dtype=torch.float64, requires_grad=True)
    tensors = [tensor.requires_grad_() for tensor in inputs()]
    with running(engine, (2, 3)):
        output, seen = pellucid.observe(*tensors, ALLOWED, sinks=sinks)
    of_sinks, *others = torch.autograd.grad(output.sum() + seen.entropy.sum() + seen.lse.sum(), (sinks, *tensors))
    assert (of_sinks == 0).all()
    assert all(torch.isfinite(gradient).all() for gradient in others)


@engines
@pytest.mark.parametrize("causal", [False, True])
def test_no_keys_at_all(causal: bool, engine: str) -> None:
    query, key, value = inputs()
    with running(engine):
        output, seen = pellucid.observe(
            query,
            key[..., :0, :],
            value[..., :0, :],
            is_causal=causal,
            readouts=[readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.mean_distance()],
        )
    assert output.shape == (2, 3, Q_LEN, 4)
    assert (output == 0).all()
    assert (seen.lse == -torch.inf).all()
    assert (seen.max_scores == -torch.inf).all()
    assert (seen.entropy == 0).all()
    assert (seen["mean_distance"] == 0).all()
    assert seen.weights().shape == (2, 3, Q_LEN, 0)


@engines
def test_no_queries_at_all(engine: str) -> None:
    query, key, value = inputs()
    asked = [readouts.Entropy(), readouts.Received(), readouts.Pooled(3, 2), readouts.TopK(2)]
    with running(engine):
        output, seen = pellucid.observe(query[..., :0, :], key, value, readouts=asked)
    assert output.shape == (2, 3, 0, 4)
    assert seen.entropy.shape == (2, 3, 0)
    assert seen.topk.keys.shape == (2, 3, 0, 2)
    assert (seen.received == 0).all()
    assert seen.pooled.shape == (2, 3, 0, 2)
