"""A sweep: the way of a kernel's queries through blocks and tiles, and where their rows and keys stand.

Keys are packed a few tiles at a time, into panels that the register tiles read in order; blocks of 48 queries then go
through each tile of 256 keys, 16 at a time where they look at other parts of it. What becomes of a tile of scores is
the kernel's, which holds the sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pellucid.engines.cpu.expression.bounds import Bounds, Span
from pellucid.engines.cpu.expression.program import STORED
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.block import Block, Strip, Task
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I32, Value, bytes_of
from pellucid.engines.cpu.products.tiles import Beside
from pellucid.language import TRUE

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.kernel import Kernel

FEW_KEYS = 16  # in steps of which the keys of a weighted sum end
LINE = 64  # bytes that are brought near together


class Sweep:
    """Over packed keys and values. Methods appear in the order in which they run.

    Args:
        kernel: whose tensors they are.
        packs_values: whether it needs the values.

    """

    def __init__(self, kernel: Kernel, packs_values: bool = True) -> None:
        self.kernel, self.code, self.spec, self.packs_values = kernel, kernel.code, kernel.spec, packs_values

    def through(self, task: Task, use: Callable[[Block, Value], None]) -> None:
        """Take the task's queries through all keys, tile by tile, where the mask's bounds let look.

        Args:
            task: the queries.
            use: what is written for a block of queries and a tile of raw scores; its second argument, a bit of the
                kernel, says that every key is allowed to every query.

        """
        self.use = use
        functions = self.kernel.functions.bind("b", self.kernel.index(task.b)).bind("h", self.kernel.index(task.h))
        functions.prepare(self.kernel.score, self.kernel.mask, *self.kernel.read)
        body = lambda key: self.over_packed_keys(task, functions, key)  # noqa: E731
        self.code.loop(0, self.kernel.k_len, body, step=self.spec.packed_keys)

    # A few tiles of keys, packed.

    def over_packed_keys(self, task: Task, functions: Values, first_key: Value) -> None:
        """Pack the tiles of keys that this chunk may look at, and take its queries through them."""
        code, stop = self.code, self.code.minimum(first_key + self.spec.packed_keys, self.kernel.k_len)
        allowed = self.bounds(task, task.first, task.rows, first_key, stop)
        with code.when(allowed.high):
            code.loop(first_key, stop, lambda key: self.pack_tile(task, first_key, key), step=KEYS)
            code.loop(
                0, task.rows, lambda row: self.query_block(task, functions, first_key, stop, row), step=self.spec.block
            )

    def pack_tile(self, task: Task, first_key: Value, key: Value) -> None:
        """Pack one tile's keys and values, if any query of the chunk may look at it."""
        code, spec = self.code, self.spec
        count = code.minimum(self.kernel.k_len - key, KEYS)
        allowed = self.bounds(task, task.first, task.rows, key, key + count)
        with code.when(allowed.high):
            keys, stride = self.packed("keys", first_key, key), self.kernel.argument("key_row")
            self.kernel.products.pack_keys(code.at(task.key, key * stride, spec.storage), stride, count, keys)
            if self.packs_values:
                values, stride = self.packed("values", first_key, key), self.kernel.argument("value_row")
                source = code.at(task.value, key * stride, spec.storage)
                self.kernel.products.pack_values(source, stride, count, values)

    def values_of(self, task: Task, first_key: Value, key: Value) -> Value:
        """Where the values of a tile lie that a block is taken through."""
        return self.packed("values", first_key, key) if self.packs_values else self.kernel.scratch["keys"]

    def packed(self, name: str, first_key: Value, key: Value) -> Value:
        """Where a tile's packed keys or values begin."""
        tile = (key - first_key) / self.spec.per_word if name == "values" else key - first_key
        width = self.spec.key_words if name == "keys" else self.spec.value_width
        return self.code.at(self.kernel.scratch[name], tile * width, self.kernel.number)

    def bounds(self, task: Task, first_query: Value, rows: Value, key: Value, stop: Value) -> Span:
        """Whether keys may be, and are all, allowed for these queries.

        Args:
            task: whose batch and head it is.
            first_query: index of the first query, a 64-bit integer of the kernel, as all that follow.
            rows: how many queries.
            key: index of the first key.
            stop: index after the last key.

        Returns:
            Bits: `high` says that some key may be allowed to some query, `low` that all are to all.

        """
        places = {
            "b": Span(task.b, task.b),
            "h": Span(task.h, task.h),
            "q": Span(first_query, first_query + rows - 1),
            "k": Span(key, stop - 1),
        }
        return self.allowed(places)

    def allowed(self, places: dict[str, Span]) -> Span:
        """Whether the mask may, and must, allow all of these places."""
        kernel = self.kernel
        return Bounds(self.code, kernel.program, kernel.functions.arguments, places).of(kernel.mask)

    # A block of queries.

    def query_block(self, task: Task, functions: Values, first_key: Value, stop: Value, row: Value) -> None:
        """Take a block of queries through the packed tiles.

        Args:
            task: the queries' chunk.
            functions: the user's, b and h known.
            first_key: index of the first key that is packed, a 64-bit integer of the kernel, as all that follow.
            stop: index after the last that is.
            row: of the chunk, where the block begins.

        """
        code = self.code
        rows = code.minimum(task.rows - row, self.spec.block)
        stride = self.kernel.argument("query_row")
        source = code.at(task.query, row * stride, self.spec.storage)
        self.kernel.products.pack_queries(source, stride, rows)

        def tile(key: Value) -> None:
            end = code.minimum(key + KEYS, stop)
            with code.when(self.bounds(task, task.first + row, rows, key, end).high):
                size = self.rows_together(Strip(task, functions, row, rows), key, end)

                def strip(number: Value) -> None:
                    first = number * size
                    some = Strip(task, functions, row + first, code.minimum(size, rows - first))
                    self.through_tile(some, first, first_key, key, end)

                code.loop(0, (rows + (size - 1)) / size, strip)

        code.loop(first_key, stop, tile, step=KEYS)

    def rows_together(self, block: Strip, key: Value, end: Value) -> Value:
        """How many of a block's queries go through a tile together: few, where they look at different parts of it."""
        if self.kernel.mask is TRUE or self.spec.strip == self.spec.block:
            return self.code.i64(self.spec.block)
        first, last, sure = self.looked_at(block, key, end, self.kernel.panel)
        unknown = (sure == 0) & (first == key) & (last == end)
        return self.code.select(unknown | (sure == last - first), self.code.i64(self.spec.block), self.spec.strip)

    def through_tile(self, strip: Strip, packed: Value, first_key: Value, key: Value, end: Value) -> None:
        """Take queries, which begin at a row of those that are packed, through the keys of a tile that they look at.

        Args:
            strip: the queries.
            packed: their first row among the packed queries, a 64-bit integer of the kernel, as all that follow.
            first_key: index of the first key that is packed.
            key: index of the tile's first key.
            end: index after its last.

        """
        code = self.code
        first, last, sure = self.looked_at(strip, key, end, self.kernel.panel)
        count = last - first
        with code.when(count > 0):
            _, used, _ = self.looked_at(strip, code.maximum(first, last - self.kernel.panel), last, FEW_KEYS)
            values = self.values_of(strip.task, first_key, first)
            block = Block(strip.task, strip.functions, strip.row, strip.rows, first, count, used - first, values)
            keys, fetch = self.packed("keys", first_key, first), self.fetching(block, self.spec.target.requests.cache)
            self.kernel.products.score_tile(block.rows, keys, count, fetch, packed)
            whole = (count - (count / self.kernel.panel) * self.kernel.panel) == 0
            self.use(block, (sure == count) & whole)

    def looked_at(self, strip: Strip, key: Value, end: Value, step: int) -> tuple[Value, Value, Value]:
        """The keys from the first few to the last few that some queries may look at, and how many of them all do.

        Args:
            strip: the queries.
            key: index of the first key, a 64-bit integer of the kernel.
            end: index after the last, one too.
            step: how many keys the mask's bounds are asked of at a time, known when the kernel is written.

        Returns:
            The index of the first key looked at, that after the last, and how many of those between are surely allowed
            to every query; 64-bit integers. Where none is looked at the first two are `end` and `key`.

        """
        code = self.code
        if self.kernel.mask is TRUE:
            return key, end, end - key

        def few(start: Value, first: Value, last: Value, sure: Value) -> list[Value]:
            stop = code.minimum(start + step, end)
            allowed = self.bounds(strip.task, strip.query, strip.rows, start, stop)
            return [
                code.select(allowed.high, code.minimum(first, start), first),
                code.select(allowed.high, stop, last),
                code.select(allowed.low, sure + (stop - start), sure),
            ]

        first, last, sure = code.loop(key, end, few, [end, key, code.i64(0)], step=step)
        return first, last, sure

    # Where rows and keys stand.

    def of_row(self, block: Block, row: Value) -> Values:
        """The user's functions for one row of the block; what does not depend on the key is computed here."""
        functions = block.functions.bind("q", self.kernel.index(block.query + row))
        functions.prepare(self.kernel.score, self.kernel.mask, *self.kernel.read)
        return functions

    def fetching(self, block: Block, cache: int) -> Beside | None:
        """Asks for what the functions will read of captured tensors, such as a mask with a row for each query.

        The functions would wait for it, while products and exponentials leave the way to memory idle. None if no such
        tensor is read.
        """
        code = self.code
        loads = self.kernel.functions.rows_of(self.kernel.score, self.kernel.mask)

        def fetch(row: Value, rows: int, column: Value, columns: int) -> None:
            def one(r: Value) -> None:
                functions = self.of_row(block, code.minimum(row + r, block.rows - 1))
                for load in loads:
                    line = max(1, LINE // bytes_of(STORED[self.kernel.program.slots[id(load.value)].dtype]))
                    places = (code.minimum(column + start, block.count - 1) for start in range(0, columns, line))
                    functions.fetch(load, (block.key + place for place in places), cache)

            code.loop(0, rows, one)

        return fetch if loads else None

    def keys(self, block: Block, place: Value) -> Value:
        """The keys' indices of a vector of the tile."""
        first = self.code.spread((block.key + place).to(self.kernel.numbers.integer), self.kernel.lanes)
        return first + self.code.ramp(self.kernel.numbers.integer, self.kernel.lanes)

    def exists(self, block: Block, place: Value) -> Value:
        """Which lanes of a vector of the tile are keys."""
        left = self.code.spread((block.count - place).to(I32), self.kernel.lanes)
        return left > self.code.ramp(I32, self.kernel.lanes)
