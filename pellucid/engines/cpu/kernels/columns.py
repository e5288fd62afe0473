"""The columns kernel: sums of final weights over the queries, from a second sweep over query @ key.T.

A task is a range of the queries of one head, and adds to sums of its own, so that no two threads ever meet in one place
and the result does not depend on who took what. What is summed is the stages'.
"""

from __future__ import annotations

import math

from pellucid.engines.cpu.kernels.block import Block
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.machine.builder import Value


class Columns(Kernel):
    """Each row's final weights, by its lse."""

    def sweep_of(self) -> Sweep:
        """Without the values."""
        return Sweep(self, packs_values=False)

    def perform(self, pair: Value, share: Value) -> None:
        """All chunks of one range of queries."""
        per_range = self.argument("chunks_a_range")
        first = share * per_range
        stop = self.code.minimum(first + per_range, self.argument("chunks"))
        self.range = share * self.argument("pairs") + pair
        self.code.loop(first, stop, lambda chunk: self.sweep.through(self.task(pair, chunk), self.tile))

    def of_range(self, name: str) -> Value:
        """Where the sums of this range of queries begin, a number for each key."""
        return self.code.at(self.pointer(name), self.range * self.k_len, self.number)

    def tile(self, block: Block, full: Value) -> None:
        """The tile's weights, added up row by row."""
        for stage in self.spec.stages:
            stage.begin_tile(self, block)

        def rows(masked: bool) -> None:
            self.code.loop(0, block.rows, lambda row: self.add_row(block, row, masked=masked))

        self.masked_or_not(full, rows)
        for stage in self.spec.stages:
            stage.end_tile(self, block)

    def add_row(self, block: Block, row: Value, *, masked: bool) -> None:
        """Turn a row of scores into weights, by the row's lse, and add them to what is summed."""
        code, functions, scores = self.code, self.sweep.of_row(block, row), self.row_of_tile(row)
        query = block.query + row
        lse = code.load(self.pointer("lse"), self.number, block.task.pair * self.q_len + query)
        lse = lse * (1.0 / self.unit)
        shift = code.spread(code.select(lse == -math.inf, 0.0, lse), self.lanes)
        known = [(stage, stage.of_row(self, query)) for stage in self.spec.stages]

        def panel(j: Value) -> None:
            for place in (j + v * self.lanes for v in range(self.spec.vectors)):
                raw = code.load(scores, self.type, place)
                weight = self.power(self.modified(functions, raw, block, place, masked) - shift)
                for stage, of_row in known:
                    stage.add(self, of_row, place, weight)

        code.loop(0, block.count, panel, step=self.panel)
