"""The decode kernel: few queries over many keys, where reading keys and values once from memory is the whole cost.

The query heads that share a key head are rows of one small block. Keys and values are read in place, never packed; a
task is ranges of the keys of one key head; whoever does the last of a head's merges them all, in the keys' order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from pellucid.engines.cpu.expression.bounds import Span
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.block import Block, Task
from pellucid.engines.cpu.kernels.forward import Forward
from pellucid.engines.cpu.kernels.softmax import drift
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.machine.builder import I64, Code, Value
from pellucid.engines.cpu.products import in_place
from pellucid.engines.cpu.products.tiles import Beside


class InPlaceSweep(Sweep):
    """Over keys and values where they lie; a row is a query of a head of the group."""

    kernel: Decode

    def through_range(self, first: Value, stop: Value, task: Task, use: Callable[[Block, Value], None]) -> None:
        """Take the rows through a range of keys.

        Args:
            first: where the keys begin, a 64-bit integer of the kernel.
            stop: where they end, one too.
            task: the rows.
            use: what is written for a tile of raw scores, as in `through`.

        """
        self.use = use
        self.code.loop(
            first, stop, lambda key: self.over_tile(task, key, self.code.minimum(stop - key, KEYS)), step=KEYS
        )

    def over_tile(self, task: Task, key: Value, count: Value) -> None:
        """Take the rows through one tile of keys."""
        kernel = self.kernel
        places = {
            "b": Span(task.b, task.b),
            "h": Span(task.h, task.h + (self.spec.group - 1)),
            "q": Span(self.code.i64(0), kernel.q_len - 1),
            "k": Span(key, key + count - 1),
        }
        allowed = self.allowed(places)
        with self.code.when(allowed.high):
            keys = self.code.at(task.key, key * kernel.argument("key_row"), self.spec.storage)
            values = self.code.at(task.value, key * kernel.argument("value_row"), self.spec.storage)
            kernel.products_in_place.score(keys, count)
            functions = kernel.functions.bind("b", kernel.index(task.b))
            whole = (count - (count / kernel.panel) * kernel.panel) == 0
            block = Block(task, functions, self.code.i64(0), task.rows, key, count, count, values)
            self.use(block, allowed.low & whole)

    def of_row(self, block: Block, row: Value) -> Values:
        """The user's functions for one row: a head of the group, and a query."""
        kernel, member = self.kernel, row / self.spec.queries
        functions = block.functions.bind("h", kernel.index(block.task.h + member))
        functions = functions.bind("q", kernel.index(row - member * self.spec.queries))
        functions.prepare(kernel.score, kernel.mask, *kernel.read)
        return functions


