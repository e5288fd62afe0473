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
from pellucid.engines.cpu.stages.expect import carried_function
from pellucid.engines.cpu.stages.gradient import Back, Carried
from pellucid.engines.cpu.stages.stage import Found, Reading, Stage, one_of_a_name
from pellucid.engines.reason import Reason
from pellucid.language import INPUTS, Expression, constant, load, operation
from pellucid.problem import Problem
from pellucid.readouts import Expect

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.block import Block
    from pellucid.engines.cpu.kernels.columns import Columns
    from pellucid.engines.cpu.layout import Spec


@dataclass(frozen=True)
class ReceivedStage(Stage):
    """A sum for each key."""

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

    def of_row(self, columns: Columns, query: Value) -> Value:
        """Whether a query counts, in every lane."""
        past, step = query - columns.argument("received_first"), columns.argument("received_step")
        counts = (past >= 0) & (query < columns.argument("received_stop")) & (past - (past / step) * step == 0)
        return columns.code.spread(counts, columns.lanes)

    def add(self, columns: Columns, of_row: Value, place: Value, weight: Value) -> None:
        """Add a vector of weights to the tile's sums.

        Args:
            columns: the kernel being written.
            of_row: whether the query counts.
            place: the vector's first key, counted from the tile's.
            weight: the weights.

        """
        code, sums = columns.code, columns.scratch["received"]
        total = code.load(sums, columns.type, place)
        code.store(sums, total + code.select(of_row, weight, 0.0), place)

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

    @classmethod
    def why_not(cls, readout: Any) -> Reason | None:
        """It keeps the sums of one."""
        return one_of_a_name(readout)

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> ReceivedReading:
        """By the slice of the queries."""
        chosen = range(problem.q_len)[readout.queries]
        return cls(readout.name, (chosen.start, chosen.stop, chosen.step))

    @property
    def second(self) -> ReceivedStage:
        """A sum for each key."""
        return ReceivedStage()

    def numbers(self, memory: int) -> dict[str, int]:
        """Which queries count."""
        return dict(zip(("received_first", "received_stop", "received_step"), self.queries, strict=True))

    def result(self, readout: Any, found: Found) -> Tensor:
        """The sums; NaN with a row that is, for the kernel may have skipped its tiles."""
        nan = found.lse[..., readout.queries].isnan().any(-1, keepdim=True)
        result: Tensor = readout.finish(torch.where(nan, torch.nan, found.columns[self.name]), found.problem)
        return result

    carries = True

    def swept(self, readout: Any, gradient: Tensor, problem: Problem) -> Expect:
        """The mean of the gradients that a row's weights get, which the first pass could not know."""
        own = load(gradient.reshape(-1, *gradient.shape[-2:]), tuple(INPUTS[name] for name in "bhk"))
        counts = self._counts(problem)
        function = own if counts is None else operation("where", counts, own, constant(0.0))
        return Expect.again((), iter((function,)), self.name)

    def _counts(self, problem: Problem) -> Expression | None:
        """Whether a query counts; None if all do."""
        first, stop, step = self.queries
        if (first, stop, step) == (0, problem.q_len, 1):
            return None
        query = INPUTS["q"]
        past = operation("mod", operation("sub", query, constant(first)), constant(step))
        inside = operation("and", *(operation(op, query, constant(n)) for op, n in (("ge", first), ("lt", stop))))
        return operation("and", inside, operation("eq", past, constant(0)))

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """To each weight its key's."""
        return carried_function(name, back)
