"""The forward kernel of short heads, whose keys are one tile: what is read once is read where it lies.

Queries and values are not packed, no sum is kept for a next tile, and the output is written from registers.
"""

from __future__ import annotations

from pellucid.engines.cpu.kernels.block import Block, Task
from pellucid.engines.cpu.kernels.forward import Forward
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.machine.builder import Value, vector
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.tiles import Products
from pellucid.language import TRUE
from pellucid.problem import Problem


def is_one_tile(problem: Problem, spec: Spec) -> bool:
    """Whether a call is of short heads, whose elements are what is computed with and fill whole vectors."""
    short = 0 < problem.k_len <= KEYS and problem.q_len <= KEYS
    return short and not spec.dots and spec.dtype in ("float32", "float64") and spec.value_dim % spec.lanes == 0


class Unpacked(Products):
    """Products that read queries and values where they lie; keys are scaled as they are packed."""

    def pack_queries(self, source: Value, stride: Value, rows: Value) -> None:
        """Nothing is copied: only where the block lies is kept."""
        self.queries, self.query_stride = source, stride

    def query_rows(self, row: Value, rows: Value, height: int) -> list[Value]:
        """Where some queries of the block begin; past the last, the last is read again."""
        places = (self.code.minimum(row + r, rows - 1) * self.query_stride for r in range(height))
        return [self.code.at(self.queries, place, self.spec.number) for place in places]

    def load_words(self, source: Value, row: Value, word: Value) -> Value:
        """A vector of a key's numbers, scaled."""
        return super().load_words(source, row, word) * self.scale

    def load_word(self, source: Value, row: Value, word: Value) -> Value:
        """One of a key's numbers, scaled."""
        return super().load_word(source, row, word) * self.scale

    def weigh_out(
        self, rows: Value, values: Value, value_stride: Value, count: Value, output: Value, output_stride: Value
    ) -> None:
        """output = weights @ value * correction, for a block of rows; 0 where the correction is 0.

        Args:
            rows: how many rows of weights the tile has, a 64-bit integer of the kernel.
            values: the address of the tile's first value, in the tensor itself.
            value_stride: elements from one value to the next, a 64-bit integer.
            count: how many values, and weights of a row that are read; one too.
            output: the address of the first row's output, in the tensor itself.
            output_stride: elements from one row of it to the next, a 64-bit integer.

        """
        code, spec = self.code, self.spec

        def columns(column: Value, vectors: int) -> None:
            height, type_ = spec.target.tile_rows(vectors), vector(spec.number, spec.lanes)
            zero = [[code.constant(type_, 0.0)] * vectors] * height

            def block(row: Value) -> None:
                # Past the last row, the last is computed again.
                own_rows = [code.minimum(row + r, rows - 1) for r in range(height)]
                left = [self.weights(row)[0] for row in own_rows]
                right = code.at(values, column, spec.number)
                sums = self.product(zero, count, left, right, value_stride, unroll=1)
                for own, parts in zip(own_rows, sums, strict=True):
                    factor = code.spread(code.load(self.scratch["correction"], spec.number, own), spec.lanes)
                    for v, part in enumerate(parts):
                        result = code.select(factor == 0.0, 0.0, part * factor)
                        code.store(output, result, own * output_stride + (column + v * spec.lanes))

            code.loop(0, rows, block, step=height)

        self.over_columns(columns)


class UnpackedSweep(Sweep):
    """Over one tile, whose values lie where they are."""

    def values_of(self, task: Task, first_key: Value, key: Value) -> Value:
        """Where a tile's values lie."""
        return self.code.at(task.value, key * self.kernel.argument("value_row"), self.spec.storage)


class OneTile(Forward):
    """Forward, without what is for more tiles than one."""

    products: Unpacked

    def products_type(self) -> type[Products]:
        """What is read once is read where it lies."""
        return Unpacked

    def sweep_of(self) -> Sweep:
        """Over keys that are packed, and values that are not."""
        return UnpackedSweep(self)

    def start(self, task: Task) -> None:
        """No key seen yet; rows whose tile is skipped have zeros."""
        self.start_state(task)
        if self.mask is TRUE:
            return
        nothing = self.code.spread(self.nothing(task.h), self.lanes)

        def row(i: Value) -> None:
            for start, _ in tiles.columns(self.spec.value_dim, self.lanes):
                self.code.store(self.output_of_row(task, i), nothing, start)

        self.code.loop(0, task.rows, row)

    def accumulate(self, block: Block) -> None:
        """output = weights @ value / total, for the block."""
        code, task = self.code, block.task

        def factors(row: Value) -> None:
            maximum, total = (code.load(self.scratch[n], self.type, block.row + row) for n in ("maximum", "total"))
            factor = self.factor_of_output(self.head_of_row(task, row), maximum, total)
            nothing = code.spread(self.nothing(self.head_of_row(task, row)), self.lanes)
            code.store(self.scratch["correction"], code.select(total == 0.0, nothing, factor), row)

        code.loop(0, block.rows, factors, step=self.lanes)
        output, stride = self.output_of_row(task, block.row), self.argument("output_row")
        self.products.weigh_out(block.rows, block.values, self.argument("value_row"), block.used, output, stride)

    def finish(self, task: Task) -> None:
        """The output is written already."""
        self.finish_state(task)
