"""What autograd hands to the backward pass, and what callers do with results meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines

READOUTS = (pellucid.LogSumExp(), pellucid.MaxScore(), pellucid.Received(), pellucid.TopK(2))


def leaves() -> list[Tensor]:
    return [torch.randn(1, 2, length, 8).requires_grad_() for length in (5, 7, 7)]


def results(tensors: list[Tensor]) -> list[Tensor]:
    """The output, and what is read."""
    with engines.using("cpu"):
        output, seen = pellucid.observe(*tensors, readouts=READOUTS)
    return [output, seen.lse, seen.max_scores, seen.received, seen.topk.weights]


def test_gradients_that_are_not_as_they_lie() -> None:
    tensors = leaves()
    made = results(tensors)
    numbers = [torch.randn(result.shape) for result in made]
    for odd, same in (
        ([torch._neg_view(-own) for own in numbers], numbers),
        ([torch._efficientzerotensor(own.shape) for own in numbers], [torch.zeros_like(own) for own in numbers]),
    ):
        found, expected = (torch.autograd.grad(made, tensors, given, retain_graph=True) for given in (odd, same))
        assert all(map(torch.equal, found, expected))


def test_a_result_changed_in_place_changes_no_gradient() -> None:
    tensors = leaves()
    output, *read = results(tensors)
    loss = output.square().sum() + sum((own * torch.rand(own.shape)).sum() for own in read)
    expected = torch.autograd.grad(loss, tensors, retain_graph=True)
    with torch.no_grad():
        for own in read:
            own.zero_()
    # of a product with a constant torch keeps the constant alone
    assert all(map(torch.equal, torch.autograd.grad(loss, tensors), expected))


@pytest.mark.parametrize("engine", ["cpu", "portable"])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_row_that_is_nan_reaches_all_keys_and_values(score: float, engine: str) -> None:
    tensors = leaves()
    mask = torch.zeros(5, 7)
    mask[3, 2] = score
    with engines.using(engine):
        output = pellucid.attention(*tensors, mask)
    assert output[..., 3, :].isnan().all()
    of_query, *others = torch.autograd.grad(output.sum(), tensors)
    assert torch.equal(of_query.isnan(), output.isnan())
    assert all(gradient.isnan().all() for gradient in others)


def given_back(change: Callable[[Tensor], Tensor], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, change):
        output = results(tensors)[0]
    return torch.autograd.grad(output.square().sum(), tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda tensor: torch._neg_view(-tensor),
    ],
)
def test_saved_tensors_that_come_back_laid_out_otherwise(change: Callable[[Tensor], Tensor]) -> None:
    tensors = leaves()
    expected = given_back(lambda tensor: tensor, tensors)
    assert all(map(torch.equal, given_back(change, tensors), expected))


@pytest.mark.parametrize("change", [Tensor.half, lambda tensor: tensor[..., :-1]])
def test_saved_tensors_that_come_back_as_others(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match=r"a saved tensor came back as .*float.*, and was \(torch\.float32"):
        given_back(change, leaves())


@pytest.mark.parametrize("changed", ["key", "table"])
def test_data_of_another_shape_put_into_a_tensor_meanwhile(changed: str) -> None:
    tensors = dict(zip(("query", "key", "value"), leaves(), strict=True)) | {"table": torch.randn(7).requires_grad_()}
    query, key, value, table = tensors.values()
    with engines.using("cpu"):
        output = pellucid.attention(query, key, value, score_mod=lambda score, b, h, q, k: score + table[k])
    tensors[changed].data = tensors[changed].data[..., :3].clone()
    with pytest.raises(RuntimeError, match=r"a saved tensor came back as .*3\]\)\), and was"):
        output.sum().backward()
