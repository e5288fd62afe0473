"""A small Transformer on any attention, and its training: what the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Attention = Callable[..., Tensor]
WIDTH, HEADS, CHARACTERS, LENGTH, BATCH = 32, 2, 13, 29, 7


class Layer(nn.Module):
    """Causal self-attention and a map of each place, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.into_heads, self.back = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.map = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        query, key, value = self.into_heads(self.first(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.back(attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.map(self.second(x))


class Transformer(nn.Module):
    """Scores every character as the next one."""

    def __init__(self, attention: Attention, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.attention = attention
        self.characters, self.places = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.output = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.characters(numbers) + self.places.weight[: numbers.shape[-1]]
        for layer in self.layers:
            x = layer(x, self.attention)
        return self.output(x)


def batch(step: int) -> Tensor:
    """Texts that repeat after 5 to 11 characters: what comes next is to be found by looking back."""
    rng = torch.Generator().manual_seed(step)
    period = 5 + step % 7
    return torch.randint(CHARACTERS, (BATCH, period), generator=rng).repeat(1, 7)[:, : LENGTH + 1]


def loss_of(model: nn.Module, numbers: Tensor) -> Tensor:
    """The mean cost of a character."""
    return cross_entropy(model(numbers[:, :-1]).flatten(0, 1), numbers[:, 1:].flatten())


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Of every parameter, by name; taken away from the model."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
