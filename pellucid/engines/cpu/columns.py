"""The columns kernel: sums of final weights over the queries, from a second sweep over query @ key.T.

A task is a range of the queries of one head, and adds to sums of its own, so that no two threads ever meet in one place
and the result does not depend on who took what. The ranges' sums are few, and added afterwards.
"""

from __future__ import annotations

import math

from pellucid.engines.cpu.builder import I32, Value
from pellucid.engines.cpu.kernel import Block, Kernel
from pellucid.engines.cpu.program import Values


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
        """The tile's weights, then their sums."""
        with self.code.either(full) as (all_allowed, mixed):
            with all_allowed:
                self.weights(block, masked=False)
            with mixed:
                self.weights(block, masked=True)
        if self.spec.received:
            self.add_received(block)
        if self.spec.pooled:
            self.add_pooled(block)

    def weights(self, block: Block, *, masked: bool) -> None:
        """Turn the tile's scores into weights, by the rows' lse."""
        code = self.code

        def row(i: Value) -> None:
            functions, scores = self.of_row(block, i), self.row_of_tile(i)
            place = block.task.pair * self.q_len + block.query + i
            lse = code.load(self.pointer("lse"), self.number, place) * (1.0 / self.unit)
            shift = code.spread(code.select(lse == -math.inf, 0.0, lse), self.lanes)
            code.loop(
                0, block.count, lambda j: self._vectors(functions, scores, block, j, shift, masked), step=self.panel
            )

        code.loop(0, block.rows, row)

    def _vectors(self, functions: Values, scores: Value, block: Block, j: Value, shift: Value, masked: bool) -> None:
        for v in range(self.spec.vectors):
            place = j + v * self.lanes
            raw = self.code.load(scores, self.type, place)
            score = self.modified(functions, raw, block, place, masked)
            self.code.store(scores, self.power(score - shift), place)

    def add_received(self, block: Block) -> None:
        """Add each column of the tile, over the queries that are counted."""
        code, zero = self.code, self.code.constant(self.type, 0.0)

        def vector(j: Value) -> None:
            (total,) = code.loop(0, block.rows, lambda i, total: [self._counted(block, i, j) + total], [zero])
            exists, place = self.exists(block, j), block.key + j
            code.masked_store(
                self.received, code.masked_load(self.received, self.type, exists, place) + total, exists, place
            )

        code.loop(0, block.count, vector, step=self.lanes)

    def _counted(self, block: Block, row: Value, j: Value) -> Value:
        code = self.code
        query, first, step = block.query + row, self.argument("received_first"), self.argument("received_step")
        past = query - first
        counted = (past >= 0) & (query < self.argument("received_stop")) & (past - (past / step) * step == 0)
        weight = code.load(self.row_of_tile(row), self.type, j)
        return code.select(code.spread(counted, self.lanes), weight, 0.0)

    def add_pooled(self, block: Block) -> None:
        """Add up the rows of each bin of queries, then the keys of each bin of keys."""
        code, query_bins, key_bins = self.code, self.pointer("query_bin"), self.pointer("key_bin")

        def bin_of(row: Value) -> Value:
            return code.load(query_bins, I32, block.query + row)

        def row(i: Value) -> None:
            starts = (i == 0) | (bin_of(i) != bin_of(code.maximum(i - 1, 0)))
            ends = (i == block.rows - 1) | (bin_of(i) != bin_of(code.minimum(i + 1, block.rows - 1)))
            code.loop(0, block.count, lambda j: self._gather_row(i, j, starts), step=self.lanes)
            with code.when(ends):
                target = code.at(self.pooled, bin_of(i).to(block.row.type) * self.argument("key_bins"), self.number)
                code.loop(0, block.count, lambda j: self._add_key(target, code.load(key_bins, I32, block.key + j), j))

        code.loop(0, block.rows, row)

    def _gather_row(self, row: Value, j: Value, starts: Value) -> None:
        """Add a row's vector to the sums of its bin so far, or begin them."""
        code, sums = self.code, self.scratch["bins"]
        before = code.select(code.spread(starts, self.lanes), 0.0, code.load(sums, self.type, j))
        code.store(sums, before + code.load(self.row_of_tile(row), self.type, j), j)

    def _add_key(self, target: Value, key_bin: Value, j: Value) -> None:
        code = self.code
        total = code.load(target, self.number, key_bin) + code.load(self.scratch["bins"], self.number, j)
        code.store(target, total, key_bin)
