"""Left-padded models whose masks are the lowest number instead of -inf: rows of padding look at every key alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import open_record
from tests.watch import models


def lowest_mask(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Causal and padding mask as models made them for years, [batch, 1, length, length]: two masks added, clamped."""
    length, lowest = padding.shape[1], torch.finfo(dtype).min
    causal = torch.full((length, length), lowest, dtype=dtype).triu(1)
    padded = (1.0 - padding[:, None, None, :].to(dtype)) * lowest
    return (causal + padded).clamp(min=lowest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_an_accelerated_left_padded_model_is_finite(dtype: torch.dtype, tmp_path: Path) -> None:
    model, inputs = models.swappable("llama")
    model = model.to(dtype)
    call = inputs | {"attention_mask": lowest_mask(inputs["attention_mask"], dtype)}
    with torch.no_grad():
        plain = model(**call).logits
        with pellucid.watch(model, keep=True, readouts=[pellucid.Entropy()]) as record:
            watched = model(**call).logits
        accelerated = pellucid.accelerate(model)(**call).logits
    unit = torch.finfo(dtype).eps * plain.abs().max()
    for found in (watched, accelerated):
        assert (found - plain).abs().max() <= 16 * unit
    record.save(tmp_path / "run.attn")
    for layer in (record[0], open_record(tmp_path / "run.attn")[0]):
        assert (layer.readings["lse"][0, :, :4] < -1e37).all()  # the rows of padding
        torch.testing.assert_close(layer.weights().sum(-1), torch.ones(layer.batch, layer.heads, layer.q_len))
        part = layer.weights(keys=[7, 0, 2])
        torch.testing.assert_close(part, layer.weights()[..., [7, 0, 2]], atol=1e-5, rtol=0)


class Sunk(nn.Module):
    """Scores and a sink that are all the same huge number."""

    def forward(self, x: Tensor) -> Tensor:
        huge = torch.full((x.shape[-2], x.shape[-2]), 3e6)
        return pellucid.attention(torch.zeros_like(x), x, x, attn_mask=huge, sinks=huge[0, : x.shape[1]])


def test_a_sink_has_its_share_of_huge_scores() -> None:
    model = Sunk()
    with torch.no_grad(), pellucid.watch(model) as record:
        model(torch.randn(2, 3, 13, 8))
    torch.testing.assert_close(record[0].readings["sink_mass"], torch.full((2, 3, 13), 1 / 14))
