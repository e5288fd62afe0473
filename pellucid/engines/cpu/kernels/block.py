"""What goes through a kernel together: a task's queries, a strip of them, and a strip beside a tile of keys."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.machine.builder import Value


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
