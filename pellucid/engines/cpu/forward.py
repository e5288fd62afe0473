"""The forward kernel: attention over tiles of queries x keys that stay in the core's cache, with readouts on the way.

A task is a chunk of the queries of one head. Its keys are packed a few tiles at a time, into panels that the register
tiles read in order; blocks of 48 queries then go through each tile of 256 keys: scores, the user's functions, softmax,
weighted sum of the values. Scores are kept in base 2 (times log2 e), so that the exponential is a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llvmlite import ir

from pellucid.engines.cpu import tiles, vectormath
from pellucid.engines.cpu.builder import I32, I64, POINTER, Code, Value, vector
from pellucid.engines.cpu.layout import CHUNK, FIXED, KEYS, ROWS, SLOT, Spec
from pellucid.engines.cpu.program import Bounds, Numbers, Program, SlotArguments, Span, Values
from pellucid.language import SCORE, TRUE

NAME = "forward"
LOG2E, LN2 = math.log2(math.e), math.log(2)
LOWEST = -1e30  # stands for -inf where it is multiplied by a weight of 0


def emit(module: ir.Module, spec: Spec, program: Program) -> None:
    """Write the kernel `void forward(int64 begin, int64 end, int64 *arguments)` into a module."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, POINTER]), NAME)
    code = Code(function)
    worker, _, arguments = code.arguments
    kernel = Forward(code, spec, program, arguments, worker)
    kernel.run()
    code.ir.ret_void()


@dataclass
class Task:
    """A chunk of the queries of one head: which it is, and where its tensors begin."""

    b: Value
    h: Value
    first: Value  # the chunk's first query
    rows: Value  # how many
    query: Value
    key: Value
    value: Value
    output: Value
    row_index: Value  # of its first query in [batch, heads, q_len]


