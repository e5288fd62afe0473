"""Single rows through the linear layers of an accelerated model."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import engines, restore
from pellucid.accelerating import row_linear


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The rows that went our way."""
    rows: list[Tensor] = []
    way = row_linear.row_through

    def noted(row: Tensor, *layer: Any) -> Tensor:
        rows.append(row)
        return way(row, *layer)

    monkeypatch.setattr(row_linear, "row_through", noted)
    return rows


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 30, bias=False)).bfloat16()


def row_of(*batch: int) -> Tensor:
    return torch.randn(*batch, 70, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@torch.no_grad()
def test_a_row_goes_our_way_and_comes_to_the_same(dtype: torch.dtype, taken: list[Tensor]) -> None:
    model, row = perceptron().to(dtype), row_of(1, 1).to(dtype)
    expected = model(row)
    assert not taken
    found = pellucid.accelerate(model)(row)
    assert len(taken) == 2
    assert found.shape == expected.shape
    bound = {torch.bfloat16: 2**-6, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound / 4)
    restore(model)
    assert torch.equal(model(row), expected)
    assert len(taken) == 2
    assert type(model[0]) is nn.Linear


def test_all_else_goes_torch_s_way(taken: list[Tensor]) -> None:
    plain, model = perceptron(), pellucid.accelerate(perceptron())
    rows, row = row_of(3), row_of(1)
    with torch.no_grad():
        assert torch.equal(model(rows), plain(rows))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model(row.float()), plain(row.float()))
        assert torch.equal(torch.func.vmap(model)(rows), torch.func.vmap(plain)(rows))
        with engines.using("portable"):
            assert torch.equal(model(row), plain(row))
        spread = torch.empty(1, 140, dtype=torch.bfloat16)[:, ::2].copy_(row)
        assert torch.equal(model[0](spread), plain[0](spread))
        for own in (model, plain):
            own[0].bias = nn.Parameter(own[0].bias[:1].clone())  # which torch spreads over all outputs
        assert torch.equal(model[0](row), plain[0](row))
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(row), plain(row))
    for own in (model, plain):
        own(row).sum().backward()
    assert torch.equal(model[0].weight.grad, plain[0].weight.grad)
    assert torch.equal(model.half()(row.half()), plain.half()(row.half()))
    assert not taken


@pytest.mark.parametrize("row", [row_of(1).float(), row_of(1)[:, :69]], ids=["another dtype", "another size"])
@torch.no_grad()
def test_what_torch_refuses_is_refused_by_torch(row: Tensor) -> None:
    model = pellucid.accelerate(perceptron())
    with pytest.raises(RuntimeError, match=r"dtype|shapes"):
        model(row)


@torch.no_grad()
def test_a_copy_has_its_own_weights(taken: list[Tensor]) -> None:
    model = pellucid.accelerate(perceptron())
    other, stored = copy.deepcopy(model[0]), io.BytesIO()
    torch.save(model[0], stored)
    stored.seek(0)
    read = torch.load(stored, weights_only=False)
    model[0].weight.zero_()
    expected = perceptron()[0](row_of(1))
    for own in (other, read):
        torch.testing.assert_close(own(row_of(1)), expected, rtol=2**-6, atol=2**-8)
    assert len(taken) == 2


def test_an_accelerated_model_leaves_memory() -> None:
    model = pellucid.accelerate(perceptron())
    held = weakref.ref(model[0])
    del model
    gc.collect()
    assert held() is None
