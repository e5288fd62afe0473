"""What a contender is: a module with a NAME, the PACKAGES it needs, and a function that makes a task ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from benchmarks.task import Task


class UnableError(Exception):
    """A contender does not do this task; says why."""


@dataclass(frozen=True)
class Answer:
    """What came out: [..., heads, q_len, value_dim], and the readouts that were asked for, by name."""

    output: Tensor
    readings: dict[str, Any] = field(default_factory=dict)
    gradients: list[Tensor] = field(default_factory=list)  # of a step of a training, see training.py


@dataclass(frozen=True)
class Ready:
    """A task in a contender's own form: `run` is what is timed, `answer` makes torch tensors of what it returned."""

    run: Callable[[], Any]
    answer: Callable[[Any], Answer] = field(default=Answer)


class Contender(Protocol):
    """A module of this package."""

    NAME: str
    PACKAGES: tuple[str, ...]  # to be imported; one that is missing leaves the contender out

    def prepare(self, task: Task) -> Ready:
        """Convert, compile and load whatever the task needs, which is not timed. Raises UnableError."""
