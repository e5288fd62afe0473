"""What reads texts: a model with its tokenizer, as the running of a corpus needs it."""

from __future__ import annotations

import zlib
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Encoded(NamedTuple):
    """A document as the model is given it."""

    ids: list[int]
    tokens: tuple[str, ...]  # as they read
    special: tuple[bool, ...]  # whether the tokenizer added it, rather than the text
    left_out: int = 0  # tokens that were cut off its end
    source: Encoded | None = None  # what is read, where this is what is written

    @property
    def sizes(self) -> tuple[int, int]:
        """How many tokens it has, and its source."""
        return len(self.ids), 0 if self.source is None else len(self.source.ids)


class Reader(Protocol):
    """A model and its tokenizer."""

    @property
    def model(self) -> nn.Module:
        """What is watched."""

    @property
    def pads(self) -> bool:
        """Whether it can be told which tokens are padding."""

    def encode(self, text: str, target: str | None = None) -> Encoded:
        """A text's tokens, cut where the model allows no more; of a model that writes, those of the target.

        Raises:
            ValueError: it cannot take the text.

        """

    def run(self, batch: list[Encoded]) -> None:
        """Call the model on a batch, padded at the right."""


def fingerprint(model: nn.Module) -> str:
    """A text that is another for other weights: the CRC-32 of every parameter and buffer, with its name and shape."""
    found = zlib.crc32(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = _bytes_in(tensor, found)
    return f"{found:08x}"


def _bytes_in(tensor: Tensor, found: int) -> int:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(plain.view(torch.uint8).numpy().data, found) if plain.numel() else found
