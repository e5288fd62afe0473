"""Gradients under dropout: what the forward pass dropped is dropped again, and no mask was kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import engines
from tests.cases import examples
from tests.engines.cpu.backward.calls import (
    DTYPES,
    KINDS,
    OWN_DIMS,
    PRODUCT,
    Shape,
    any_sizes,
    assert_compiled,
    assert_right,
    in_dtype,
    sizes,
    tensors,
)
from tests.engines.cpu.test_batch import threads
from tests.thorough import in_turn, thorough

EVERY_DAY = in_turn(("causal", "float mask", "sinks"), DTYPES, 2)


def gradients(engine: str, made: list[Tensor], call: dict[str, Any], p: float) -> list[Tensor]:
    """Of query, key, value and sinks, for a loss that output and lse are parts of."""
    *inputs, upstream = made
    call = in_dtype(call, upstream.dtype) | {"dropout_p": p}
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    call["enable_gqa"] = leaves[0].shape[-3] != leaves[1].shape[-3]
    with engines.using(engine):
        if engine == "cpu":
            assert_compiled(*leaves, **call)
        torch.manual_seed(3)
        output, seen = pellucid.observe(*leaves, readouts=[pellucid.LogSumExp()], **call)
        some = torch.where(seen.lse.isfinite(), seen.lse, 0.0)
        loss = (output.to(some.dtype) * upstream).sum() + some.sin().sum()
        return list(torch.autograd.grad(loss, [*leaves, *([call["sinks"]] if "sinks" in call else [])]))


def check(kind: str, shape: Shape, dtype: torch.dtype) -> None:
    """A call's gradients are as near to float64 as torch's operations."""
    made = tensors(shape, dtype)
    call = KINDS[kind](shape[0], *shape[2:4])
    exact = gradients("reference", [tensor.double() for tensor in made], call, 0.3)
    assert_right(gradients("cpu", made, call, 0.3), exact, made, gradients("reference", made, call, 0.3))


@pytest.mark.parametrize(("kind", "dtype"), thorough(PRODUCT, EVERY_DAY, share=17), ids=str)
def test_any_call(kind: str, dtype: torch.dtype) -> None:
    @examples(4)
    @given(shape=sizes(kind))
    def right(shape: Shape) -> None:
        check(kind, shape, dtype)

    right()


@pytest.mark.thorough
def test_any_call_of_any_size() -> None:
    @examples(16, "cpu")
    @given(kind=st.sampled_from(list(KINDS)), shape=any_sizes(), dtype=st.sampled_from(DTYPES))
    def right(kind: str, shape: Shape, dtype: torch.dtype) -> None:
        check(kind, shape, dtype)

    right()


@pytest.mark.parametrize("p", [2.0**-40, 0.9, 1.0])
def test_any_probability(p: float) -> None:
    made = tensors((3, 1, 70, 300, *OWN_DIMS["causal"]), torch.float64)
    found, exact = (gradients(engine, made, {"is_causal": True}, p) for engine in ("cpu", "reference"))
    for own, true in zip(found, exact, strict=True):
        torch.testing.assert_close(own, true, rtol=1e-12, atol=1e-12)


def test_finite_differences() -> None:
    leaves = [tensor.requires_grad_() for tensor in tensors((2, 1, 5, 7, 3, 2), torch.float64)[:3]]
    sinks = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def output(*tensors: Tensor) -> Tensor:
        torch.manual_seed(5)
        *qkv, sinks = tensors
        return pellucid.attention(*qkv, dropout_p=0.4, is_causal=True, enable_gqa=True, sinks=sinks)

    with engines.using("cpu"):
        assert_compiled(*leaves, dropout_p=0.4, enable_gqa=True)
        assert torch.autograd.gradcheck(output, (*leaves, sinks), check_undefined_grad=False)
        assert torch.autograd.gradgradcheck(output, (*leaves, sinks), check_undefined_grad=False, fast_mode=True)


@pytest.mark.parametrize("dtype", thorough([torch.float32, torch.bfloat16], [torch.bfloat16]), ids=str)
def test_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    made = tensors((4, 2, 700, 1100, *OWN_DIMS["causal"]), dtype)
    results = []
    for number in (1, 2, 3, 2):
        with threads(number):
            results.append(gradients("cpu", made, {"is_causal": True}, 0.1))
    for again in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], again, strict=True))


def test_rows_of_huge_scores_drop_the_same() -> None:
    """Their gradients are the portable engine's."""
    made = [100 * torch.randn(2, 2, 20, 64), 100 * torch.randn(2, 2, 20, 64), *torch.randn(2, 2, 2, 20, 8)]
    exact = gradients("reference", [tensor.double() for tensor in made], {}, 0.3)
    for own, true in zip(gradients("cpu", made, {}, 0.3), exact, strict=True):
        assert (own - true).abs().max() < 0.02 * (1 + true.abs().max())
