"""What every kernel of this engine shares: tasks, packing, and blocks of queries taken through tiles of keys.

A task is a chunk of the queries of one head. Its keys are packed a few tiles at a time, into panels that the register
tiles read in order; blocks of 48 queries then go through each tile of 256 keys, 16 at a time where they look at other
parts of it. What a kernel does with a tile of scores is its own: forward.py, decode.py, columns.py, weights.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from pellucid.engines.cpu.expression import vectormath
from pellucid.engines.cpu.expression.bounds import Bounds, Span
from pellucid.engines.cpu.expression.program import STORED, Numbers, Program, Slot, SlotArguments
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.layout import KEYS, SLOT, Spec
from pellucid.engines.cpu.machine.builder import F64, I32, I64, POINTER, Code, Value, bytes_of, vector
from pellucid.engines.cpu.products.amx import Tiles
from pellucid.engines.cpu.products.pairs import Pairs
from pellucid.engines.cpu.products.split import Split
from pellucid.engines.cpu.products.tiles import Beside, Products
from pellucid.language import SCORE, TRUE, Expression

FEW_KEYS = 16  # in steps of which the keys of a weighted sum end
LINE = 64  # bytes that are brought near together
LOG2E, LN2 = math.log2(math.e), math.log(2)


@dataclass
class Task:
    """A chunk of the queries of one head: which it is, and where its tensors begin.

    Numbers are 64-bit integers of the kernel. `query` and `output` are the addresses of the chunk's first row, `key`
    and `value` of the head's first key and value.
    """

    b: Value
    h: Value
    pair: Value  # b * heads + h
    first: Value  # the chunk's first query
    rows: Value  # how many
    query: Value
    key: Value
    value: Value
    output: Value


@dataclass
class Strip:
    """Some of a task's queries: a block, or a part of one. `row` and `rows` are 64-bit integers of the kernel."""

    task: Task
    functions: Values  # the user's functions, b and h known
    row: Value  # of the chunk, where they begin
    rows: Value

    @property
    def query(self) -> Value:
        """The first query."""
        return self.task.first + self.row


@dataclass
class Block(Strip):
    """Some of a task's queries beside a tile of keys.

    `key`, an index, `count` and `used` are 64-bit integers of the kernel; `values` is an address.
    """

    key: Value  # where the tile begins
    count: Value  # keys of the tile
    used: Value  # of them, those up to the last that a query may look at
    values: Value  # the tile's packed values


