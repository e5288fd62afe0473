"""A model learns the same on ours as on torch's attention, and its memory does not grow."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import pellucid
from tests.training.steps import Attention, Transformer, batch, loss_of

STEPS = 300


def curve(attention: Attention, steps: int = STEPS) -> list[float]:
    """The loss of every step, from one seed."""
    model = Transformer(attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for step in range(steps):
        loss = loss_of(model, batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def with_entropy(*heads: torch.Tensor, is_causal: bool) -> torch.Tensor:
    output, seen = pellucid.observe(*heads, is_causal=is_causal, readouts=[pellucid.Entropy()])
    return output + 0.0 * seen.entropy[..., None]


@pytest.mark.slow
def test_the_loss_curve_is_that_of_torchs_attention() -> None:
    theirs = torch.tensor(curve(scaled_dot_product_attention))
    assert theirs[-20:].mean() < 0.75 * theirs[:20].mean()
    for ours in (pellucid.attention, with_entropy):
        torch.testing.assert_close(torch.tensor(curve(ours)), theirs, rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory a process has")
def test_memory_stays_as_it_is_over_500_steps() -> None:
    """A leak of the tensors of one step in each would be 25 times what is allowed."""
    model = Transformer(with_entropy, layers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def train(steps: int) -> int:
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(model, batch(step)).backward()
            optimizer.step()
        gc.collect()
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096

    train(100)
    before, after = train(1), train(500)
    assert after - before < 4 * 2**20
