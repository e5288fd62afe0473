"""The decode kernel: few queries over many keys, where reading keys and values once from memory is the whole cost.

The query heads that share a key head are rows of one small block. Keys and values are read in place, never packed; a
task is a range of the keys of one key head, and partial results over different keys are merged afterwards.
"""

from __future__ import annotations

from pellucid.engines.cpu import in_place
from pellucid.engines.cpu.builder import Code, Value
from pellucid.engines.cpu.forward import Forward
from pellucid.engines.cpu.kernel import Block, Task
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.program import Bounds, Program, Span, Values


class Decode(Forward):
    """Forward's softmax and readouts, between products that read keys and values in place."""

    def __init__(self, code: Code, spec: Spec, program: Program) -> None:
        super().__init__(code, spec, program)
        self.products_in_place = (in_place.Tiles if spec.tiles else in_place.Rows)(self)

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
        self.products_in_place.pack_queries(task.query)
        code.loop(first, stop, lambda key: self.over_tile(task, key, code.minimum(stop - key, KEYS)), step=KEYS)
        self.finish(task)

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
            values = self.code.at(task.value, key * self.argument("value_row"), self.spec.storage)
            self.products_in_place.score(keys, count)
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

    def accumulate(self, block: Block) -> None:
        """output = output * correction + weights @ value, the values read in place."""
        self.products_in_place.weigh(block.values, block.count)

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
