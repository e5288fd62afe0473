"""A Llama of transformers fine-tuned on ours: the gradients and losses of eager attention, whole and by LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid

transformers: Any = pytest.importorskip("transformers")

IDS = torch.arange(3 * 17).reshape(3, 17) * 7 % 61 + 2
PADDED = torch.ones_like(IDS).index_put((torch.tensor([1, 1, 1, 2]), torch.tensor([0, 1, 2, 0])), torch.tensor(0))


class LoRA(nn.Module):
    """A linear layer that is frozen, and what is learned beside it: `layer(x) + up(down(x))`."""

    def __init__(self, layer: nn.Linear, rank: int = 3) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


def llama(attention: str, lora: bool) -> Any:
    """Four layers, two query heads to a key head, of random weights; with LoRA only that is learned."""
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        attn_implementation=attention,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).train()
    if lora:
        model.requires_grad_(False)
        for layer in model.model.layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                setattr(layer.self_attn, name, LoRA(getattr(layer.self_attn, name)))
    return model


def tuned(model: Any, steps: int = 4) -> tuple[list[float], list[dict[str, Tensor]]]:
    """The losses and the gradients of some steps on a batch that is padded on the left."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(learned.values(), lr=0.1)
    # Not the first word either, which is said at a place of padding, where everybody computes something else.
    labels = IDS.masked_fill(PADDED.cumsum(-1) < 2, -100)
    losses, gradients = [], []
    for _ in range(steps):
        loss = model(IDS, attention_mask=PADDED, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in learned.items()})
        optimizer.step()
        losses.append(loss.item())
    return losses, gradients


@pytest.mark.sampled
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "LoRA"])
def test_fine_tuning_on_ours_is_fine_tuning_on_eager_attention(lora: bool, checkpointing: bool) -> None:
    eager, ours = llama("eager", lora), llama("sdpa", lora)
    pellucid.accelerate(ours)
    if checkpointing:
        getattr(ours, "activation_checkpointing_enable", ours.gradient_checkpointing_enable)()
    expected, found = tuned(eager), tuned(ours)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert expected[0][-1] < expected[0][0]
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert len(mine) == (24 if lora else 39)
        for name, gradient in mine.items():
            largest = float(theirs[name].abs().max())
            torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-5 * largest, msg=name)
