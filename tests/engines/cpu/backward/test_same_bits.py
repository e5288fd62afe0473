"""Gradients are the same to the last bit: run after run, for any number of threads, whatever else is in the batch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks
from tests.engines.cpu.test_batch import threads
from tests.thorough import in_turn, thorough

CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"mask_mod": masks.sliding_window(300)},
    "blocks": {"mask_mod": lambda b, h, q, k: (q // 100 + k // 256) % 3 != 1},
    "softcap": {"score_mod": lambda s, b, h, q, k: torch.tanh(s) + h},
}
DTYPES = (torch.float32, torch.bfloat16)
PRODUCT, EVERY_DAY = list(itertools.product(CALLS, DTYPES)), in_turn(("plain", "window", "blocks"), DTYPES)


def gradients(tensors: list[Tensor], upstream: Tensor, call: dict[str, Any]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    sinks = torch.linspace(-1, 1, upstream.shape[1]).requires_grad_()
    with engines.using("cpu"):
        output = pellucid.attention(*leaves, sinks=sinks, enable_gqa=True, **call)
        return list(torch.autograd.grad(output, [*leaves, sinks], upstream))


def drawn(batch: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    shapes = (4, 700, 24), (2, 1100, 24), (2, 1100, 16), (4, 700, 16)
    *tensors, upstream = (torch.randn(batch, *shape).to(dtype) for shape in shapes)
    return tensors, upstream


@pytest.mark.parametrize(("name", "dtype"), thorough(PRODUCT, EVERY_DAY, share=5), ids=str)
def test_for_any_number_of_threads(name: str, dtype: torch.dtype) -> None:
    tensors, upstream = drawn(2, dtype)
    with threads(1):
        alone = gradients(tensors, upstream, CALLS[name])
    for number in (1, 2, 3, 3, 2):
        with threads(number):
            again = gradients(tensors, upstream, CALLS[name])
        assert all(torch.equal(one, other) for one, other in zip(alone, again, strict=True)), number


@pytest.mark.parametrize(("name", "dtype"), thorough(PRODUCT, EVERY_DAY, share=5), ids=str)
def test_whatever_else_is_in_the_batch(name: str, dtype: torch.dtype) -> None:
    tensors, upstream = drawn(5, dtype)
    together = gradients(tensors, upstream, CALLS[name])[:3]
    alone = gradients([tensor[-1:] for tensor in tensors], upstream[-1:], CALLS[name])[:3]
    assert all(torch.equal(one[-1:], other) for one, other in zip(together, alone, strict=True))
