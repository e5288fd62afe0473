"""What the heads of one layer did, in numbers, and the table that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from rich.table import Table
from torch import Tensor

from pellucid import readouts
from pellucid.observation import Observation
from pellucid.viewer.selection import Selection

NEEDED = (readouts.LogSumExp(), readouts.Entropy(), readouts.mass_on_first(), readouts.mean_distance())


@dataclass(frozen=True)
class HeadMeans:
    """Means over the queries of one head; of all heads where `head` is None."""

    head: int | None
    entropy: float  # nats
    mass_on_first: float  # 0 to 1
    mean_distance: float  # tokens

    @property
    def keys_in_use(self) -> float:
        """The number of keys that equal weights of this entropy would be spread over."""
        return exp(self.entropy)


def by_query(observation: Observation) -> Mapping[str, Tensor]:
    """The readouts of every query, [heads, queries], by name; the observation holds those of `NEEDED`."""
    return {
        "entropy": observation.entropy[0],
        "mass_on_first": observation["mass_on_first"][0],
        "mean_distance": observation["mean_distance"][0],
    }


def summarize(observation: Observation) -> list[HeadMeans]:
    """The means of each head, then those of all heads."""
    means = [values.mean(-1).tolist() for values in by_query(observation).values()]  # 3 × [heads]
    every_head = [HeadMeans(head, *numbers) for head, numbers in enumerate(zip(*means, strict=True))]
    return [*every_head, HeadMeans(None, *(sum(numbers) / len(numbers) for numbers in means))]


def head_table(selection: Selection) -> Table:
    """The summaries of the chosen layer; the chosen row is marked."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("head", "entropy (nats)", "keys in use", "mass on first token", "mean distance"):
        table.add_column(column, justify="left" if column == "head" else "right")
    for summary in summarize(selection.observation):
        chosen = summary.head == selection.head
        name = "mean" if summary.head is None else str(summary.head)
        table.add_row(
            f"{name} ◂" if chosen else name,
            f"{summary.entropy:.2f}",
            f"{summary.keys_in_use:.1f}",
            f"{summary.mass_on_first:.2f}",
            f"{summary.mean_distance:.1f}",
            style="bold" if chosen else None,
        )
    return table
