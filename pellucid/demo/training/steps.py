"""Training, one step after the other, from a state that can be stored and taken up again to the bit."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pellucid.demo.data.dates import alphabet
from pellucid.demo.model.date_reader import DateReader, Sizes
from pellucid.demo.training.attending import attending
from pellucid.demo.training.batches import Batch, training_batches


@dataclass(frozen=True)
class Settings:
    """All that decides the outcome of a training.

    Attributes:
        steps: batches to learn from.
        batch_size: dates in a batch.
        learning_rate: AdamW's, before `learning_rate_at` scales it.
        warmup_steps: steps in which it rises.
        weight_decay: AdamW's.
        largest_gradient: the norm, over all parameters, that a step's gradients are cut down to.
        seed: of the weights and the dates.
        attention: whose it is trained on, one of `attending.ATTENTIONS`.
    """

    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 3e-3
    warmup_steps: int = 150
    weight_decay: float = 0.01
    largest_gradient: float = 1.0
    seed: int = 0
    attention: str = "pellucid"

    def learning_rate_at(self, step: int) -> float:
        """Up in a line, then down in half a cosine to a fiftieth."""
        rise = min((step + 1) / self.warmup_steps, 1.0)
        fall = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * rise * (0.02 + 0.98 * fall)


class Training:
    """A model on its way: `advance` takes one step, `save` and `restore` store everything and take it up again."""

    def __init__(self, settings: Settings, sizes: Sizes | None = None) -> None:
        attending(settings.attention)  # raises where there is none of that name
        self.settings = settings
        self.step = 0
        self.seconds = 0.0
        torch.manual_seed(settings.seed)
        self.reader = DateReader(alphabet(), sizes or Sizes())
        self._optimizer = torch.optim.AdamW(
            self.reader.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
        )
        self._restart_batches()

    def advance(self) -> float:
        """Learn from the next batch; returns its loss, in nats a token."""
        with attending(self.settings.attention):
            loss = _loss(self.reader, next(self._batches))
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), self.settings.largest_gradient)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        self._optimizer.step()
        self.step += 1
        return loss.item()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Store the state in a file, which is replaced in one go: an interrupt leaves the old one or the new one."""
        state = {
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "reader": self.reader.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        unfinished = Path(f"{os.fspath(path)}.unfinished")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Take up the state in a file.

        Raises:
            ValueError: the file is of a training with other settings.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"checkpoint: {str(path)!r} is of a training with {_difference(state['settings'], self.settings)}. "
                "Give the same settings, or start over with --restart."
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.reader.load_state_dict(state["reader"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._restart_batches()

    def _restart_batches(self) -> None:
        settings = self.settings
        self._batches = training_batches(self.reader.vocabulary, settings.batch_size, settings.seed, first=self.step)


def _loss(reader: DateReader, batch: Batch) -> torch.Tensor:
    logits = reader(batch.source, batch.written, batch.lengths)  # [batch, 11, target tokens]
    return cross_entropy(logits.flatten(0, 1), batch.target.flatten())


def _difference(stored: dict[str, Any], settings: Settings) -> str:
    wanted = asdict(settings)
    return ", ".join(
        f"{name}={value} (not {wanted.get(name)})" for name, value in stored.items() if wanted.get(name) != value
    )
