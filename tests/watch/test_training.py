"""Training with dropout and checkpoints: watched, accelerated or everywhere, loss and gradients are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pellucid

QUERY = torch.randn(1, 2, 31, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Direct(nn.Module):
    """Calls torch's function, and may have that run again in backward."""

    def __init__(self, dropout: float, reentrant: bool | None) -> None:
        super().__init__()
        self.dropout, self.reentrant = dropout, reentrant

    def attend(self, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(QUERY, QUERY, value, dropout_p=self.dropout)

    def forward(self, value: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.attend(value)
        result: Tensor = checkpoint(self.attend, value, use_reentrant=self.reentrant)
        return result


class Encoder(nn.Module):
    """The same for nn.MultiheadAttention."""

    def __init__(self, dropout: float, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.TransformerEncoderLayer(8, 2, dropout=dropout, batch_first=True, dtype=torch.float64)
        self.reentrant = reentrant

    def forward(self, value: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.layer(value[0])
        result: Tensor = checkpoint(self.layer, value[0], use_reentrant=self.reentrant)
        return result


def transformers_model(kind: str, dropout: float, reentrant: bool | None) -> nn.Module:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(3)
    small = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
    small |= {"bos_token_id": 1, "eos_token_id": 2, "attention_dropout": dropout}
    if kind == "llama":
        model = transformers.LlamaModel(transformers.LlamaConfig(**small, intermediate_size=16))
    elif kind == "falcon":
        model = transformers.FalconModel(transformers.FalconConfig(**small, hidden_dropout=0.0, alibi=True))
    else:
        settings = small | {"attn_pdrop": dropout, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_implementation": kind}
        del settings["attention_dropout"]
        model = transformers.GPT2Model(transformers.GPT2Config(**settings))
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model.double().train()


MODELS: dict[str, Callable[[float, bool | None], nn.Module]] = {
    "sdpa": Direct,
    "encoder": Encoder,
    "llama": lambda dropout, reentrant: transformers_model("llama", dropout, reentrant),
    "gpt2 eager": lambda dropout, reentrant: transformers_model("eager", dropout, reentrant),
    "gpt2 sdpa": lambda dropout, reentrant: transformers_model("sdpa", dropout, reentrant),
    "falcon": lambda dropout, reentrant: transformers_model("falcon", dropout, reentrant),
}


def trained(model: nn.Module, way: str) -> list[Tensor]:
    """The loss and all gradients of a step."""
    if way == "accelerate":
        pellucid.accelerate(model)
    value = torch.randn(1, 2, 31, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    ids = torch.arange(22).reshape(2, 11) % 13 + 3
    torch.manual_seed(5)

    def forward() -> Tensor:
        output = model(ids).last_hidden_state if hasattr(model, "config") else model(value)
        return output.square().sum() + output[..., 0].sum()

    if way == "watch":
        with pellucid.watch(model):
            loss = forward()
            loss.backward()
    elif way.startswith("everywhere"):
        with pellucid.everywhere():
            loss = forward()
            if way == "everywhere":
                loss.backward()
        if way != "everywhere":
            loss.backward()
    else:
        loss = forward()
        loss.backward()
    gradients = [p.grad for p in (value, *model.parameters()) if p.grad is not None]
    return [loss.detach(), *gradients]


@pytest.mark.sampled
@pytest.mark.filterwarnings("ignore")  # of the library, of checkpoints
@pytest.mark.parametrize("way", ["watch", "accelerate", "everywhere", "everywhere, backward outside"])
@pytest.mark.parametrize("reentrant", [None, True, False])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_the_models_own(name: str, reentrant: bool | None, way: str) -> None:
    for dropout in (0.0, 0.5):
        expected = trained(MODELS[name](dropout, reentrant), "plain")
        found = trained(MODELS[name](dropout, reentrant), way)
        assert len(found) == len(expected) > 1
        for mine, plain in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-8)
