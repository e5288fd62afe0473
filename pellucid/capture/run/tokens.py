"""The token ids that a watched model reads, seen where they are looked up in its embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pellucid.capture.calls.stretch import Stretch


class TokenIds:
    """The ids of the sequence that the model is at, [batch, length], grown step by step in generation."""

    def __init__(self, tables: Iterable[nn.Module] = ()) -> None:
        self.tables = list(tables)  # the embeddings of tokens
        self.ids: Tensor | None = None
        self._new: Tensor | None = None
        self._of: WeakKeyDictionary[Any, Tensor | None] = WeakKeyDictionary()  # of the sequences that are in caches
        self._told: Tensor | None = None  # the whole sequence, as a generation says before it calls the model

    def tell(self, input_ids: Any) -> None:
        """Take the whole sequence, which a generation says before it calls the model."""
        self._told = input_ids.detach() if isinstance(input_ids, Tensor) else None

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Take the ids that an embedding is called with."""
        ids = args[0] if args and any(module is table for table in self.tables) else None
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self._new = ids.detach()

    def at(self, start: int, q_len: int, batch: int, cache: Any, is_in_order: Callable[[], bool]) -> Tensor | None:
        """The ids of all positions up to the queries of a self-attention call, if they are known.

        Args:
            start: position of the first query.
            q_len: queries.
            batch: sequences.
            cache: what holds the keys before the call's own, where that is known: several sequences may take turns.
            is_in_order: whether each sequence of the batch is the one that it was: beams change places.

        """
        (new, told), self._new, self._told = (self._new, self._told), None, None
        if new is not None:
            before = self.ids if cache is None else self._of.get(cache)
            self.ids = _joined(before, new, told, start, is_in_order)
            if cache is not None:
                self._of[cache] = self.ids
        known = self.ids
        return known if known is not None and known.shape == (batch, start + q_len) else None

    def of_all(self, stretch: Stretch, batch: int) -> Tensor | None:
        """The ids of all positions of a sequence that lies on several ranks, which all ask for them.

        Args:
            stretch: what this rank reads of it.
            batch: sequences.

        """
        new, self._new, self._told = self._new, None, None
        if new is not None:
            self.ids = stretch.joined(new)
        known = self.ids
        return known if known is not None and known.shape == (batch, stretch.whole.q_len) else None

    def cut(self, cache: Any, length: int) -> None:
        """Forget what a cache has taken back."""
        known = self._of.get(cache)
        if known is not None and known.shape[1] > length:
            is_last = self.ids is known
            self._of[cache] = known[:, :length]
            self.ids = self._of[cache] if is_last else self.ids


def _joined(
    before: Tensor | None, new: Tensor, told: Tensor | None, start: int, is_in_order: Callable[[], bool]
) -> Tensor | None:
    """The ids of a sequence whose ids from `start` on are new; None if those before are not known."""
    if start == 0:
        return new
    if told is not None and told.shape == (len(new), start + new.shape[1]) and torch.equal(told[:, start:], new):
        return told
    if before is not None and before.shape[1] >= start and len(new) == len(before) and is_in_order():
        return torch.cat((before[:, :start], new), 1)
    return None


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