class Forward:
    """The kernel being written. Methods appear in the order in which they run."""

    def __init__(self, code: Code, spec: Spec, program: Program, arguments: Value, worker: Value) -> None:
        self.code, self.spec, self.program, self.arguments = code, spec, program, arguments
        self.number, self.lanes, self.panel = spec.number, spec.lanes, spec.panel
        self.type = vector(spec.number, spec.lanes)
        self.q_len, self.k_len = self.argument("q_len"), self.argument("k_len")
        memory = self.argument("scratch") + worker * self.argument("scratch_size")
        base = Value(code, code.ir.inttoptr(memory.raw, POINTER))
        self.scratch = {name: code.at(base, place) for name, place in spec.scratch.items() if name != "end"}
        numbers = Numbers(ir.IntType(spec.integer_bits), spec.number)
        slots = {slot.number: self._slot(slot) for slot in program.slots.values()}
        self.values = Values(code, program, numbers, slots)
        self.score, self.mask = program.roots["score"], program.roots["mask"]

    def argument(self, name: str) -> Value:
        """One of the call's arguments."""
        return self.code.load(self.arguments, I64, FIXED[name], align=8)

    def pointer(self, name: str) -> Value:
        """An argument that is an address."""
        return Value(self.code, self.code.ir.inttoptr(self.argument(name).raw, POINTER))

    def _slot(self, slot: object) -> SlotArguments:
        code, first = self.code, len(FIXED) + slot.number * SLOT

        def at(place: int) -> Value:
            return code.load(self.arguments, I64, first + place, align=8)

        def pointer(place: int) -> Value:
            return Value(code, code.ir.inttoptr(at(place).raw, POINTER))

        sizes, strides = ([at(start + i) for i in range(slot.ndim)] for start in (2, 6))
        return SlotArguments(pointer(0), sizes, strides, pointer(1) if slot.table else None)

    # The tasks, taken by each thread from a common counter.

    def run(self) -> None:
        """Take tasks until there are none."""
        code, emit = self.code, self.code.ir
        head, body, done = (code.function.append_basic_block(name) for name in ("take", "task", "end"))
        emit.branch(head)
        emit.position_at_end(head)
        number = Value(code, emit.atomic_rmw("add", self.arguments.raw, ir.Constant(I64, 1), "monotonic"))
        emit.cbranch((number < self.argument("tasks")).raw, body, done)
        emit.position_at_end(body)
        self.attend(self.task(number))
        emit.branch(head)
        emit.position_at_end(done)

    def task(self, number: Value) -> Task:
        """The number-th task: late chunks first, which under a causal mask are the longest."""
        code = self.code
        heads, chunk, chunks = self.argument("heads"), self.argument("chunk"), self.argument("chunks")
        per_chunk = self.argument("tasks") / chunks
        place = number / per_chunk
        pair = number - place * per_chunk
        first = (chunks - 1 - place) * chunk
        b, h = pair / heads, pair - (pair / heads) * heads
        rows = code.minimum(chunk, self.q_len - first)
        inner = self.argument("inner_batch")
        outer, inside = b / inner, b - (b / inner) * inner

        def head_of(tensor: str, head: Value) -> Value:
            batch = outer * self.argument(f"{tensor}_batch") + inside * self.argument(f"{tensor}_inner")
            offset = batch + head * self.argument(f"{tensor}_head")
            return code.at(self.pointer(tensor), offset, self.spec.storage)

        query = code.at(head_of("query", h), first * self.argument("query_row"), self.spec.storage)
        output = code.at(head_of("output", h), first * self.argument("output_row"), self.spec.storage)
        key = head_of("key", h / self.argument("key_group"))
        value = head_of("value", h / self.argument("value_group"))
        return Task(b, h, first, rows, query, key, value, output, (b * heads + h) * self.q_len + first)

    def attend(self, task: Task) -> None:
        """Softmax attention of one chunk of queries over all keys."""
        self.start(task)
        values = self.values.bind("b", self._index(task.b)).bind("h", self._index(task.h))
        values.prepare(self.score, self.mask, *self._expects())
        self.code.loop(0, self.k_len, lambda key: self.over_packed_keys(task, values, key), step=self.spec.packed_keys)
        self.finish(task)

    def start(self, task: Task) -> None:
        """No key seen yet."""
        code, spec = self.code, self.spec
        rows = -(-CHUNK // ROWS) * ROWS
        stop = code.minimum(((task.rows + (ROWS - 1)) / ROWS) * ROWS, rows)
        tiles.zero_rows(code, spec, self.scratch["output"], code.i64(0), stop, spec.value_width)
        for name in spec.accumulators:
            initial = code.constant(self.number, -math.inf if name == "maximum" else 0.0)
            code.loop(0, stop, lambda row, name=name, initial=initial: code.store(self.scratch[name], initial, row))

    # A few tiles of keys, packed.

    def over_packed_keys(self, task: Task, values: Values, first_key: Value) -> None:
        """Pack the tiles of keys that this chunk may look at, and take its queries through them."""
        code, stop = self.code, self.code.minimum(first_key + self.spec.packed_keys, self.k_len)
        allowed = self.bounds(task, task.first, task.rows, first_key, stop)
        with code.when(allowed.high):
            code.loop(first_key, stop, lambda key: self.pack_tile(task, first_key, key), step=KEYS)
            code.loop(0, task.rows, lambda row: self.query_block(task, values, first_key, stop, row), step=ROWS)

    def pack_tile(self, task: Task, first_key: Value, key: Value) -> None:
        """Pack one tile's keys and values, if any query of the chunk may look at it."""
        code, spec = self.code, self.spec
        count = code.minimum(self.k_len - key, KEYS)
        allowed = self.bounds(task, task.first, task.rows, key, key + count)
        with code.when(allowed.high):
            keys, stride = self.packed("keys", first_key, key), self.argument("key_row")
            tiles.pack_keys(code, spec, code.at(task.key, key * stride, spec.storage), stride, count, keys)
            values, stride = self.packed("values", first_key, key), self.argument("value_row")
            source = code.at(task.value, key * stride, spec.storage)
            tiles.pack_rows(code, spec, source, stride, spec.value_dim, count, values, spec.value_width)
            even = ((count + (tiles.UNROLL - 1)) / tiles.UNROLL) * tiles.UNROLL
            tiles.zero_rows(code, spec, values, count, even, spec.value_width)

    def packed(self, name: str, first_key: Value, key: Value) -> Value:
        """Where a tile's packed keys or values begin."""
        width = self.spec.head_dim if name == "keys" else self.spec.value_width
        return self.code.at(self.scratch[name], (key - first_key) * width, self.number)

    def bounds(self, task: Task, first_query: Value, rows: Value, key: Value, stop: Value) -> Span:
        """Whether keys may be, and are all, allowed for these queries."""
        places = {
            "b": Span(task.b, task.b),
            "h": Span(task.h, task.h),
            "q": Span(first_query, first_query + rows - 1),
            "k": Span(key, stop - 1),
        }
        return Bounds(self.code, self.program, self.values.arguments, places).of(self.mask)

    # A block of queries.

    def query_block(self, task: Task, values: Values, first_key: Value, stop: Value, row: Value) -> None:
        """Take a block of queries through the packed tiles."""
        code, spec = self.code, self.spec
        rows = code.minimum(task.rows - row, ROWS)
        stride = self.argument("query_row")
        scale = self.argument("scale").bits(ir.DoubleType()).to(self.number)
        if self.score is SCORE:
            scale = scale * LOG2E
        source = code.at(task.query, row * stride, spec.storage)
        scale = code.spread(scale, self.lanes)
        tiles.pack_rows(code, spec, source, stride, spec.head_dim, rows, self.scratch["queries"], spec.head_dim, scale)
        tiles.zero_rows(code, spec, self.scratch["queries"], rows, code.i64(ROWS), spec.head_dim)

        def tile(key: Value) -> None:
            count = code.minimum(stop - key, KEYS)
            allowed = self.bounds(task, task.first + row, rows, key, key + count)
            with code.when(allowed.high):
                self.tile(task, values, row, rows, first_key, key, count, allowed.low)

        code.loop(first_key, stop, tile, step=KEYS)

    def tile(
        self, task: Task, values: Values, row: Value, rows: Value, first_key: Value, key: Value, count: Value, full: Value
    ) -> None:
        """The five lines: scores, the user's functions, softmax, weighted sum."""
        code = self.code
        self.scores(rows, self.packed("keys", first_key, key), count)
        full &= (count - (count / self.panel) * self.panel) == 0
        with code.either(full) as (all_allowed, mixed):
            with all_allowed:
                self.softmax(task, values, row, rows, key, count, masked=False)
            with mixed:
                self.softmax(task, values, row, rows, key, count, masked=True)
        self.accumulate(row, rows, self.packed("values", first_key, key), count)

    def scores(self, rows: Value, keys: Value, count: Value) -> None:
        """query @ key.T of the block, into the tile."""
        code, spec = self.code, self.spec
        height = spec.target.tile_rows(spec.vectors)
        zero = code.constant(self.type, 0.0)
        unroll = tiles.UNROLL if spec.head_dim % tiles.UNROLL == 0 else 1

        def panel(p: Value) -> None:
            right = code.at(keys, p * (self.panel * spec.head_dim), self.number)

            def block(row: Value) -> None:
                left = code.at(self.scratch["queries"], row * spec.head_dim, self.number)
                start = [[zero] * spec.vectors for _ in range(height)]
                sums = tiles.product(
                    code, self.type, start, spec.head_dim, left, spec.head_dim, right, self.panel, unroll
                )
                for i, parts in enumerate(sums):
                    for v, part in enumerate(parts):
                        offset = (row + i) * spec.tile_stride + p * self.panel + v * self.lanes
                        code.store(self.scratch["tile"], part, offset)

            code.loop(0, rows, block, step=height)

        code.loop(0, (count + (self.panel - 1)) / self.panel, panel)

    # Softmax of the tile's rows, where the user's functions and the readouts are.

    def softmax(
        self, task: Task, values: Values, row: Value, rows: Value, key: Value, count: Value, *, masked: bool
    ) -> None:
        """Turn the tile's scores into exp(score - maximum), and update each row's state."""
        code = self.code

        def one_row(i: Value) -> None:
            scores = code.at(self.scratch["tile"], i * self.spec.tile_stride, self.number)
            of_row = values.bind("q", self._index(task.first + row + i))
            of_row.prepare(self.score, self.mask, *self._expects())
            maximum = self.row_scores(of_row, scores, key, count, masked)
            self.row_weights(of_row, scores, row + i, i, key, count, maximum)

        code.loop(0, rows, one_row)

    def row_scores(self, values: Values, scores: Value, key: Value, count: Value, masked: bool) -> Value:
        """Apply score_mod and mask_mod to a row of the tile; give the row's largest score."""
        code, lowest = self.code, self.code.constant(self.type, -math.inf)
        changed = masked or self.score is not SCORE

        def panel(j: Value, *maxima: Value) -> list[Value]:
            result = []
            for v, maximum in enumerate(maxima):
                place = j + v * self.lanes
                score = code.load(scores, self.type, place)
                if changed:
                    score = self.modified(values, score, key, place, count, masked)
                    code.store(scores, score, place)
                result.append(code.maximum(score, maximum))
            return result

        maxima = code.loop(0, count, panel, [lowest] * self.spec.vectors, step=self.panel)
        while len(maxima) > 1:
            maxima = [code.maximum(*maxima[i : i + 2]) if i + 1 < len(maxima) else maxima[i] for i in range(0, len(maxima), 2)]
        return code.reduce("max", maxima[0])

    def modified(
        self, values: Values, score: Value, key: Value, place: Value, count: Value, masked: bool
    ) -> Value:
        """A vector of scores after score_mod, in base 2, -inf where masked."""
        code = self.code
        integer = self.values.numbers.integer
        exists = code.spread((count - place).to(I32), self.lanes) > code.ramp(I32, self.lanes) if masked else None
        keys = code.spread((key + place).to(integer), self.lanes) + code.ramp(integer, self.lanes)
        lane_values = values.bind("k", keys).bind("score", score)
        if self.score is not SCORE:
            changed = lane_values.value(self.score, exists)
            score = code.spread(changed, self.lanes) * LOG2E
        if exists is None:
            return score
        allowed = exists
        if self.mask is not TRUE:
            allowed = allowed & code.spread(lane_values.value(self.mask, exists), self.lanes)
        return code.select(allowed, score, -math.inf)

    def row_weights(
        self, values: Values, scores: Value, row: Value, block_row: Value, key: Value, count: Value, maximum: Value
    ) -> None:
        """Turn a row of scores into exp(score - maximum), and merge the row's state with the tile's."""
        code, state = self.code, self.scratch
        before = code.load(state["maximum"], self.number, row)
        after = code.maximum(before, maximum)
        shift = code.select(after == -math.inf, 0.0, after)
        correction = vectormath.exp2(code, before - shift)
        spread_shift = code.spread(shift, self.lanes)
        expects = self._expects()
        width = 1 + self.spec.entropy + len(expects)

        def panel(j: Value, *sums: Value) -> list[Value]:
            result = list(sums)
            for v in range(self.spec.vectors):
                place = j + v * self.lanes
                score = code.load(scores, self.type, place)
                distance = score - spread_shift
                weight = vectormath.exp2(code, distance)
                code.store(scores, weight, place)
                for i, term in enumerate(self.terms(values, weight, distance, key, place, count)):
                    result[v * width + i] = term(result[v * width + i])
            return result

        start = [code.constant(self.type, 0.0)] * (width * self.spec.vectors)
        sums = code.loop(0, count, panel, start, step=self.panel)
        totals = [code.reduce("add", _sum(sums[i::width])) for i in range(width)]
        total_before = code.load(state["total"], self.number, row)
        code.store(state["total"], code.fma(total_before, correction, totals[0]), row)
        code.store(state["maximum"], after, row)
        code.store(state["correction"], correction, block_row)
        if self.spec.entropy:
            moved = code.select(before == -math.inf, 0.0, before - shift)
            own = code.load(state["entropy"], self.number, row) + total_before * moved
            code.store(state["entropy"], code.fma(own, correction, totals[1]), row)
        for i in range(len(expects)):
            name = f"expect{i}"
            own = code.load(state[name], self.number, row)
            code.store(state[name], code.fma(own, correction, totals[width - len(expects) + i]), row)

    def terms(
        self, values: Values, weight: Value, distance: Value, key: Value, place: Value, count: Value
    ) -> list[object]:
        """What each running sum of a row adds for a vector of weights: the total, then the readouts."""
        code = self.code
        terms = [lambda total: total + weight]
        if self.spec.entropy:
            finite = code.select(distance < LOWEST, LOWEST, distance)
            terms.append(lambda total: code.fma(weight, finite, total))
        if expects := self._expects():
            integer = self.values.numbers.integer
            keys = code.spread((key + place).to(integer), self.lanes) + code.ramp(integer, self.lanes)
            exists = code.spread((count - place).to(I32), self.lanes) > code.ramp(I32, self.lanes)
            lane_values = values.bind("k", keys)
            for expect in expects:
                value = code.spread(lane_values.value(expect, exists), self.lanes)
                value = code.select(weight == 0.0, 0.0, value)
                terms.append(lambda total, value=value: code.fma(weight, value, total))
        return terms

    def accumulate(self, row: Value, rows: Value, values: Value, count: Value) -> None:
        """output = output * correction + weights @ value, for the block."""
        code, spec = self.code, self.spec
        vectors = spec.value_width // self.lanes
        groups = -(-vectors // spec.target.tile_vectors)
        even = ((count + (tiles.UNROLL - 1)) / tiles.UNROLL) * tiles.UNROLL
        begin = 0
        for group in range(groups):
            width = (vectors - begin) // (groups - group)
            self._accumulate_columns(row, rows, values, even, begin * self.lanes, width)
            begin += width

    def _accumulate_columns(
        self, row: Value, rows: Value, values: Value, count: Value, column: int, vectors: int
    ) -> None:
        code, spec = self.code, self.spec
        height = spec.target.tile_rows(vectors)

        def block(i: Value) -> None:
            output = code.at(self.scratch["output"], (row + i) * spec.value_width + column, self.number)
            start = []
            for r in range(height):
                correction = code.spread(code.load(self.scratch["correction"], self.number, i + r), self.lanes)
                places = [r * spec.value_width + v * self.lanes for v in range(vectors)]
                start.append([code.load(output, self.type, place) * correction for place in places])
            left = code.at(self.scratch["tile"], i * spec.tile_stride, self.number)
            right = code.at(values, column, self.number)
            sums = tiles.product(code, self.type, start, count, left, spec.tile_stride, right, spec.value_width)
            for r, parts in enumerate(sums):
                for v, part in enumerate(parts):
                    code.store(output, part, r * spec.value_width + v * self.lanes)

        code.loop(0, rows, block, step=height)

    # The end of a task.

    def finish(self, task: Task) -> None:
        """Divide each row by its total, the sink counted, and write it; a row with no key is 0."""
        code, spec = self.code, self.spec
        stride = self.argument("output_row")

        def row(i: Value) -> None:
            maximum = code.load(self.scratch["maximum"], self.number, i)
            total = code.load(self.scratch["total"], self.number, i)
            if spec.rows_out:
                self._write_state(task, i, maximum, total)
            factor = self._factor(task, maximum, total)
            empty = code.spread(total == 0.0, self.lanes)
            for start, length in tiles.columns(spec.value_dim, self.lanes):
                sums = code.load(self.scratch["output"], self.type, i * spec.value_width + start)
                numbers = code.select(empty, 0.0, sums * code.spread(factor, self.lanes))
                valid = tiles.first_lanes(code, self.lanes, length)
                tiles.store_numbers(code, spec, task.output, numbers, i * stride + start, valid)

        code.loop(0, task.rows, row)

    def _factor(self, task: Task, maximum: Value, total: Value) -> Value:
        code = self.code
        if not self.spec.sinks:
            return 1.0 / total
        sink = code.load(self.pointer("sinks"), self.number, task.h) * LOG2E
        largest = code.maximum(maximum, sink)
        largest = code.select(largest == -math.inf, 0.0, largest)
        share = vectormath.exp2(code, maximum - largest)
        return share / (total * share + vectormath.exp2(code, sink - largest))

    def _write_state(self, task: Task, row: Value, maximum: Value, total: Value) -> None:
        """The row's state for the readouts to finish, scores natural again; one array after another."""
        code, place = self.code, task.row_index + row
        code.store(self.pointer("maximum"), maximum * LN2, place)
        code.store(self.pointer("total"), total, place)
        rows = self.argument("tasks") / self.argument("chunks") * self.q_len
        for i, name in enumerate(self.spec.accumulators[2:]):
            value = code.load(self.scratch[name], self.number, row)
            value = value * LN2 if name == "entropy" else value
            code.store(self.pointer("total"), value, rows * (i + 1) + place)

    def _expects(self) -> list[object]:
        return [self.program.roots[f"expect{i}"] for i in range(self.spec.expects)]

    def _index(self, value: Value) -> Value:
        return value.to(self.values.numbers.integer)


def _sum(values: list[Value]) -> Value:
    while len(values) > 1:
        values = [values[i] + values[i + 1] if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
    return values[0]


