"""The decode kernel: few queries over many keys, where reading keys and values once from memory is the whole cost.

The query heads that share a key head are rows of one small block. Keys and values are read in place, never packed; a
task is a range of the keys of one key head, and partial results over different keys are merged afterwards.
"""

from __future__ import annotations

from pellucid.engines.cpu import tiles
from pellucid.engines.cpu.builder import Value
from pellucid.engines.cpu.forward import Forward
from pellucid.engines.cpu.kernel import Block, Task
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.program import Bounds, Span, Values

ROWS_AT_ONCE = 4


class Decode(Forward):
    """Forward's softmax and readouts, between products that read keys and values in place."""

    def perform(self, pair: Value, part: Value) -> None:
        """One range of the keys of one key head; `pair` counts batches and key heads."""
        code, spec = self.code, self.spec
        key_heads = self.argument("heads") / spec.group
        b = pair / key_heads
        pair = b * self.argument("heads") + (pair - b * key_heads) * spec.group
        task = self.task(pair, code.i64(0))
        task.rows = code.i64(spec.group * spec.queries)
        self.split = part
        first = part * self.argument("keys_a_range")
        stop = code.minimum(first + self.argument("keys_a_range"), self.k_len)
        self.start(task)
        self.pack_heads(task)
        code.loop(first, stop, lambda key: self.over_tile(task, key, code.minimum(stop - key, KEYS)), step=KEYS)
        self.finish(task)

    @property
    def query_width(self) -> int:
        """Numbers of a packed query: head_dim, filled up to whole vectors."""
        return -(-self.spec.head_dim // self.lanes) * self.lanes

    def pack_heads(self, task: Task) -> None:
        """Copy the queries of every head of the group, scaled."""
        code, spec = self.code, self.spec
        for member in range(spec.group):
            source = code.at(task.query, self.argument("query_head") * member, spec.storage)
            target = code.at(self.scratch["queries"], member * spec.queries * self.query_width, self.number)
            stride, count = self.argument("query_row"), code.i64(spec.queries)
            scales = code.spread(self.scale(), self.lanes)
            tiles.pack_rows(code, spec, source, stride, spec.head_dim, count, target, self.query_width, scales)

    def over_tile(self, task: Task, key: Value, count: Value) -> None:
        """Take the rows through one tile of keys."""
        places = {
            "b": Span(task.b, task.b),
            "h": Span(task.h, task.h + (self.spec.group - 1)),
            "q": Span(self.code.i64(0), self.q_len - 1),
            "k": Span(key, key + count - 1),
        }
        allowed = Bounds(self.code, self.program, self.functions.arguments, places).of(self.mask)
        with self.code.when(allowed.high):
            keys = self.code.at(task.key, key * self.argument("key_row"), self.spec.storage)
            self.next_keys = self.code.at(task.key, (key + KEYS) * self.argument("key_row"), self.spec.storage)
            values = self.code.at(task.value, key * self.argument("value_row"), self.spec.storage)
            self.scores_in_place(keys, values, count)
            functions = self.functions.bind("b", self.index(task.b))
            whole = (count - (count / self.panel) * self.panel) == 0
            block = Block(task, functions, self.code.i64(0), task.rows, key, count, values)
            self.tile(block, allowed.low & whole)

    def of_row(self, block: Block, row: Value) -> Values:
        """The user's functions for one row: a head of the group, and a query."""
        member = row / self.spec.queries
        functions = block.functions.bind("h", self.index(block.task.h + member))
        functions = functions.bind("q", self.index(row - member * self.spec.queries))
        functions.prepare(self.score, self.mask, *self.expects)
        return functions

    def scores_in_place(self, keys: Value, values: Value, count: Value) -> None:
        """query @ key.T: a vector of keys at a time, while the values that will be read next are fetched."""
        code, spec = self.code, self.spec
        rows, at_once = spec.group * spec.queries, max(1, self.lanes // 4)

        def group(j: Value) -> None:
            self.fetch(
                code.at(values, j * self.argument("value_row"), spec.storage),
                self.argument("value_row"),
                code.i64(self.lanes),
                spec.value_dim,
            )
            done = 0
            while done < rows:
                step = next(n for n in (4, 2, 1) if n <= min(at_once, rows - done))
                stop = done + (rows - done) // step * step
                code.loop(done, stop, lambda r, step=step: self._some_scores(keys, count, j, r, step), step=step)
                done = stop

        code.loop(0, count, group, step=self.lanes)

    def _some_scores(self, keys: Value, count: Value, j: Value, row: Value, rows: int) -> None:
        """Scores of a few rows and a vector of keys, a few keys at a time: each key that is loaded serves all rows.

        Each lane's sum is kept in a register of its own until the end.
        """
        code, spec, stride, at_once = self.code, self.spec, self.argument("key_row"), self.lanes // rows
        query = code.at(self.scratch["queries"], row * self.query_width, self.number)
        tile = code.at(self.scratch["tile"], row * spec.tile_stride, self.number)

        def some(key: Value) -> None:
            # Past the last key, the last is read again; its lanes are masked later.
            offsets = [code.minimum(key + i, count - 1) * stride for i in range(at_once)]
            sums = [[code.constant(self.type, 0.0)] * at_once for _ in range(rows)]
            for start, length in tiles.columns(spec.head_dim, self.lanes):
                valid = tiles.first_lanes(code, self.lanes, length)
                loaded = [tiles.load_numbers(code, spec, keys, offset + start, self.lanes, valid) for offset in offsets]
                for r in range(rows):
                    factor = code.load(query, self.type, r * self.query_width + start)
                    sums[r] = [code.fma(factor, number, sum_) for number, sum_ in zip(loaded, sums[r], strict=True)]
            flat = tiles.across_rows(code, [sum_ for of_row in sums for sum_ in of_row], Value.__add__)
            for r in range(rows):
                own = flat if rows == 1 else code.shuffle(flat, flat, range(r * at_once, (r + 1) * at_once))
                code.store(tile, own, key + r * spec.tile_stride)

        code.loop(j, j + self.lanes, some, step=at_once)

    def accumulate(self, block: Block) -> None:
        """output = output * correction + weights @ value, the values read in place."""
        vectors = tiles.columns(self.spec.value_dim, self.lanes)
        for begin in range(0, len(vectors), self.spec.target.tile_vectors):
            chosen = vectors[begin : begin + self.spec.target.tile_vectors]
            rows = self.spec.group * self.spec.queries
            for first in range(0, rows, ROWS_AT_ONCE):
                self._accumulate_some(block, range(first, min(first + ROWS_AT_ONCE, rows)), chosen)

    def _accumulate_some(self, block: Block, rows: range, vectors: list[tuple[int, int]]) -> None:
        code, spec = self.code, self.spec
        stride, output = self.argument("value_row"), self.scratch["output"]

        def key(j: Value, *flat: Value) -> list[Value]:
            sums = list(flat)
            if not rows.start and not vectors[0][0]:
                self.fetch(
                    code.at(self.next_keys, j * self.argument("key_row"), spec.storage),
                    self.argument("key_row"),
                    code.i64(1),
                    spec.head_dim,
                )
            for v, (start, length) in enumerate(vectors):
                valid = tiles.first_lanes(code, self.lanes, length)
                value = tiles.load_numbers(code, spec, block.values, j * stride + start, self.lanes, valid)
                for r, row in enumerate(rows):
                    weight = code.load(self.scratch["tile"], self.number, j + row * spec.tile_stride)
                    place = r * len(vectors) + v
                    sums[place] = code.fma(code.spread(weight, self.lanes), value, sums[place])
            return sums

        start = []
        for row in rows:
            correction = code.spread(code.load(self.scratch["correction"], self.number, row), self.lanes)
            for column, _ in vectors:
                start.append(code.load(output, self.type, row * spec.value_width + column) * correction)
        sums = iter(code.loop(0, block.count, key, start))
        for row in rows:
            for column, _ in vectors:
                code.store(output, next(sums), row * spec.value_width + column)

    def output_of_row(self, task: Task, row: Value) -> Value:
        """Where a row's output begins: ranges of keys one after another."""
        member = row / self.spec.queries
        place = member * self.argument("output_head") + (row - member * self.spec.queries) * self.argument("output_row")
        return self.code.at(task.output, place + self.split * self.argument("output_range"), self.spec.output)

    def head_of_row(self, task: Task, row: Value) -> Value:
        """The query head that a row belongs to."""
        return task.h + row / self.spec.queries

    def place_of_row(self, task: Task, row: Value) -> Value:
        """The row's index in [ranges, batch, heads, q_len]."""
        return self.split * self.argument("rows") + task.pair * self.q_len + row