class Kernel(ABC):
    """A kernel being written. Methods appear in the order in which they run."""

    packs_values = True
    unscaled: Value | None = None  # what scores are multiplied by later, if they are not as they are used

    def __init__(self, code: Code, spec: Spec, program: Program) -> None:
        worker, _, self.arguments = code.arguments
        self.code, self.spec, self.program = code, spec, program
        self.number, self.lanes, self.panel = spec.number, spec.lanes, spec.panel
        self.type = vector(spec.number, spec.lanes)
        self.q_len, self.k_len = self.argument("q_len"), self.argument("k_len")
        memory = self.argument("scratch") + worker * self.argument("scratch_size")
        self.memory = Value(code, code.ir.inttoptr(memory.raw, POINTER))
        self.scratch = {name: code.at(self.memory, place) for name, place in spec.scratch.items() if name != "end"}
        self.score, self.mask = program.roots["score"], program.roots["mask"]
        # What a score is counted in: in powers of two where nobody sees it, the factor being part of the scale.
        self.unit = LN2 if self.score is SCORE else 1.0
        self.products = self.products_type()(code, spec, self.scratch, self.scale())
        self.numbers = Numbers(ir.IntType(spec.integer_bits), spec.number)
        slots = {slot.number: self._slot(slot) for slot in program.slots.values()}
        self.functions = Values(code, program, self.numbers, slots)
        # What is left to be done to the scores of a tile.
        self.factor = self.products.factor
        # The functions of readouts.
        self.read: list[Expression] = [root for name, root in program.roots.items() if name not in ("score", "mask")]

    def products_type(self) -> type[Products]:
        """How this kernel multiplies."""
        if self.spec.tiles:
            return Split if self.spec.parts > 1 else Tiles
        return Pairs if self.spec.pairs else Products

    def argument(self, name: str) -> Value:
        """One of the call's arguments."""
        return self.code.load(self.arguments, I64, self.spec.places[name], align=8)

    def pointer(self, name: str) -> Value:
        """An argument that is an address."""
        return Value(self.code, self.code.ir.inttoptr(self.argument(name).raw, POINTER))

    def _slot(self, slot: Slot) -> SlotArguments:
        code, first = self.code, len(self.spec.places) + slot.number * SLOT

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
        self.products.begin()
        head, body, done = (code.function.append_basic_block(name) for name in ("take", "task", "end"))
        emit.branch(head)
        emit.position_at_end(head)
        number = Value(code, emit.atomic_rmw("add", self.arguments.raw, ir.Constant(I64, 1), "monotonic"))
        emit.cbranch((number < self.argument("tasks")).raw, body, done)
        emit.position_at_end(body)
        pairs = self.argument("pairs")
        self.perform(number - (number / pairs) * pairs, number / pairs)
        emit.branch(head)
        emit.position_at_end(done)
        self.products.end()
        emit.ret_void()

    @abstractmethod
    def perform(self, pair: Value, part: Value) -> None:
        """Do one task: a part of the work of one batch and head."""

    def task(self, pair: Value, chunk: Value) -> Task:
        """A chunk of the queries of one batch and head."""
        code, size = self.code, self.argument("chunk")
        first = chunk * size
        b, h = self.batch_and_head(pair)
        inner = self.argument("inner_batch")
        outer, inside = b / inner, b - (b / inner) * inner

        def of_head(tensor: str, head: Value, element: ir.Type = self.spec.storage) -> Value:
            batch = outer * self.argument(f"{tensor}_batch") + inside * self.argument(f"{tensor}_inner")
            offset = batch + head * self.argument(f"{tensor}_head")
            return code.at(self.pointer(tensor), offset, element)

        query = code.at(of_head("query", h), first * self.argument("query_row"), self.spec.storage)
        output = code.at(of_head("output", h, self.spec.output), first * self.argument("output_row"), self.spec.output)
        key = of_head("key", h / self.argument("key_group"))
        value = of_head("value", h / self.argument("value_group"))
        return Task(b, h, pair, first, code.minimum(size, self.q_len - first), query, key, value, output)

    def batch_and_head(self, pair: Value) -> tuple[Value, Value]:
        """Which batch and head a pair is."""
        heads = self.argument("heads")
        return pair / heads, pair - (pair / heads) * heads

    def over_keys(self, task: Task) -> None:
        """Take the task's queries through all keys."""
        functions = self.functions.bind("b", self.index(task.b)).bind("h", self.index(task.h))
        functions.prepare(self.score, self.mask, *self.read)
        body = lambda key: self.over_packed_keys(task, functions, key)  # noqa: E731
        self.code.loop(0, self.k_len, body, step=self.spec.packed_keys)

    # A few tiles of keys, packed.

    def over_packed_keys(self, task: Task, functions: Values, first_key: Value) -> None:
        """Pack the tiles of keys that this chunk may look at, and take its queries through them."""
        code, stop = self.code, self.code.minimum(first_key + self.spec.packed_keys, self.k_len)
        allowed = self.bounds(task, task.first, task.rows, first_key, stop)
        with code.when(allowed.high):
            code.loop(first_key, stop, lambda key: self.pack_tile(task, first_key, key), step=KEYS)
            code.loop(
                0, task.rows, lambda row: self.query_block(task, functions, first_key, stop, row), step=self.spec.block
            )

    def pack_tile(self, task: Task, first_key: Value, key: Value) -> None:
        """Pack one tile's keys and values, if any query of the chunk may look at it."""
        code, spec = self.code, self.spec
        count = code.minimum(self.k_len - key, KEYS)
        allowed = self.bounds(task, task.first, task.rows, key, key + count)
        with code.when(allowed.high):
            keys, stride = self.packed("keys", first_key, key), self.argument("key_row")
            self.products.pack_keys(code.at(task.key, key * stride, spec.storage), stride, count, keys)
            if self.packs_values:
                values, stride = self.packed("values", first_key, key), self.argument("value_row")
                source = code.at(task.value, key * stride, spec.storage)
                self.products.pack_values(source, stride, count, values)

    def values_of(self, task: Task, first_key: Value, key: Value) -> Value:
        """Where the values of a tile lie that a block is taken through."""
        return self.packed("values", first_key, key) if self.packs_values else self.scratch["keys"]

    def packed(self, name: str, first_key: Value, key: Value) -> Value:
        """Where a tile's packed keys or values begin."""
        tile = (key - first_key) / self.spec.pair if name == "values" else key - first_key
        width = self.spec.key_words if name == "keys" else self.spec.value_width
        return self.code.at(self.scratch[name], tile * width, self.number)

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
        return Bounds(self.code, self.program, self.functions.arguments, places).of(self.mask)

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
        stride = self.argument("query_row")
        source = code.at(task.query, row * stride, self.spec.storage)
        self.products.pack_queries(source, stride, rows)

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
        if self.mask is TRUE or self.spec.strip == self.spec.block:
            return self.code.i64(self.spec.block)
        first, last, sure = self.looked_at(block, key, end, self.panel)
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
        first, last, sure = self.looked_at(strip, key, end, self.panel)
        count = last - first
        with code.when(count > 0):
            _, used, _ = self.looked_at(strip, code.maximum(first, last - self.panel), last, FEW_KEYS)
            values = self.values_of(strip.task, first_key, first)
            block = Block(strip.task, strip.functions, strip.row, strip.rows, first, count, used - first, values)
            keys, fetch = self.packed("keys", first_key, first), self.fetching(block, self.spec.target.requests.cache)
            self.products.score_tile(block.rows, keys, count, fetch, packed)
            whole = (count - (count / self.panel) * self.panel) == 0
            self.tile(block, (sure == count) & whole)

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
        if self.mask is TRUE:
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

    def scale(self) -> Value:
        """What scores are multiplied by."""
        return (self.argument("scale").bits(F64) * (1.0 / self.unit)).to(self.number)

    def power(self, distance: Value) -> Value:
        """e to the power of a difference of scores."""
        return self.power_of_two(distance if self.unit == LN2 else distance * LOG2E)

    def power_of_two(self, distance: Value) -> Value:
        """Two to the power of a difference that counts powers of two."""
        degree, scaling = self.spec.weight_degree, self.spec.target.scaling
        return vectormath.exp2_of_distance(self.code, distance, degree, scaling=scaling)

    @abstractmethod
    def tile(self, block: Block, full: Value) -> None:
        """Use a tile of raw scores; `full` says that every key is allowed to every query."""

    def masked_or_not(self, full: Value, use: Callable[[bool], None]) -> None:
        """Write the use of a tile whose keys are all allowed, and that of one to be masked, unless one is enough."""
        if self.mask is TRUE and self.spec.whole:
            use(False)
            return
        if any(
            stage.long for stage in self.spec.stages
        ):  # two of them take longer to compile than the mask to be applied
            use(True)
            return
        with self.code.either(full) as (all_allowed, mixed):
            with all_allowed:
                use(False)
            with mixed:
                use(True)

    # The user's functions.

    def modified(self, functions: Values, score: Value, block: Block, place: Value, masked: bool) -> Value:
        """A vector of scores after score_mod, -inf where masked. `functions` know the row.

        Args:
            functions: the user's, with b, h and q known.
            score: a vector of a row's products, not yet multiplied by `factor`.
            block: the queries and keys of the tile.
            place: the vector's first key, counted from the tile's: a 64-bit integer of the kernel.
            masked: whether the mask, and which lanes are keys, is to be asked at all; known when the kernel is written.

        Returns:
            A vector of as many numbers, counted in `unit`, and not yet multiplied by `unscaled` if there is one.

        """
        code = self.code
        if self.factor is not None and self.unscaled is None:
            score = score * code.spread(self.factor, self.lanes)
        if not masked and self.score is SCORE:
            return score
        exists = self.exists(block, place) if masked else None
        functions = functions.bind("k", self.keys(block, place)).bind("score", score)
        if self.score is not SCORE:
            score = code.spread(functions.value(self.score, exists), self.lanes)
        if exists is None:
            return score
        if self.mask is not TRUE:
            exists = exists & code.spread(functions.value(self.mask, exists), self.lanes)
        return code.select(exists, score, -math.inf)

    def of_row(self, block: Block, row: Value) -> Values:
        """The user's functions for one row of the block; what does not depend on the key is computed here."""
        functions = block.functions.bind("q", self.index(block.query + row))
        functions.prepare(self.score, self.mask, *self.read)
        return functions

    def fetching(self, block: Block, cache: int) -> Beside | None:
        """Asks for what the functions will read of captured tensors, such as a mask with a row for each query.

        The functions would wait for it, while products and exponentials leave the way to memory idle. None if no such
        tensor is read.
        """
        code = self.code
        loads = self.functions.rows_of(self.score, self.mask)

        def fetch(row: Value, rows: int, column: Value, columns: int) -> None:
            def one(r: Value) -> None:
                functions = self.of_row(block, code.minimum(row + r, block.rows - 1))
                for load in loads:
                    line = max(1, LINE // bytes_of(STORED[self.program.slots[id(load.value)].dtype]))
                    places = (code.minimum(column + start, block.count - 1) for start in range(0, columns, line))
                    functions.fetch(load, (block.key + place for place in places), cache)

            code.loop(0, rows, one)

        return fetch if loads else None

    def keys(self, block: Block, place: Value) -> Value:
        """The keys' indices of a vector of the tile."""
        first = self.code.spread((block.key + place).to(self.numbers.integer), self.lanes)
        return first + self.code.ramp(self.numbers.integer, self.lanes)

    def exists(self, block: Block, place: Value) -> Value:
        """Which lanes of a vector of the tile are keys."""
        left = self.code.spread((block.count - place).to(I32), self.lanes)
        return left > self.code.ramp(I32, self.lanes)

    def index(self, value: Value) -> Value:
        """An index as the language's int."""
        return value.to(self.numbers.integer)

    def row_of_tile(self, row: Value) -> Value:
        """Where a row of the tile begins."""
        return self.code.at(self.scratch["tile"], row * self.spec.tile_stride, self.number)
