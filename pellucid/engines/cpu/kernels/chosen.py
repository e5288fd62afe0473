"""The sweep over chosen rows: the queries, keys and heads are lists of their true indices.

Their rows are gathered as they are packed, and the user's functions get the true indices. "queries", "rows" and "keys"
count among the chosen here.
"""

from __future__ import annotations

from collections.abc import Callable

from pellucid.engines.cpu.expression.bounds import Span
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.block import Block, Task
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I64, Value, vector
from pellucid.engines.cpu.products import tiles


class ChosenSweep(Sweep):
    """Over gathered rows; the place of packed values in the scratch memory holds them."""

    def through_range(
        self, task: Task, first: Value, stop: Value, use: Callable[[Block, Value], None], skip: Callable[[Block], None]
    ) -> None:
        """Take the task's queries through a range of the keys.

        Args:
            task: the queries.
            first: where the keys begin, a 64-bit integer of the kernel.
            stop: where they end, one too.
            use: what is written for a tile of raw scores, as in `through`.
            skip: what is written for a tile of which no key is allowed.

        """
        self.use, self.skip, self.stop_key = use, skip, stop
        functions = self.kernel.functions.bind("b", self.kernel.index(task.b)).bind("h", self.kernel.index(task.h))
        functions.prepare(self.kernel.score, self.kernel.mask)

        def packed(key: Value) -> None:
            end = self.code.minimum(key + self.spec.packed_keys, stop)
            self.code.loop(key, end, lambda tile: self.pack_tile(task, key, tile), step=KEYS)
            self.code.loop(
                0, task.rows, lambda row: self.query_block(task, functions, key, end, row), step=self.spec.block
            )

        self.code.loop(first, stop, packed, step=self.spec.packed_keys)

    def pack_tile(self, task: Task, first_key: Value, key: Value) -> None:
        """Gather and pack one tile's keys, if any query of the chunk may look at it."""
        count = self.code.minimum(self.stop_key - key, KEYS)
        allowed = self.bounds(task, task.first, task.rows, key, key + count)
        with self.code.when(allowed.high):
            gathered, stride = self._gather(task.key, "key", key, count)
            self.kernel.products.pack_keys(gathered, stride, count, self.packed("keys", first_key, key))

    def query_block(self, task: Task, functions: Values, first_key: Value, stop: Value, row: Value) -> None:
        """Take a block of queries through the packed tiles."""
        code = self.code
        rows = code.minimum(task.rows - row, self.spec.block)
        gathered, stride = self._gather(task.query, "query", task.first + row, rows)
        self.kernel.products.pack_queries(gathered, stride, rows)

        def tile(key: Value) -> None:
            count = code.minimum(stop - key, KEYS)
            block = Block(task, functions, row, rows, key, count, count, self.kernel.scratch["keys"])
            allowed = self.bounds(task, task.first + row, rows, key, key + count)
            with code.either(allowed.high) as (some, none):
                with some:
                    self.kernel.products.score_tile(rows, self.packed("keys", first_key, key), count)
                    self.use(block, allowed.low & ((count - (count / self.kernel.panel) * self.kernel.panel) == 0))
                with none:
                    self.skip(block)

        code.loop(first_key, stop, tile, step=KEYS)

    # Where rows and keys stand.

    def chosen(self, name: str, place: Value) -> Value:
        """The true index of what is chosen at a place."""
        return self.code.load(self.kernel.pointer(name), I64, place, align=8)

    def of_row(self, block: Block, row: Value) -> Values:
        """The user's functions for one row, by its true index."""
        functions = block.functions.bind("q", self.kernel.index(self.chosen("query_index", block.query + row)))
        functions.prepare(self.kernel.score, self.kernel.mask)
        return functions

    def keys(self, block: Block, place: Value) -> Value:
        """The true indices of a vector of keys; 0 where there is none."""
        kernel, type_ = self.kernel, vector(I64, self.kernel.lanes)
        chosen = kernel.pointer("key_index")
        found = self.code.masked_load(chosen, type_, self.exists(block, place), block.key + place)
        return found.to(self.kernel.numbers.integer)

    def bounds(self, task: Task, first_query: Value, rows: Value, key: Value, stop: Value) -> Span:
        """Whether keys may be, and are all, allowed for these queries, from the least and greatest true indices."""
        queries = self._extent("query_index", first_query, first_query + rows)
        keys = self._extent("key_index", key, stop)
        return self.allowed({"b": Span(task.b, task.b), "h": Span(task.h, task.h), "q": queries, "k": keys})

    def _extent(self, name: str, start: Value, stop: Value) -> Span:
        code, first = self.code, self.chosen(name, start)

        def widen(i: Value, low: Value, high: Value) -> list[Value]:
            index = self.chosen(name, i)
            return [code.minimum(low, index), code.maximum(high, index)]

        return Span(*code.loop(start + 1, stop, widen, [first, first]))

    def _gather(self, source: Value, name: str, first: Value, count: Value) -> tuple[Value, Value]:
        """Copy the rows that are chosen from a place on, one after another; gives where, and their stride."""
        code, spec, target = self.code, self.spec, self.kernel.scratch["values"]
        width = -(-spec.head_dim // spec.lanes) * spec.lanes
        stride, type_ = self.kernel.argument(f"{name}_row"), vector(spec.storage, spec.lanes)

        def row(i: Value) -> None:
            own = self.chosen(f"{name}_index", first + i) * stride
            for start, length in tiles.columns(spec.head_dim, spec.lanes):
                valid = tiles.first_lanes(code, spec.lanes, length)
                place = own + start
                copied = (
                    code.load(source, type_, place) if valid is None else code.masked_load(source, type_, valid, place)
                )
                code.store(target, copied, i * width + start)

        code.loop(0, count, row)
        return target, code.i64(width)
