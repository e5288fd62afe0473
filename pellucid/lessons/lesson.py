"""What a lesson is: a record, and a few steps through it, each with the view moving to what its text is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import pellucid
from pellucid.lessons.model import Decoder
from pellucid.record.record import Record

WARNING = (
    "Attention is not explanation. A weight says from where a head takes something, not what it takes, nor what the "
    "model makes of it: whether a head matters shows when it is taken away. These models are tiny and were "
    "trained for what they show; in a large one the same is there, among much else."
)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        title: in a few words.
        text: where to look, and what it means.
        state: what of the view moves, by the names of the page's address; None takes a name out, all others stay.
    """

    title: str
    text: str
    state: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """A lesson.

    Attributes:
        name: which `pellucid lesson` takes.
        title: what it is about.
        summary: the same in one line.
        record: runs its model.
        steps: through that record. The heads that they name are found in it.
    """

    name: str
    title: str
    summary: str
    record: Callable[[], Record]
    steps: Callable[[Record], Sequence[Step]]

    def told(self, record: Record) -> dict[str, Any]:
        """The lesson as plain values for JSON, as the viewer's page takes it."""
        steps = [{"title": step.title, "text": step.text, "state": dict(step.state)} for step in self.steps(record)]
        return {"name": self.name, "title": self.title, "warning": WARNING, "steps": steps}


@dataclass(frozen=True)
class Head:
    """A head of a record, by the number of its layer and its own."""

    layer: int
    head: int

    @property
    def state(self) -> dict[str, str]:
        """The view's state that shows it."""
        return {"layer": str(self.layer), "heads": str(self.head)}

    def __str__(self) -> str:
        return f"head {self.head} of layer {self.layer}"


def head_with_most(record: Record, number: str) -> Head:
    """The head with the largest of a number of the summary."""
    most = record.summary().sorted(number)[0]
    return Head(record.layers.index(most.layer), most.head)


def twins(record: Record, found: Head, number: str, least: float = 0.5) -> str:
    """A sentence on the other heads of the head's layer that have so much of a number of the summary, or nothing.

    Args:
        record: of the model.
        found: the head.
        number: of the summary, by name.
        least: how much counts.

    """
    rows = [row for row in record.summary().rows if row.layer == record.layers[found.layer]]
    others = [str(row.head) for row in rows if row.head != found.head and getattr(row, number) >= least]
    if not others:
        return ""
    heads = f"Head {others[0]} of the same layer does" if len(others) == 1 else f"Heads {', '.join(others)} of it do"
    return f" {heads} nearly the same: models often learn a thing more than once."


def record_of(model: Decoder, text: Sequence[str], name: str) -> Record:
    """What the model's heads do on a text, exact weights and maps included."""
    more = [pellucid.TopK(8), pellucid.Pooled(64, 64), pellucid.PooledMax(64, 64)]
    with torch.inference_mode(), pellucid.watch(model, keep=True, more=more, tokens=[list(text)]) as record:
        model(model.encode([text]))
    record.model = name
    return record
