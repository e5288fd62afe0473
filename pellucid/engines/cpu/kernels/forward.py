"""The forward kernel: softmax attention of a chunk of queries, with the row readouts as stages of the same pass."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial

from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.block import Block, Task
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.kernels.softmax import OnlineSoftmax
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import Code, Value
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.tiles import Beside
from pellucid.language import SCORE

HIGHEST = {4: (2.0 - 2.0**-23) * 2.0**127, 8: sys.float_info.max}  # finite number, by its bytes
SMALLEST = 2.0**-126  # normal number of float32


class Forward(Kernel):
    """Scores, the user's functions, softmax, weighted sum: the five lines, tile by tile."""

    def __init__(self, code: Code, spec: Spec, program: Program) -> None:
        super().__init__(code, spec, program)
        if self.factor is not None and self.score is SCORE and not any(stage.reads_scores for stage in spec.stages):
            # As the exponential is taken a factor costs nothing. Not 0, for masked scores are -inf.
            self.unscaled = code.maximum(self.factor, SMALLEST)
        self.softmax = OnlineSoftmax(self)

    def perform(self, pair: Value, share: Value) -> None:
        """The chunks of a range of queries; the last come first, for under a causal mask they are the longest."""
        size = self.argument("chunks_a_range")
        first = (self.argument("tasks") / self.argument("pairs") - 1 - share) * size
        stop = self.code.minimum(first + size, self.argument("chunks"))
        self.code.loop(first, stop, lambda chunk: self.attend(self.task(pair, chunk), self.sweep.through, self.finish))

    def attend(
        self,
        task: Task,
        through: Callable[[Task, Callable[[Block, Value], None]], None],
        finish: Callable[[Task], None],
    ) -> None:
        """The five lines, for some queries and keys.

        What is done to every score goes row by row, and between, for as many rows at a time as a vector has lanes, what
        is done once a row.

        Args:
            task: the queries.
            through: takes them through the keys, tile by tile where the mask's bounds let look.
            finish: what becomes of the rows when all these keys were seen.

        """
        softmax, stages, loop = self.softmax, self.spec.stages, self.code.loop
        self.start(task)

        def tile(block: Block, full: Value) -> None:  # query @ key.T is there
            def rows(masked: bool, first: Value, stop: Value) -> None:
                loop(first, stop, lambda row: softmax.scores(block, row, masked))  # score_mod, mask_mod
                softmax.maxima(block, first)
                loop(first, stop, lambda row: softmax.weights(block, row))  # and what stages add to their sums
                softmax.sums(block, first)
                for stage in stages:
                    stage.after(self, block, first)
                if softmax.drops_late:
                    loop(first, stop, lambda row: softmax.drop(block, row))

            self.masked_or_not(full, lambda masked: self.in_vectors(block, partial(rows, masked)))
            self.accumulate(block)  # output = output * correction + weights @ value

        through(task, tile)
        finish(task)

    def in_vectors(self, block: Block, rows: Callable[[Value, Value], None]) -> None:
        """Write `rows` for as many rows of the block at a time as a vector has lanes, from a first to a stop."""
        code = self.code
        code.loop(0, block.rows, lambda row: rows(row, code.minimum(row + self.lanes, block.rows)), step=self.lanes)

    def start(self, task: Task) -> None:
        """No key seen yet."""
        rows = tiles.rounded(task.rows, self.spec.block)
        tiles.zero_rows(self.code, self.spec, self.scratch["output"], self.code.i64(0), rows, self.spec.value_width)
        self.start_state(task)

    def start_state(self, task: Task) -> None:
        """What is kept of each row beside its output."""
        code, spec = self.code, self.spec
        rows = tiles.rounded(task.rows, spec.block)
        for name in spec.accumulators:
            initial = code.constant(self.number, -math.inf if name == "maximum" else 0.0)
            self.fill(self.scratch[name], rows, initial)
        for stage in spec.stages:
            stage.start(self, task, rows)

    def fill(self, target: Value, count: Value, value: Value) -> None:
        """The same value in `count` places, whole vectors."""
        vectors = self.code.spread(value, self.lanes)
        self.code.loop(0, count, lambda i: self.code.store(target, vectors, i), step=self.lanes)

    def beside_weights(self, block: Block) -> Beside | None:
        """Asks for what the functions read for the next rows, beside each panel of a row's weights."""
        fetch = self.sweep.fetching(block, cache=1)
        return fetch and (lambda row, rows, column, columns: fetch(row + self.lanes, rows, column, columns))

    def accumulate(self, block: Block) -> None:
        """output = output * correction + weights @ value, for the block."""
        output = self.code.at(self.scratch["output"], block.row * self.spec.value_width, self.number)
        self.products.weigh(block.rows, output, block.values, block.used)

    def finish(self, task: Task) -> None:
        """Divide each row by its total, the sink counted, and write it; a row with no key is 0."""
        code, spec = self.code, self.spec

        def row(i: Value) -> None:
            maximum = code.load(self.scratch["maximum"], self.number, i)
            total = code.load(self.scratch["total"], self.number, i)
            factor = code.spread(self.factor_of_output(self.head_of_row(task, i), maximum, total), self.lanes)
            empty = code.spread(total == 0.0, self.lanes)
            nothing = code.spread(self.nothing(self.head_of_row(task, i)), self.lanes)
            output = self.output_of_row(task, i)
            for start, length in tiles.columns(spec.value_dim, self.lanes):
                sums = code.load(self.scratch["output"], self.type, i * spec.value_width + start)
                numbers = code.select(empty, nothing, sums * factor)
                valid = tiles.first_lanes(code, self.lanes, length)
                tiles.store_numbers(code, spec, output, numbers, start, valid)

        code.loop(0, task.rows, row)
        self.finish_state(task)

    def finish_state(self, task: Task) -> None:
        """What the readouts are made of."""
        if self.spec.rows_out:
            self.code.loop(0, task.rows, lambda row: self._write_state(task, row))
        for stage in self.spec.stages:
            stage.finish(self, task)

    def output_of_row(self, task: Task, row: Value) -> Value:
        """Where a row's output begins."""
        return self.code.at(task.output, row * self.argument("output_row"), self.spec.output)

    def head_of_row(self, task: Task, row: Value) -> Value:
        """The query head that a row belongs to."""
        return task.h

    def place_of_row(self, task: Task, row: Value) -> Value:
        """The row's index in [batch, heads, q_len]."""
        return task.pair * self.q_len + task.first + row

    def factor_of_rows(self, head: Value, maximum: Value, total: Value) -> Value:
        """What the sums of a row, or of one in each lane, are multiplied by."""
        code = self.code
        if not self.spec.sinks:
            return 1.0 / total
        sink = self.sink(head)
        largest = code.maximum(maximum, sink)
        largest = code.select(largest == -math.inf, 0.0, largest)
        share = self.power(maximum - largest)
        return share / (total * share + self.power(sink - largest))

    def factor_of_output(self, head: Value, maximum: Value, total: Value) -> Value:
        """What the sums of a row's values, or of one in each lane, are multiplied by."""
        factor = self.factor_of_rows(head, maximum, total)
        return factor if self.dropout is None else factor * self.dropout.scale()

    def nothing(self, head: Value) -> Value:
        """What a row with no key comes to: 0, or NaN beside a sink that is NaN or +inf."""
        zero = self.code.constant(self.number, 0.0)
        if not self.spec.sinks:
            return zero
        sink = self.sink(head)
        return self.code.select(sink == -math.inf, zero, sink - sink)

    def sink(self, head: Value) -> Value:
        """A head's sink, counted as scores are; one beyond all scores stays finite."""
        natural = self.code.load(self.pointer("sinks"), self.number, head)
        finite = self.code.minimum(HIGHEST[self.spec.size], natural * (1.0 / self.unit))
        return self.code.select(natural < math.inf, finite, natural)

    def _write_state(self, task: Task, row: Value) -> None:
        """The row's state for the readouts to finish, scores natural again; one array after another."""
        code = self.code
        place, rows = self.place_of_row(task, row), self.argument("state_rows")
        maximum, total = (code.load(self.scratch[name], self.number, row) for name in ("maximum", "total"))
        shift = code.select(maximum == -math.inf, 0.0, maximum)
        nan = (total != total) & (maximum < math.inf)  # which no maximum was larger than
        found = [code.select(nan, math.nan, maximum * self.unit)]
        for name, stage in self.softmax.kept:
            value = code.load(self.scratch[name], self.number, row)
            found.append(value if stage is None else stage.natural(self, value))
        for i, value in enumerate(found):
            code.store(self.pointer("state"), value, rows * i + place)

        for stage in self.spec.stages:
            stage.write(self, row, place, shift, total)
