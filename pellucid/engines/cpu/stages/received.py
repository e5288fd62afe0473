"""Received: sums over the queries, from a second sweep with final weights.

Each range of queries adds to sums of its own, so that no two threads ever meet in one place and the result does not
depend on who took what. The ranges' sums are few, and added afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.products.tiles import rounded
from pellucid.engines.cpu.stages.stage import Found, Reading, Stage, one_of_a_name
from pellucid.engines.reason import Reason
from pellucid.language import INPUTS, Expression, constant, load, operation
from pellucid.problem import Problem

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.block import Block
    from pellucid.engines.cpu.kernels.columns import Columns
    from pellucid.engines.cpu.layout import Spec


@dataclass(frozen=True)
class ReceivedStage(Stage):
    """A sum for each key, over all queries or those of a slice."""

    every: bool
    written = "received"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Where the sums of each range are written, and which queries count."""
        return ("received", "received_first", "received_stop", "received_step")

    def scratch(self, spec: Spec, rows: int) -> dict[str, int]:
        """The sums of a tile."""
        return {"received": KEYS}

    def begin_tile(self, columns: Columns, block: Block) -> None:
        """Nothing added."""
        columns.code.clear(columns.scratch["received"], rounded(block.count, columns.lanes), columns.number)

    def of_row(self, columns: Columns, query: Value) -> Value | None:
        """Whether a query counts, in every lane; None if each does."""
        if self.every:
            return None
        past, step = query - columns.argument("received_first"), columns.argument("received_step")
        counts = (past >= 0) & (query < columns.argument("received_stop")) & (past - (past / step) * step == 0)
        return columns.code.spread(counts, columns.lanes)

    def add(self, columns: Columns, of_row: Value | None, place: Value, weight: Value) -> None:
        """Add a vector of weights to the tile's sums.

        Args:
            columns: the kernel being written.
            of_row: whether the query counts; None if each does.
            place: the vector's first key, counted from the tile's.
            weight: the weights.

        """
        code, sums = columns.code, columns.scratch["received"]
        total = code.load(sums, columns.type, place)
        code.store(sums, total + (weight if of_row is None else code.select(of_row, weight, 0.0)), place)

    def end_tile(self, columns: Columns, block: Block) -> None:
        """Add the tile's sums to those of the range."""
        code = columns.code
        received = columns.of_range(self.written)

        def some(j: Value) -> None:
            exists, place = columns.sweep.exists(block, j), block.key + j
            total = code.masked_load(received, columns.type, exists, place)
            total = total + code.load(columns.scratch["received"], columns.type, j)
            code.masked_store(received, total, exists, place)

        code.loop(0, block.count, some, step=columns.lanes)


@dataclass(frozen=True)
class ReceivedReading(Reading):
    """Which queries count."""

    queries: tuple[int, int, int]  # the first, where they stop, and the step
    every: bool

    @classmethod
    def why_not(cls, readout: Any) -> Reason | None:
        """It keeps the sums of one."""
        return one_of_a_name(readout)

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> ReceivedReading:
        """By the slice of the queries."""
        chosen = range(problem.q_len)[readout.queries]
        return cls(readout.name, (chosen.start, chosen.stop, chosen.step), readout.adds_up)

    @property
    def second(self) -> ReceivedStage:
        """A sum for each key."""
        return ReceivedStage(self.every)

    def numbers(self, memory: int) -> dict[str, int]:
        """Which queries count."""
        return dict(zip(("received_first", "received_stop", "received_step"), self.queries, strict=True))

    def result(self, readout: Any, found: Found) -> Tensor:
        """The sums; NaN with a row that is, for the kernel may have skipped its tiles."""
        nan = found.lse[..., readout.queries].isnan().any(-1, keepdim=True)
        result: Tensor = readout.finish(torch.where(nan, torch.nan, found.columns[self.name]), found.problem)
        return result

    carries = True

    def of_weights(self, readout: Any, gradient: Tensor) -> Expression:
        """Its key's, where the query counts."""
        own = load(gradient.reshape(-1, *gradient.shape[-2:]), tuple(INPUTS[name] for name in "bhk"))
        if readout.adds_up:
            return own
        (first, stop, step), query = self.queries, INPUTS["q"]
        inside = operation("and", operation("ge", query, constant(first)), operation("lt", query, constant(stop)))
        past = operation("mod", operation("sub", query, constant(first)), constant(step))
        counts = operation("and", inside, operation("eq", past, constant(0)))
        return operation("where", counts, own, constant(0.0))
