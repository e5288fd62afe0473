"""Keys outer, queries inner: a tile of keys stays while all queries that may look at it come by, the last first.

Each block of queries gets its gradient from one tile of keys after the other, in their order. Whoever has a later tile
waits for whoever has the one before, so that the sums are the same whatever thread takes what. The last queries come
first: under a causal mask they are those that all tiles share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pellucid.engines.cpu.kernels.block import Block, Strip, Task
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.layout import KEYS
from pellucid.engines.cpu.machine.builder import I64, Value
from pellucid.language import TRUE

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward


class KeysOuter(Sweep):
    """Over the queries of one head, for a tile of keys that is packed already."""

    kernel: Backward

    def through_queries(self, task: Task, tile: Value, use: Callable[[Block, Value], None]) -> None:
        """Take the task's queries, the last block first, through one tile of keys.

        Args:
            task: all queries of a head.
            tile: which tile of keys.
            use: see `through`.

        """
        code, spec = self.code, self.spec
        self.use, self.tile = use, tile
        functions = self.kernel.functions.bind("b", self.kernel.index(task.b)).bind("h", self.kernel.index(task.h))
        functions.prepare(self.kernel.score, self.kernel.mask, *self.kernel.read)
        blocks = (task.rows + (spec.block - 1)) / spec.block

        def block(number: Value) -> None:
            row = (blocks - 1 - number) * spec.block
            rows = code.minimum(task.rows - row, spec.block)
            key, end = self.keys_of(tile)
            with code.when(self.bounds(task, row, rows, key, end).high):
                self.of_block(Strip(task, functions, row, rows), key, end)

        code.loop(0, blocks, block)

    def keys_of(self, tile: Value) -> tuple[Value, Value]:
        """The first key of a tile, and where it ends."""
        return tile * KEYS, self.code.minimum(tile * KEYS + KEYS, self.kernel.k_len)

    def of_block(self, block: Strip, key: Value, end: Value) -> None:
        """Take a block of queries through the tile, in strips where they look at different parts of it."""
        code = self.code
        self.first_row = block.row
        self.kernel.pack_block(block)
        size = self.rows_together(block, key, end)
        self.wait(block)

        def strip(number: Value) -> None:
            first = number * size
            some = Strip(block.task, block.functions, block.row + first, code.minimum(size, block.rows - first))
            self.through_tile(some, first, key, key, end)

        code.loop(0, (block.rows + (size - 1)) / size, strip)
        self._done(block).store(self.tile + 1)

    # In the order of tiles.

    def wait(self, block: Strip) -> None:
        """Until the last tile before this one that the block may look at is behind it."""
        code, before = self.code, self._before(block)
        with code.when(before >= 0):
            done = self._done(block)
            code.until(lambda: done.load() > before)

    def _before(self, block: Strip) -> Value:
        """The last tile of keys before this one that the block may look at, or -1."""
        code = self.code
        if self.kernel.mask is TRUE:
            return self.tile - 1

        def seen(place: Value, found: Value) -> list[Value]:
            tile = self.tile - 1 - place
            key, end = self.keys_of(tile)
            allowed = self.bounds(block.task, block.row, block.rows, key, end).high
            return [code.select(found < 0, code.select(allowed, tile, -1), found)]

        return code.loop(0, self.tile, seen, [code.i64(-1)])[0]

    def _done(self, block: Strip) -> Shared:
        blocks = (self.kernel.q_len + (self.spec.block - 1)) / self.spec.block
        place = block.task.pair * blocks + block.row / self.spec.block
        return Shared(self.code.at(self.kernel.pointer("done"), place, I64))


class Shared:
    """A number that several threads look at: what was written before it is stored is seen by who loads it."""

    def __init__(self, pointer: Value) -> None:
        self.pointer, self.code = pointer, pointer.code

    def load(self) -> Value:
        """The number."""
        return Value(self.code, self.code.ir.load_atomic(self.pointer.raw, "acquire", 8, typ=I64))

    def store(self, number: Value) -> None:
        """Let others see it."""
        self.code.ir.atomic_rmw("xchg", self.pointer.raw, number.raw, "release")