class Decode(Forward):
    """Forward's softmax and readouts, between products that read keys and values in place."""

    sweep: InPlaceSweep

    def sweep_of(self) -> InPlaceSweep:
        """Over keys and values where they lie."""
        return InPlaceSweep(self)

    def __init__(self, code: Code, spec: Spec, program: Program) -> None:
        super().__init__(code, spec, program)
        products = in_place.Matrix if spec.matrix else in_place.Dots if spec.dots else in_place.Rows
        self.products_in_place = products(self)

    def perform(self, pair: Value, share: Value) -> None:
        """Some ranges of the keys of one key head; `pair` counts batches and key heads."""
        code, spec = self.code, self.spec
        key_heads = self.argument("heads") / spec.group
        b, key_pair = pair / key_heads, pair
        pair = b * self.argument("heads") + (pair - b * key_heads) * spec.group
        task = self.task(pair, code.i64(0))
        task.rows = code.i64(spec.group * spec.queries)
        self.products_in_place.pack_queries(task.query)
        if not spec.shared_out:
            self.attend(task, partial(self.sweep.through_range, code.i64(0), self.k_len), self.finish)
            return
        ranges, size, together = (self.argument(name) for name in ("ranges", "keys_a_range", "ranges_a_task"))

        def one(number: Value) -> None:
            keys = number * size, code.minimum((number + 1) * size, self.k_len)
            place = partial(self.place_of_kept, key_pair, number)
            self.attend(task, partial(self.sweep.through_range, *keys), lambda _: self.keep(place()))

        stop = code.minimum((share + 1) * together, ranges)
        code.loop(share * together, stop, one)
        with code.when(self.ranges_done(key_pair, stop - share * together) == ranges):
            self.start(task)
            code.loop(0, ranges, lambda number: self.merge(self.place_of_kept(key_pair, number)))
            self.finish(task)

    def beside_weights(self, block: Block) -> Beside | None:
        """Asks for values: memory would rest meanwhile."""
        products = self.products_in_place

        def fetch(row: Value, rows: int, column: Value, columns: int) -> None:
            products.fetch_values(block.values, (row * KEYS + column) / columns)

        return None if self.spec.matrix else fetch

    def accumulate(self, block: Block) -> None:
        """output = output * correction + weights @ value, the values read in place."""
        self.products_in_place.weigh(block.values, block.count)

    def output_of_row(self, task: Task, row: Value) -> Value:
        """Where a row's output begins."""
        member = row / self.spec.queries
        place = member * self.argument("output_head") + (row - member * self.spec.queries) * self.argument("output_row")
        return self.code.at(task.output, place, self.spec.output)

    def head_of_row(self, task: Task, row: Value) -> Value:
        """The query head that a row belongs to."""
        return task.h + row / self.spec.queries

    def place_of_row(self, task: Task, row: Value) -> Value:
        """The row's index in [batch, heads, q_len]."""
        return task.pair * self.q_len + row

    # What a range of keys came to, kept until all ranges are there.

    def place_of_kept(self, key_pair: Value, number: Value) -> dict[str, Value]:
        """Where each array of a range's state is kept."""
        size = sum(kept_of_state(self.spec).values())
        places, place = {}, (key_pair * self.argument("ranges") + number) * size
        for name, numbers in kept_of_state(self.spec).items():
            places[name] = self.code.at(self.pointer("kept"), place, self.number)
            place = place + numbers
        return places

    def keep(self, kept: dict[str, Value]) -> None:
        """Copy the state from the scratch memory."""
        code = self.code
        for name, numbers in kept_of_state(self.spec).items():

            def vector(i: Value, name: str = name) -> None:
                code.store(kept[name], code.load(self.scratch[name], self.type, i), i)

            code.loop(0, numbers, vector, step=self.lanes)

    def ranges_done(self, key_pair: Value, own: Value) -> Value:
        """How many ranges of these keys are done, our own among them; what others kept can be read from here on."""
        code, alone = self.code, own == self.argument("ranges")  # then nobody counts with us
        counter = code.at(self.arguments, code.select(alone, 0, key_pair) + self.spec.places["done_0"], I64)
        before = Value(code, code.ir.atomic_rmw("add", counter.raw, code.select(alone, 0, own).raw, "acq_rel"))
        return code.select(alone, own, before + own)

    def merge(self, kept: dict[str, Value]) -> None:
        """Add what a range of later keys came to."""
        rows = self.code.i64(self.spec.group * self.spec.queries)
        self.code.loop(0, rows, lambda row: self._merge_states(kept, row), step=self.lanes)
        self.code.loop(0, rows, lambda row: self._merge_output(kept, row))
        for stage in self.spec.stages:
            if stage.kept(self.spec, 0):
                self.code.loop(0, rows, lambda row, stage=stage: stage.merge(self, kept, row))

    def _merge_states(self, kept: dict[str, Value], row: Value) -> None:
        """The accumulators of some rows, and what their outputs must be multiplied by: "correction" and "shift"."""
        code, state = self.code, self.scratch
        maxima = [code.load(of["maximum"], self.type, row) for of in (state, kept)]
        maximum = code.maximum(*maxima)
        shift = code.select(maximum == -math.inf, 0.0, maximum)
        code.store(state["maximum"], maximum, row)
        factors = [self.power(own - shift) for own in maxima]
        totals = [code.load(of["total"], self.type, row) for of in (state, kept)]
        drifts = [partial(drift, code, own, shift) for own in maxima]
        for name, stage in self.softmax.kept:
            sums, by = [code.load(of[name], self.type, row) for of in (state, kept)], factors
            if stage is not None:
                sums = [stage.moved(self, *three) for three in zip(sums, totals, drifts, strict=True)]
                by = [stage.factor(self, *two) for two in zip(factors, drifts, strict=True)]
            code.store(state[name], code.fma(sums[0], by[0], sums[1] * by[1]), row)
        code.store(state["correction"], factors[0], row)
        code.store(state["shift"], factors[1], row)

    def _merge_output(self, kept: dict[str, Value], row: Value) -> None:
        code, state = self.code, self.scratch
        mine, its = (
            code.spread(code.load(state[name], self.number, row), self.lanes) for name in ("correction", "shift")
        )
        for start in range(0, self.spec.value_width, self.lanes):
            place = row * self.spec.value_width + start
            own, other = (code.load(of["output"], self.type, place) for of in (state, kept))
            code.store(state["output"], code.fma(own, mine, other * its), place)


def kept_of_state(spec: Spec) -> dict[str, int]:
    """Numbers of each array of the rows' state over a range of keys, whole vectors; keys of scores among them."""
    rows = spec.group * spec.queries
    states = dict.fromkeys(spec.accumulators, -(-rows // spec.lanes) * spec.lanes) | {"output": rows * spec.value_width}
    for stage in spec.stages:
        states |= stage.kept(spec, rows)
    return states
