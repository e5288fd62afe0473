"""The forward kernel: softmax attention of a chunk of queries, with the row readouts as stages of the same pass."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.kernel import Block, Kernel, Task
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import I32, Code, Value
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.tiles import Beside
from pellucid.engines.cpu.stages.stage import LOWEST, Stage, Vector
from pellucid.language import SCORE

# From here on, in powers of two, neighbouring numbers of float32 are 32 apart and more: no two of them both get weight.
FAR = 2.0**29
HIGHEST = {4: (2.0 - 2.0**-23) * 2.0**127, 8: sys.float_info.max}  # finite number, by its bytes
SMALLEST = 2.0**-126  # normal number of float32
EXPONENT = 0x7F800000  # the bits of a float32 that say which power of two is next below


class Forward(Kernel):
    """Scores, the user's functions, softmax, weighted sum: the five lines, tile by tile."""

    def __init__(self, code: Code, spec: Spec, program: Program) -> None:
        super().__init__(code, spec, program)
        if self.factor is not None and self.score is SCORE and not any(stage.reads_scores for stage in spec.stages):
            # As the exponential is taken a factor costs nothing. Not 0, for masked scores are -inf.
            self.unscaled = code.maximum(self.factor, SMALLEST)

    @property
    def sums(self) -> list[tuple[str, Stage | None]]:
        """The sums over a row's keys that are kept, and whose each is: the softmax's own first."""
        return [("total", None), *((name, stage) for stage in self.spec.stages for name in stage.sums)]

    def perform(self, pair: Value, part: Value) -> None:
        """The chunks of a range of queries; the last come first, for under a causal mask they are the longest."""
        size = self.argument("chunks_a_range")
        first = (self.argument("tasks") / self.argument("pairs") - 1 - part) * size
        stop = self.code.minimum(first + size, self.argument("chunks"))
        self.code.loop(first, stop, lambda chunk: self.over_chunk(self.task(pair, chunk)))

    def over_chunk(self, task: Task) -> None:
        """A chunk of queries."""
        self.start(task)
        self.over_keys(task)
        self.finish(task)

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

    def tile(self, block: Block, full: Value) -> None:
        """Softmax of the tile's scores, then the weighted sum of its values."""
        self.masked_or_not(full, lambda masked: self.softmax(block, masked=masked))
        self.accumulate(block)

    def softmax(self, block: Block, *, masked: bool) -> None:
        """Turn the tile's scores into exp(score - maximum), and merge each row's state with the tile's.

        Row by row for what is done to every score, and between, for as many rows at a time as a vector has lanes, what
        is done once a row.
        """
        code = self.code

        def some(row: Value) -> None:
            stop = code.minimum(row + self.lanes, block.rows)
            code.loop(row, stop, lambda own: self.row_scores(block, own, masked))
            self.merge_maxima(block, row)
            code.loop(row, stop, lambda own: self.row_weights(block, own))
            self.merge_sums(block, row)
            for stage in self.spec.stages:
                stage.after(self, block, row)

        code.loop(0, block.rows, some, step=self.lanes)

    def row_scores(self, block: Block, row: Value, masked: bool) -> None:
        """Apply score_mod and mask_mod to a row of the tile; keep its largest scores, lane by lane."""
        code, scores = self.code, self.row_of_tile(row)
        functions = self.of_row(block, row)

        def panel(j: Value, *maxima: Value) -> list[Value]:
            result = []
            for v, maximum in enumerate(maxima):
                place = j + v * self.lanes
                raw = code.load(scores, self.type, place)
                score = self.modified(functions, raw, block, place, masked)
                if score is not raw:
                    code.store(scores, score, place)
                result.append(code.maximum(score, maximum))
            return result

        lowest = [code.constant(self.type, -math.inf)] * self.spec.vectors
        maxima = code.loop(0, block.count, panel, lowest, step=self.panel)
        self._keep_partial(0, row, _pairwise(code.maximum, maxima))

    def merge_maxima(self, block: Block, row: Value) -> None:
        """The largest scores so far of some rows, and what their sums so far must be multiplied by."""
        code, state, of_chunk = self.code, self.scratch, block.row + row
        maximum, factor = self._maxima(row), self.unscaled
        scaled = maximum if factor is None else maximum * code.spread(factor, self.lanes)
        before = code.load(state["maximum"], self.type, of_chunk)
        after = code.maximum(before, scaled)
        shift = code.select(after == -math.inf, 0.0, after)
        code.store(state["maximum"], after, of_chunk)
        code.store(state["correction"], self.power(before - shift), row)
        if any(stage.relative for stage in self.spec.stages):
            code.store(state["drift"], drift(code, before, shift), row)
        if factor is not None:
            shift = self._keep_factors(row, factor, maximum, shift)
        code.store(state["shift"], shift, row)

    def _keep_factors(self, row: Value, factor: Value, maximum: Value, shift: Value) -> Value:
        """Keep what the unscaled scores of some rows are multiplied by; give what their products are less.

        A product's difference from the shift is rounded once. How far the shift was rounded is the same for all keys
        of a row, and counts in its total; but from FAR on no power of two may hold it. There the factor is cut down to
        a power of two, whose products are exact: the largest score's difference is 0, all others' are far below.
        """
        code, every = self.code, self.code.spread(factor, self.lanes)
        power = code.spread((factor.bits(I32) & EXPONENT).bits(self.number), self.lanes)
        far = code.unary("fabs", shift) >= FAR
        code.store(self.scratch["factor"], code.select(far, power, every), row)
        held = code.select(maximum * every == shift, maximum * power, math.inf)  # by a tile before, if not by this one
        return code.select(far, held, shift)

    def _maxima(self, row: Value) -> Value:
        """The largest scores of the tile of some rows, one row in each lane."""
        partials = self._partials(0, row)
        for stage in self.spec.stages:
            found = stage.maxima(self, partials, row)
            if found is not None:
                return found
        return tiles.across_rows(self.code, partials, self.code.maximum)

    def row_weights(self, block: Block, row: Value) -> None:
        """Store a row's weights; keep the sums of them and of what each readout adds, lane by lane."""
        code, scores = self.code, self.row_of_tile(row)
        functions = self.of_row(block, row)
        for stage in self.spec.stages:
            stage.before(self, block, row)
        shift = code.spread(code.load(self.scratch["shift"], self.number, row), self.lanes)
        factor = self._factor_of_row(row)
        vectors, extra = self.spec.vectors, len(self.spec.accumulators) - 2
        beside = self.beside_weights(block)
        reads_weights = any(stage.reads_weights for stage in self.spec.stages)

        def panel(j: Value, *sums: Value) -> list[Value]:
            if beside is not None:
                beside(row, 1, j, self.panel)
            result, weights = list(sums), []
            for v in range(vectors):
                place = j + v * self.lanes
                score = code.load(scores, self.type, place)
                distance = score - shift if factor is None else code.fma(score, factor, -shift)
                weight = self.power(distance) if factor is None else self.power_of_two(distance)
                weights.append(weight)
                total, *terms = self.terms(functions, weight, distance, block, place)
                result[v] = total(result[v])  # in the same order whatever is read, so that the output is the same
                for i, term in enumerate(terms, vectors):
                    result[i] = term(result[i])  # one sum for each, as there are registers for
            self.products.store_weights(row, weights, j)
            if reads_weights and self.spec.pairs:  # which keeps them elsewhere, and rounded
                for v, weight in enumerate(weights):
                    code.store(scores, weight, j + v * self.lanes)
            return result

        start = [code.constant(self.type, 0.0)] * (vectors + extra)
        sums = code.loop(0, block.count, panel, start, step=self.panel)
        self._keep_partial(0, row, _pairwise(Value.__add__, sums[:vectors]))
        for i, sum_ in enumerate(sums[vectors:], 1):
            self._keep_partial(i, row, sum_)

    def beside_weights(self, block: Block) -> Beside | None:
        """Asks for what the functions read for the next rows, beside each panel of a row's weights."""
        fetch = self.fetching(block, cache=1)
        return fetch and (lambda row, rows, column, columns: fetch(row + self.lanes, rows, column, columns))

    def _factor_of_row(self, row: Value) -> Value | None:
        """What makes unscaled scores powers of two, multiplied in with the difference; None if they are already."""
        if self.unscaled is None:
            return None
        return self.code.spread(self.code.load(self.scratch["factor"], self.number, row), self.lanes)

    def merge_sums(self, block: Block, row: Value) -> None:
        """Add the tile's sums of some rows to their sums so far."""
        code, state, of_chunk = self.code, self.scratch, block.row + row
        correction = code.load(state["correction"], self.type, row)
        total = code.load(state["total"], self.type, of_chunk)

        def drift() -> Value:
            return code.load(state["drift"], self.type, row)

        for i, (name, stage) in enumerate(self.sums):
            own = code.load(state[name], self.type, of_chunk)
            factor = correction
            if stage is not None:
                own = stage.moved(self, own, total, drift)
                factor = stage.factor(self, correction, drift)
            tile_sum = tiles.across_rows(code, self._partials(i, row), Value.__add__)
            code.store(state[name], code.fma(own, factor, tile_sum), of_chunk)

    def _keep_partial(self, number: int, row: Value, lanes: Value) -> None:
        """Keep what a row of the tile came to in each lane; the lanes are combined for many rows at once."""
        self.code.store(self.scratch["partials"], lanes, (row + number * self.spec.block) * self.lanes)

    def _partials(self, number: int, row: Value) -> list[Value]:
        """What as many rows as a vector has lanes came to."""
        first = row + number * self.spec.block
        return [
            self.code.load(self.scratch["partials"], self.type, (first + i) * self.lanes) for i in range(self.lanes)
        ]

    def terms(
        self, functions: Values, weight: Value, distance: Value, block: Block, place: Value
    ) -> list[Callable[[Value], Value]]:
        """What a vector of weights adds to each running sum of a row, in the order of `Spec.accumulators`.

        Args:
            functions: the user's, with b, h and q known.
            weight: a vector of exp(score - maximum), 0 where masked.
            distance: what it is the exponential of, counted in `unit`.
            block: the queries and keys of the tile.
            place: the vector's first key, counted from the tile's: a 64-bit integer of the kernel.

        Returns:
            Functions of a vector, a running sum lane by lane, each giving the sum with its term added.

        """
        vector = Vector(self, functions, weight, distance, block, place)
        own = [term for stage in self.spec.stages for term in stage.terms(vector)]
        return [lambda total: total + weight, *own]

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
            factor = code.spread(self.factor_of_rows(self.head_of_row(task, i), maximum, total), self.lanes)
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
        for name, stage in self.sums:
            value = code.load(self.scratch[name], self.number, row)
            found.append(value if stage is None else stage.natural(self, value))
        for i, value in enumerate(found):
            code.store(self.pointer("state"), value, rows * i + place)

        for stage in self.spec.stages:
            stage.write(self, row, place, shift, total)


def drift(code: Code, before: Value, after: Value) -> Value:
    """How far a maximum has moved, to be multiplied by a total; 0 where there was none."""
    moved = before - after
    return code.select(before == -math.inf, 0.0, code.select(moved < LOWEST, LOWEST, moved))


def _pairwise(combine: Callable[[Value, Value], Value], values: list[Value]) -> Value:
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [combine(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]
