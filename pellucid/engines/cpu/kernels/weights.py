"""The weights kernel: any part of the matrix itself, computed from query, key and each row's lse.

A tile's weights go straight to the result.
"""

from __future__ import annotations

import math

from pellucid.engines.cpu.kernels.block import Block
from pellucid.engines.cpu.kernels.chosen import ChosenSweep
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.machine.builder import Value


class Weights(Kernel):
    """exp(score - lse) for chosen queries and keys."""

    sweep: ChosenSweep

    def sweep_of(self) -> ChosenSweep:
        """Over what is chosen."""
        return ChosenSweep(self)

    def perform(self, pair: Value, share: Value) -> None:
        """A chunk of the queries of one head, beside a range of the keys."""
        code, chunks, chunk = self.code, self.argument("chunks"), self.argument("chunk")
        task = self.task(pair, code.i64(0))  # from the head's first query and key on: rows are gathered from there
        task.first = (share - (share / chunks) * chunks) * chunk
        task.rows = code.minimum(chunk, self.q_len - task.first)
        first = (share / chunks) * self.argument("keys_a_range")
        stop = code.minimum(first + self.argument("keys_a_range"), self.k_len)
        self.sweep.through_range(task, first, stop, self.tile, self._write_nothing)

    def batch_and_head(self, pair: Value) -> tuple[Value, Value]:
        """The head's true index is looked up."""
        b, place = super().batch_and_head(pair)
        return b, self.sweep.chosen("head_index", place)

    def tile(self, block: Block, full: Value) -> None:
        """Turn the tile's scores into weights, and write them."""
        self.masked_or_not(full, lambda masked: self.weights(block, masked=masked))

    def weights(self, block: Block, *, masked: bool) -> None:
        """exp(score - lse) of each row; of a row with no key, 0."""
        code = self.code

        def row(i: Value) -> None:
            functions, scores, result = self.sweep.of_row(block, i), self.row_of_tile(i), self._result(block, i)
            lse = code.load(self.pointer("lse"), self.number, block.task.pair * self.q_len + block.query + i)
            shift = code.spread(code.select(lse == -math.inf, 0.0, lse) * (1.0 / self.unit), self.lanes)

            def panel(j: Value) -> None:
                for place in (j + v * self.lanes for v in range(self.spec.vectors)):
                    score = self.modified(functions, code.load(scores, self.type, place), block, place, masked)
                    self._write(result, self.power(score - shift), block, place, masked)

            code.loop(0, block.count, panel, step=self.panel)

        code.loop(0, block.rows, row)

    def _write(self, result: Value, weight: Value, block: Block, place: Value, masked: bool) -> None:
        if masked:
            self.code.masked_store(result, weight, self.sweep.exists(block, place), place)
        else:
            self.code.store(result, weight, place)

    def _write_nothing(self, block: Block) -> None:
        """Zeros for a tile of which no key is allowed."""
        code = self.code
        code.loop(0, block.rows, lambda i: code.clear(self._result(block, i), block.count, self.number))

    def _result(self, block: Block, row: Value) -> Value:
        """Where the tile's part of a row of the result begins: [pairs, queries, keys]."""
        place = (block.task.pair * self.q_len + block.query + row) * self.k_len + block.key
        return self.code.at(self.pointer("output"), place, self.number)
