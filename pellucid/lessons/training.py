"""How the lessons' models are trained: what they read, what of it counts, and the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pellucid import engines
from pellucid.lessons import texts
from pellucid.lessons.model import Decoder
from pellucid.readouts import Entropy

LEARNING_RATE, WEIGHT_DECAY, WARMUP = 3e-3, 0.01, 100
LARGEST_GRADIENT = 1.0  # the norm that a step's gradients are cut down to
TOKENS = 4096  # of a batch, about


class Batch(NamedTuple):
    """Texts of one length, and the places in them whose next word is to be said."""

    texts: list[list[str]]
    places: list[list[int]]


@dataclass(frozen=True)
class Task:
    """What a model is trained for.

    Attributes:
        vocabulary: the words that its texts are made of.
        batch: texts, of a generator and of how much of the training is done, 0 to 1.
        steps: batches to learn from.
        sharpen: what the mean entropy of the first layer's heads adds to the loss, from the middle of the training on.
    """

    vocabulary: tuple[str, ...]
    batch: Callable[[Random, float], Batch]
    steps: int
    sharpen: float = 0.0


def _lists(rng: Random, done: float) -> Batch:
    """Lists of 8 to 56 random words that repeat. Every next word counts, also where nothing tells it."""
    length, words = 65, rng.randint(8, 56)
    drawn = [texts.repeated_list(rng, words, length) for _ in range(TOKENS // 2 // length)]
    return Batch(drawn, [list(range(length - 1))] * len(drawn))


def _stories(rng: Random, done: float) -> Batch:
    """Stories of 48 tokens and, once the first third is done, of up to 256. What is asked for counts."""
    length = min(256, round(48 * 2 ** max(0.0, 9 * (done - 1 / 3))))
    drawn = [texts.story(rng, length, people=4, questions=8) for _ in range(TOKENS // (length + 24))]
    return Batch([one.text for one in drawn], [one.questions[:-1] for one in drawn])


TASKS = {
    "lists": Task(texts.LIST_VOCABULARY, _lists, steps=1600, sharpen=0.05),
    "stories": Task(texts.STORY_VOCABULARY, _stories, steps=1200),
}


class Training:
    """A model on its way, from a seed alone; `advance` takes one step."""

    def __init__(self, task: Task, *, steps: int | None = None, seed: int = 0) -> None:
        self.task = task
        self.steps = task.steps if steps is None else steps
        self.step = 0
        self._rng = Random(seed)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            self.model = Decoder(task.vocabulary)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
        )

    def advance(self) -> float:
        """Learn from the next batch; returns what the words cost, in nats each."""
        done = self.step / self.steps
        words, entropy = self._costs(self.task.batch(self._rng, done))
        cost = words + self.task.sharpen * min(1.0, max(0.0, 3.0 * done - 1.2)) * entropy
        self._optimizer.zero_grad()
        cost.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (self.step + 1) / WARMUP) * (1.0 - done)
        self._optimizer.step()
        self.step += 1
        return words.item()

    def _costs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean cost of a word that counts, and the mean entropy of the first layer's heads."""
        numbers, places = self.model.encode(batch.texts), torch.tensor(batch.places, device="cpu")
        with engines.using("reference"):  # dense, and the fastest on texts this short
            scores, seen = self.model.observe(numbers, [Entropy()])
        said = scores.gather(1, places[..., None].expand(-1, -1, scores.shape[-1]))
        return cross_entropy(said.flatten(0, 1), numbers.gather(1, places + 1).flatten()), seen[0].entropy.mean()
