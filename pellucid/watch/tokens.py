"""The token ids that a watched model reads, seen where they are looked up in its embedding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class TokenIds:
    """The ids of the sequence that the model is at, [batch, length], grown step by step in generation."""

    def __init__(self, tables: Iterable[nn.Module] = ()) -> None:
        self.tables = list(tables)  # the embeddings of tokens
        self.ids: Tensor | None = None
        self._new: Tensor | None = None

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Take the ids that an embedding is called with."""
        ids = args[0] if args and any(module is table for table in self.tables) else None
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self._new = ids.detach()

    def at(self, start: int, q_len: int, batch: int) -> Tensor | None:
        """The ids of all positions up to the queries of a self-attention call, if they are known."""
        new, self._new = self._new, None
        if new is not None and start == 0:
            self.ids = new
        elif new is not None and self.ids is not None and self.ids.shape[1] >= start and len(new) == len(self.ids):
            self.ids = torch.cat((self.ids[:, :start], new), 1)
        elif new is not None:
            self.ids = None
        known = self.ids
        return known if known is not None and known.shape == (batch, start + q_len) else None


def word_embeddings(model: nn.Module) -> list[nn.Module]:
    """The embeddings with the largest table, or with as many entries as the model's vocabulary."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if not tables:
        return []
    size = _vocabulary(model) or max(table.num_embeddings for table in tables)
    return [table for table in tables if table.num_embeddings == size]


def _vocabulary(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) else None
