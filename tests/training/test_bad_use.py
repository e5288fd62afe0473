"""What torch refuses of its own attention is refused of ours, by the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import pellucid
from pellucid import scores
from tests.cases import ENGINES, normal, running

engines = pytest.mark.parametrize("engine", ENGINES)
both = pytest.mark.parametrize("attention", [pellucid.attention, scaled_dot_product_attention], ids=["ours", "torch's"])
SHAPE = (2, 3, 5, 4)


def tensors(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(*SHAPE, dtype=dtype, seed=seed).requires_grad_() for seed in range(3)]


@both
@engines
def test_backward_twice_without_retaining_the_graph(engine: str, attention: Callable[..., Tensor]) -> None:
    with running(engine):
        output = attention(*tensors())
    output.sum().backward(retain_graph=True)
    output.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.sum().backward()


def changed(which: str, engine: str, attention: Callable[..., Tensor] = pellucid.attention) -> Tensor:
    """The output of a call of which one tensor was changed afterwards."""
    leaves = [*tensors(), normal(5, 5, seed=7).requires_grad_(), normal(3).requires_grad_()]
    names = ("query", "key", "value", "attn_mask", "slopes")
    given = dict(zip(names, (leaf * 1.0 for leaf in leaves), strict=True))
    with running(engine):
        query, key, value, mask, slopes = given.values()
        more = {"score_mod": scores.alibi(slopes)} if attention is pellucid.attention else {}
        given["output"] = attention(query, key, value, mask, **more)
    with torch.no_grad():
        given[which].mul_(2)
    return given["output"]


@engines
@pytest.mark.parametrize("which", ["query", "key", "value", "attn_mask", "slopes", "output"])
def test_a_tensor_that_was_changed_in_place_is_noticed(which: str, engine: str) -> None:
    if engine == "reference" and which not in ("query", "key", "value"):
        return  # it keeps the matrix, and needs none of these
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed(which, engine).sum().backward()


@pytest.mark.parametrize("engine", ["cpu", "portable"])  # the reference has done with it when gradients are made
def test_a_mask_that_was_changed_between_the_first_and_the_second_backward_is_noticed(engine: str) -> None:
    leaves, mask = tensors(), normal(5, 5, seed=7)
    with running(engine):
        output = pellucid.attention(*leaves, mask)
    gradients = torch.autograd.grad(output.sum(), leaves, create_graph=True)  # which the output has no part in
    mask.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients[0].square().sum().backward()


def test_torch_says_it_in_the_same_words() -> None:
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed("value", "reference", scaled_dot_product_attention).sum().backward()


@engines
def test_the_keys_of_top_k_have_no_gradient(engine: str) -> None:
    with running(engine):
        _, seen = pellucid.observe(*tensors(), readouts=[pellucid.TopK(2)])
    _, keys = normal(*SHAPE).requires_grad_().topk(2)  # torch's own
    for found in (keys, seen.topk.keys):
        with pytest.raises(RuntimeError, match="does not require grad and does not have a grad_fn"):
            found.sum().backward()


@both
@engines
def test_float16_that_overflows_is_infinite_as_torchs_is(engine: str, attention: Callable[..., Tensor]) -> None:
    """No error, and no number that looks right."""
    query, key, value = tensors(torch.float16)
    with running(engine):
        output = attention(query, key, value)
    output.backward(torch.full_like(output, 65504.0))
    assert value.grad is not None
    assert value.grad.isinf().any()
    assert query.grad is not None
    assert not query.grad.isfinite().all()


@engines
def test_no_gradient_of_what_was_made_without(engine: str) -> None:
    with running(engine), torch.no_grad():
        output = pellucid.attention(*tensors())
    with pytest.raises(RuntimeError, match="does not require grad"):
        output.sum().backward()


@engines
@pytest.mark.parametrize("function", [pellucid.attention, scaled_dot_product_attention], ids=["ours", "torch's"])
def test_inference_mode_makes_what_cannot_be_trained_on(engine: str, function: Callable[..., Any]) -> None:
    with torch.inference_mode():
        frozen = normal(*SHAPE)
    with running(engine), pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        function(frozen, *tensors()[1:])
