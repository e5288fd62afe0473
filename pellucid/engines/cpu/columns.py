"""The columns kernel: sums of final weights over the queries, from a second sweep over query @ key.T.

A task is a range of the queries of one head, and adds to sums of its own, so that no two threads ever meet in one place
and the result does not depend on who took what. The ranges' sums are few, and added afterwards.
"""

from __future__ import annotations

import math

from pellucid.engines.cpu.builder import I32, I64, Value
from pellucid.engines.cpu.kernel import Block, Kernel


class Columns(Kernel):
    """Received and Pooled."""

    packs_values = False

    def perform(self, pair: Value, part: Value) -> None:
        """All chunks of one range of queries."""
        code = self.code
        per_range = self.argument("chunks_a_range")
        first = part * per_range
        stop = code.minimum(first + per_range, self.argument("chunks"))
        place = part * self.argument("pairs") + pair
        self.received = code.at(self.pointer("received"), place * self.k_len, self.number)
        bins = self.argument("query_bins") * self.argument("key_bins")
        self.pooled = code.at(self.pointer("pooled"), place * bins, self.number)
        code.loop(first, stop, lambda chunk: self.over_keys(self.task(pair, chunk)))

    def tile(self, block: Block, full: Value) -> None:
        """The tile's weights, added up row by row."""
        code, zero = self.code, self.code.constant(self.type, 0.0)
        if self.spec.received:
            code.loop(0, block.count, lambda j: code.store(self.scratch["received"], zero, j), step=self.lanes)
        with code.either(full) as (all_allowed, mixed):
            with all_allowed:
                code.loop(0, block.rows, lambda row: self.add_row(block, row, masked=False))
            with mixed:
                code.loop(0, block.rows, lambda row: self.add_row(block, row, masked=True))
        if self.spec.received:
            code.loop(0, block.count, lambda j: self._add_received(block, j), step=self.lanes)

    def add_row(self, block: Block, row: Value, *, masked: bool) -> None:
        """Turn a row of scores into weights, by the row's lse, and add them to what is summed."""
        code, functions, scores = self.code, self.of_row(block, row), self.row_of_tile(row)
        lse = code.load(self.pointer("lse"), self.number, block.task.pair * self.q_len + block.query + row)
        lse = lse * (1.0 / self.unit)
        shift = code.spread(code.select(lse == -math.inf, 0.0, lse), self.lanes)
        counted = code.spread(self._is_counted(block.query + row), self.lanes) if self.spec.received else None
        first = code.spread(self._begins_bin(block, row), self.lanes) if self.spec.pooled else None

        def panel(j: Value) -> None:
            for place in (j + v * self.lanes for v in range(self.spec.vectors)):
                raw = code.load(scores, self.type, place)
                weight = self.power(self.modified(functions, raw, block, place, masked) - shift)
                if counted is not None:
                    sums = self.scratch["received"]
                    code.store(sums, code.load(sums, self.type, place) + code.select(counted, weight, 0.0), place)
                if first is not None:
                    sums = self.scratch["bins"]
                    code.store(sums, code.select(first, 0.0, code.load(sums, self.type, place)) + weight, place)

        code.loop(0, block.count, panel, step=self.panel)
        if self.spec.pooled:
            self._add_pooled(block, row)

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

    def _bin(self, block: Block, row: Value) -> Value:
        """The bin of queries that a row of the block belongs to."""
        return self.code.load(self.pointer("query_bin"), I32, block.query + row)

    def _begins_bin(self, block: Block, row: Value) -> Value:
        """Whether the row is the first of its bin in this block."""
        return (row == 0) | (self._bin(block, row) != self._bin(block, self.code.maximum(row - 1, 0)))

    def _add_pooled(self, block: Block, row: Value) -> None:
        """After the last row of a bin in this block, add up the keys of each bin of keys."""
        code, key_bins, sums = self.code, self.pointer("key_bin"), self.scratch["bins"]
        own = self._bin(block, row)
        last = (row == block.rows - 1) | (own != self._bin(block, code.minimum(row + 1, block.rows - 1)))

        def add(j: Value, bin_before: Value, total: Value) -> list[Value]:
            key_bin = code.load(key_bins, I32, block.key + j)
            total = code.select(key_bin == bin_before, total, 0.0) + code.load(sums, self.number, j)
            code.store(sums, total, key_bin.to(I64) - first)  # no further on than j
            return [key_bin, total]

        def to_whole(i: Value) -> None:
            exists = code.spread((bins - i).to(I32), self.lanes) > code.ramp(I32, self.lanes)
            total = code.masked_load(target, self.type, exists, i) + code.load(sums, self.type, i)
            code.masked_store(target, total, exists, i)

        with code.when(last):
            first = code.load(key_bins, I32, block.key).to(I64)
            start = code.constant(I32, -1), code.constant(self.number, 0.0)
            key_bin, _ = code.loop(0, block.count, add, start)
            bins = key_bin.to(I64) - first + 1
            place = own.to(I64) * self.argument("key_bins") + first
            target = code.at(self.pooled, place, self.number)
            code.loop(0, bins, to_whole, step=self.lanes)
