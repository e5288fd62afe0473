"""The forward kernel: softmax attention of a chunk of queries, with the row readouts as stages of the same pass."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial

from pellucid.engines.cpu.expression.program import Program, always_finite, condition_of
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.kernel import Block, Kernel, Task
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.machine.builder import I32, I64, Code, Value, vector
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.tiles import Beside
from pellucid.engines.cpu.stages.pooled import Pooling
from pellucid.language import SCORE

LOWEST = -1e30  # stands for -inf where it is multiplied by a weight of 0
# From here on, in powers of two, neighbouring numbers of float32 are 32 apart and more: no two of them both get weight.
FAR = 2.0**29
HIGHEST = {4: (2.0 - 2.0**-23) * 2.0**127, 8: sys.float_info.max}  # finite number, by its bytes
SMALLEST = 2.0**-126  # normal number of float32
EXPONENT = 0x7F800000  # the bits of a float32 that say which power of two is next below


class Forward(Kernel):
    """Scores, the user's functions, softmax, weighted sum: the five lines, tile by tile."""

    def __init__(self, code: Code, spec: Spec, program: Program) -> None:
        super().__init__(code, spec, program)
        if self.factor is not None and self.score is SCORE and not spec.topk:
            # As the exponential is taken a factor costs nothing. Not 0, for masked scores are -inf.
            self.unscaled = code.maximum(self.factor, SMALLEST)

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

    @cached_property
    def pooling(self) -> Pooling:
        """The stage of the pooled readouts."""
        return Pooling(self)

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
            self._fill(self.scratch[name], rows, initial)
        if spec.topk:
            self._fill(self.scratch["top_scores"], rows * spec.top_width, code.constant(self.number, -math.inf))
            self._fill(self.scratch["top_keys"], rows * spec.top_width, code.constant(I32, -1))
        if spec.pools:
            self.pooling.start(task)

    def _fill(self, target: Value, count: Value, value: Value) -> None:
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
            if self.spec.pools:
                self.pooling.add(block, row)

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
        if self.spec.entropy:  # its terms are relative to the maximum, which has moved
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
        code, k = self.code, self.spec.topk
        if not 0 < k <= self.lanes:
            return tiles.across_rows(code, self._partials(0, row), code.maximum)
        largest = tiles.descending(code, tiles.transposed(code, self._partials(0, row)))
        code.store(self.scratch["kth"], largest[k - 1], row)  # the k-th of all is no less
        return largest[0]

    def row_weights(self, block: Block, row: Value) -> None:
        """Store a row's weights; keep the sums of them and of what each readout adds, lane by lane."""
        code, scores = self.code, self.row_of_tile(row)
        functions = self.of_row(block, row)
        if self.spec.topk:
            self.keep_largest(block, row)
        shift = code.spread(code.load(self.scratch["shift"], self.number, row), self.lanes)
        factor = self._factor_of_row(row)
        vectors, extra = self.spec.vectors, len(self.spec.accumulators) - 2
        beside = self.beside_weights(block)

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
            if self.spec.pools and self.spec.pairs:  # which keeps them elsewhere, and rounded
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
        for i, name in enumerate(self.spec.accumulators[1:]):
            own = code.load(state[name], self.type, of_chunk)
            if name == "entropy":
                own = own + total * code.load(state["drift"], self.type, row)
            tile_sum = tiles.across_rows(code, self._partials(i, row), Value.__add__)
            code.store(state[name], code.fma(own, correction, tile_sum), of_chunk)

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
        code = self.code
        terms: list[Callable[[Value], Value]] = [lambda total: total + weight]
        if self.spec.entropy:
            finite = code.select(distance < LOWEST, LOWEST, distance)
            terms.append(lambda total: code.fma(weight, finite, total))
        if self.expects:
            functions, exists = functions.bind("k", self.keys(block, place)), self.exists(block, place)
        for expect in self.expects:
            condition = condition_of(expect)
            if condition is not None:
                holds = code.spread(functions.value(condition, exists), self.lanes)
                terms.append(partial(self._add_where, holds, weight))
                continue
            value = code.spread(functions.value(expect, exists), self.lanes)
            if not always_finite(expect):  # at a masked key
                value = code.select(weight == 0.0, 0.0, value)
            terms.append(partial(code.fma, weight, value))
        return terms

    def _add_where(self, condition: Value, weight: Value, total: Value) -> Value:
        return self.code.select(condition, total + weight, total)

    def keep_largest(self, block: Block, row: Value) -> None:
        """Let the row's scores into its sorted list of the largest; among equals the lower key stays first."""
        code, scores = self.code, self.row_of_tile(row)
        first = (block.row + row) * self.spec.top_width
        listed = self.listed(first)
        words = self._candidates(block, row, self._threshold(listed[: len(listed) // 2]))

        def candidate(_: Value, *carried: Value) -> list[Value]:
            place, rest = _lowest_bit(code, carried[: len(words)])
            score, key = code.load(scores, self.number, place), (block.key + place).to(I32)
            return [*rest, *self.inserted(carried[len(words) :], score, key)]

        count = sum((code.count_bits(word) for word in words[1:]), code.count_bits(words[0]))
        # One loop over all of them, for a processor guesses wrongly where each loop ends.
        self.keep_listed(first, code.loop(0, count, candidate, [*words, *listed])[len(words) :])

    def listed(self, first: Value) -> list[Value]:
        """A row's list of the largest scores, and then their keys; `first` is its place."""
        code, places = self.code, range(0, self.spec.top_width, self.lanes)
        scores = [code.load(self.scratch["top_scores"], self.type, first + place) for place in places]
        return scores + [
            code.load(self.scratch["top_keys"], vector(I32, self.lanes), first + place) for place in places
        ]

    def keep_listed(self, first: Value, listed: Sequence[Value]) -> None:
        """Put a row's list back."""
        half = len(listed) // 2
        for i, (scores, keys) in enumerate(zip(listed[:half], listed[half:], strict=True)):
            self.code.store(self.scratch["top_scores"], scores, first + i * self.lanes)
            self.code.store(self.scratch["top_keys"], keys, first + i * self.lanes)

    def _candidates(self, block: Block, row: Value, last: Value) -> list[Value]:
        """The keys that may be among the row's largest, a bit for each: those larger than the last of the list."""
        code, scores, words = self.code, self.row_of_tile(row), self.scratch["candidates"]
        least = self._least(row)
        for word in range(KEYS // 64):
            code.store(words, code.i64(0), word)

        def panel(j: Value) -> None:
            bits = code.load(words, I64, j >> 6)
            for v in range(self.spec.vectors):
                some = code.load(scores, self.type, j + v * self.lanes)
                larger = some > last if least is None else (some > last) & (some >= least)
                bits = bits | (code.bitmask(larger) << ((j & 63) + v * self.lanes))
            code.store(words, bits, j >> 6)

        code.loop(0, block.count, panel, step=self.panel)
        return [code.load(words, I64, word) for word in range(KEYS // 64)]

    def _least(self, row: Value) -> Value | None:
        """What a score must be at least to be among the row's largest in the tile, in every lane, if it is known."""
        if self.spec.topk > self.lanes:
            return None
        return self.code.spread(self.code.load(self.scratch["kth"], self.number, row), self.lanes)

    def _threshold(self, listed: Sequence[Value]) -> Value:
        """What a score must be larger than to be among the largest: the last of them, in every lane."""
        last, lane = listed[(self.spec.topk - 1) // self.lanes], (self.spec.topk - 1) % self.lanes
        return self.code.shuffle(last, last, [lane] * self.lanes) if self.lanes > 1 else last

    def inserted(self, listed: Sequence[Value], score: Value, key: Value) -> list[Value]:
        """The sorted list, scores and then their keys, with one more before the first that is smaller."""
        code, lanes, half = self.code, self.lanes, len(listed) // 2
        scores, keys = listed[:half], listed[half:]
        moved = range(lanes - 1, 2 * lanes - 1)  # every lane's left neighbour
        left, left_key = code.constant(self.type, math.inf), keys[0]
        result = []
        for own, its_key in zip(scores, keys, strict=True):
            before, key_before = code.shuffle(left, own, moved), code.shuffle(left_key, its_key, moved)
            after = score > own  # places from the new one's on
            beyond = score > before
            result.append(
                (
                    code.select(after, code.select(beyond, before, score), own),
                    code.select(after, code.select(beyond, key_before, key), its_key),
                )
            )
            left, left_key = own, its_key
        return [one for one, _ in result] + [one for _, one in result]

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
        if self.spec.pools:
            self.pooling.finish(task)

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
        for i, name in enumerate(self.spec.accumulators):
            value = code.load(self.scratch[name], self.number, row)
            value = value * self.unit if name in ("maximum", "entropy") else value
            if name == "maximum":  # which no NaN was larger than
                value = code.select((total != total) & (maximum < math.inf), math.nan, value)
            code.store(self.pointer("state"), value, rows * i + place)

        def top(i: Value) -> None:
            score = code.load(self.scratch["top_scores"], self.number, row * self.spec.top_width + i)
            key = code.load(self.scratch["top_keys"], I32, row * self.spec.top_width + i)
            key = code.select(total == total, key, -1)
            code.store(self.pointer("top_scores"), (score - shift) * self.unit, place * self.spec.topk + i)
            code.store(self.pointer("top_keys"), key.to(I64), place * self.spec.topk + i)

        if self.spec.topk:
            code.loop(0, self.spec.topk, top)


def drift(code: Code, before: Value, after: Value) -> Value:
    """How far a maximum has moved, to be multiplied by a total; 0 where there was none."""
    moved = before - after
    return code.select(before == -math.inf, 0.0, code.select(moved < LOWEST, LOWEST, moved))


def _pairwise(combine: Callable[[Value, Value], Value], values: list[Value]) -> Value:
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [combine(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]


def _lowest_bit(code: Code, words: Sequence[Value]) -> tuple[Value, list[Value]]:
    """The place of the lowest bit that is set in some words, and the words without it."""
    word, first = words[-1], code.i64(len(words) - 1)
    for i in reversed(range(len(words) - 1)):
        found = words[i] != 0
        word, first = code.select(found, words[i], word), code.select(found, code.i64(i), first)
    rest = word & (word - 1)
    return first * 64 + code.lowest_bit(word), [code.select(first == i, rest, own) for i, own in enumerate(words)]
