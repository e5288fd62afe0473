"""The weights kernel: any part of the matrix itself, computed from query, key and each row's lse.

The chosen queries, keys and heads are lists of their true indices. Their rows are gathered as they are packed, the
user's functions get the true indices, and a tile's weights go straight to the result.
"""

from __future__ import annotations

import math

from pellucid.engines.cpu.expression.bounds import Span
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.kernel import Block, Kernel, Task
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I64, Value, vector
from pellucid.engines.cpu.products import tiles


class Weights(Kernel):
    """exp(score - lse) for chosen queries and keys. "queries", "rows" and "keys" count among the chosen here."""

    packs_values = False  # their place in the scratch memory holds gathered rows

    def perform(self, pair: Value, part: Value) -> None:
        """A chunk of the queries of one head, beside a range of the keys."""
        code, chunks, chunk = self.code, self.argument("chunks"), self.argument("chunk")
        task = self.task(pair, code.i64(0))  # from the head's first query and key on: rows are gathered from there
        task.first = (part - (part / chunks) * chunks) * chunk
        task.rows = code.minimum(chunk, self.q_len - task.first)
        self.first_key = (part / chunks) * self.argument("keys_a_range")
        self.stop_key = code.minimum(self.first_key + self.argument("keys_a_range"), self.k_len)
        self.over_keys(task)

    def batch_and_head(self, pair: Value) -> tuple[Value, Value]:
        """The head's true index is looked up."""
        b, place = super().batch_and_head(pair)
        return b, self._chosen("head_index", place)

    def over_keys(self, task: Task) -> None:
        """Take the task's queries through its keys."""
        functions = self.functions.bind("b", self.index(task.b)).bind("h", self.index(task.h))
        functions.prepare(self.score, self.mask)

        def packed(key: Value) -> None:
            stop = self.code.minimum(key + self.spec.packed_keys, self.stop_key)
            self.code.loop(key, stop, lambda tile: self.pack_tile(task, key, tile), step=KEYS)
            self.code.loop(
                0, task.rows, lambda row: self.query_block(task, functions, key, stop, row), step=self.spec.block
            )

        self.code.loop(self.first_key, self.stop_key, packed, step=self.spec.packed_keys)

    def pack_tile(self, task: Task, first_key: Value, key: Value) -> None:
        """Gather and pack one tile's keys, if any query of the chunk may look at it."""
        count = self.code.minimum(self.stop_key - key, KEYS)
        allowed = self.bounds(task, task.first, task.rows, key, key + count)
        with self.code.when(allowed.high):
            gathered, stride = self._gather(task.key, "key", key, count)
            self.products.pack_keys(gathered, stride, count, self.packed("keys", first_key, key))

    def query_block(self, task: Task, functions: Values, first_key: Value, stop: Value, row: Value) -> None:
        """Take a block of queries through the packed tiles."""
        code = self.code
        rows = code.minimum(task.rows - row, self.spec.block)
        gathered, stride = self._gather(task.query, "query", task.first + row, rows)
        self.products.pack_queries(gathered, stride, rows)

        def tile(key: Value) -> None:
            count = code.minimum(stop - key, KEYS)
            block = Block(task, functions, row, rows, key, count, count, self.scratch["keys"])
            allowed = self.bounds(task, task.first + row, rows, key, key + count)
            with code.either(allowed.high) as (some, none):
                with some:
                    self.products.score_tile(rows, self.packed("keys", first_key, key), count)
                    self.tile(block, allowed.low & ((count - (count / self.panel) * self.panel) == 0))
                with none:
                    self._write_nothing(block)

        code.loop(first_key, stop, tile, step=KEYS)

    def tile(self, block: Block, full: Value) -> None:
        """Turn the tile's scores into weights, and write them."""
        self.masked_or_not(full, lambda masked: self.weights(block, masked=masked))

    def weights(self, block: Block, *, masked: bool) -> None:
        """exp(score - lse) of each row; of a row with no key, 0."""
        code = self.code

        def row(i: Value) -> None:
            functions, scores, result = self.of_row(block, i), self.row_of_tile(i), self._result(block, i)
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
            self.code.masked_store(result, weight, self.exists(block, place), place)
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

    # What is chosen.

    def _chosen(self, name: str, place: Value) -> Value:
        """The true index of what is chosen at a place."""
        return self.code.load(self.pointer(name), I64, place, align=8)

    def of_row(self, block: Block, row: Value) -> Values:
        """The user's functions for one row, by its true index."""
        functions = block.functions.bind("q", self.index(self._chosen("query_index", block.query + row)))
        functions.prepare(self.score, self.mask)
        return functions

    def keys(self, block: Block, place: Value) -> Value:
        """The true indices of a vector of keys; 0 where there is none."""
        found = self.code.masked_load(
            self.pointer("key_index"), vector(I64, self.lanes), self.exists(block, place), block.key + place
        )
        return found.to(self.numbers.integer)

    def bounds(self, task: Task, first_query: Value, rows: Value, key: Value, stop: Value) -> Span:
        """Whether keys may be, and are all, allowed for these queries, from the least and greatest true indices."""
        queries = self._extent("query_index", first_query, first_query + rows)
        keys = self._extent("key_index", key, stop)
        return self.allowed({"b": Span(task.b, task.b), "h": Span(task.h, task.h), "q": queries, "k": keys})

    def _extent(self, name: str, start: Value, stop: Value) -> Span:
        code, first = self.code, self._chosen(name, start)

        def widen(i: Value, low: Value, high: Value) -> list[Value]:
            index = self._chosen(name, i)
            return [code.minimum(low, index), code.maximum(high, index)]

        return Span(*code.loop(start + 1, stop, widen, [first, first]))

    def _gather(self, source: Value, name: str, first: Value, count: Value) -> tuple[Value, Value]:
        """Copy the rows that are chosen from a place on, one after another; gives where, and their stride."""
        code, spec, target = self.code, self.spec, self.scratch["values"]
        width = -(-spec.head_dim // spec.lanes) * spec.lanes
        stride, type_ = self.argument(f"{name}_row"), vector(spec.storage, spec.lanes)

        def row(i: Value) -> None:
            own = self._chosen(f"{name}_index", first + i) * stride
            for start, length in tiles.columns(spec.head_dim, spec.lanes):
                valid = tiles.first_lanes(code, spec.lanes, length)
                place = own + start
                copied = (
                    code.load(source, type_, place) if valid is None else code.masked_load(source, type_, valid, place)
                )
                code.store(target, copied, i * width + start)

        code.loop(0, count, row)
        return target, code.i64(width)
