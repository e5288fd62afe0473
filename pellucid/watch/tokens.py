"""The token ids that a watched model reads, seen where they are looked up in its embedding."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class TokenIds:
    """The ids of the sequence that the model is at, [batch, length], grown step by step in generation."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None
        self._new: Tensor | None = None
        self._told: Tensor | None = None  # the whole sequence, as a generation says before it calls the model

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Listen to the model's embeddings of tokens, and to what `generate` gives it, by hooks gone afterwards."""
        with ExitStack() as hooks:
            for module in _word_embeddings(model):
                hooks.callback(module.register_forward_pre_hook(self._seen).remove)
            hooks.enter_context(replaced(model, "prepare_inputs_for_generation", self._telling))
            yield

    def _telling(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(prepare)  # the library looks at its arguments
        def told(input_ids: Any, *args: Any, **options: Any) -> Any:
            self._told = input_ids.detach() if isinstance(input_ids, Tensor) else None
            return prepare(input_ids, *args, **options)

        return told

    def _seen(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        ids = args[0] if args else None
        if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            self._new = ids.detach()

    def at(self, start: int, q_len: int, batch: int, is_in_order: Callable[[], bool]) -> Tensor | None:
        """The ids of all positions up to the queries of a self-attention call, if they are known.

        Args:
            start: position of the first query.
            q_len: queries.
            batch: sequences.
            is_in_order: whether each sequence of the batch is the one that it was: beams change places.

        """
        (new, told), self._new, self._told = (self._new, self._told), None, None
        if new is None:
            pass
        elif start == 0:
            self.ids = new
        elif told is not None and told.shape == (len(new), start + q_len) and torch.equal(told[:, start:], new):
            self.ids = told
        elif self.ids is not None and self.ids.shape[1] >= start and len(new) == len(self.ids) and is_in_order():
            self.ids = torch.cat((self.ids[:, :start], new), 1)
        else:
            self.ids = None
        known = self.ids
        return known if known is not None and known.shape == (batch, start + q_len) else None


@contextmanager
def replaced(model: nn.Module, name: str, by: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Let a method of one model be another, made of its own; where somebody has put one there, it stays."""
    own: Callable[..., Any] | None = getattr(model, name, None)
    if own is None or name in vars(model):
        yield
        return
    model.__dict__[name] = by(own)
    try:
        yield
    finally:
        model.__dict__.pop(name, None)


def _word_embeddings(model: nn.Module) -> list[nn.Module]:
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
