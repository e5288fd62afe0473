"""The columns kernel: the sum of final weights over the queries, from a second sweep over query @ key.T.

A task is a range of the queries of one head, and adds to sums of its own, so that no two threads ever meet in one place
and the result does not depend on who took what. The ranges' sums are few, and added afterwards.
"""

from __future__ import annotations

import math

from pellucid.engines.cpu.kernels.kernel import Block, Kernel
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.products.tiles import rounded


class Columns(Kernel):
    """Received."""

    packs_values = False

    def perform(self, pair: Value, part: Value) -> None:
        """All chunks of one range of queries."""
        code = self.code
        per_range = self.argument("chunks_a_range")
        first = part * per_range
        stop = code.minimum(first + per_range, self.argument("chunks"))
        place = part * self.argument("pairs") + pair
        self.received = code.at(self.pointer("received"), place * self.k_len, self.number)
        code.loop(first, stop, lambda chunk: self.over_keys(self.task(pair, chunk)))

    def tile(self, block: Block, full: Value) -> None:
        """The tile's weights, added up row by row."""
        code = self.code
        code.clear(self.scratch["received"], rounded(block.count, self.lanes), self.number)

        def rows(masked: bool) -> None:
            code.loop(0, block.rows, lambda row: self.add_row(block, row, masked=masked))

        self.masked_or_not(full, rows)
        code.loop(0, block.count, lambda j: self._add_received(block, j), step=self.lanes)

    def add_row(self, block: Block, row: Value, *, masked: bool) -> None:
        """Turn a row of scores into weights, by the row's lse, and add them to what is summed."""
        code, functions, scores = self.code, self.of_row(block, row), self.row_of_tile(row)
        lse = code.load(self.pointer("lse"), self.number, block.task.pair * self.q_len + block.query + row)
        lse = lse * (1.0 / self.unit)
        shift = code.spread(code.select(lse == -math.inf, 0.0, lse), self.lanes)
        counted = code.spread(self._is_counted(block.query + row), self.lanes)
        sums = self.scratch["received"]

        def panel(j: Value) -> None:
            for place in (j + v * self.lanes for v in range(self.spec.vectors)):
                raw = code.load(scores, self.type, place)
                weight = self.power(self.modified(functions, raw, block, place, masked) - shift)
                total = code.load(sums, self.type, place)
                code.store(sums, total + code.select(counted, weight, 0.0), place)

        code.loop(0, block.count, panel, step=self.panel)

    def _is_counted(self, query: Value) -> Value:
        """Whether `Received` counts a query."""
        past, step = query - self.argument("received_first"), self.argument("received_step")
        return (past >= 0) & (query < self.argument("received_stop")) & (past - (past / step) * step == 0)

    def _add_received(self, block: Block, j: Value) -> None:
        """Add a vector of the tile's column sums to those of the whole."""
        code, exists, place = self.code, self.exists(block, j), block.key + j
        total = code.masked_load(self.received, self.type, exists, place)
        total = total + code.load(self.scratch["received"], self.type, j)
        code.masked_store(self.received, total, exists, place)
