"""Where a strip's weights and slopes are kept, and how the products read them: along the keys, and down the queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.engines.cpu.kernels.backward.layout import SPARE
from pellucid.engines.cpu.kernels.block import Block
from pellucid.engines.cpu.machine.builder import BF16, I16, I32, Value, vector
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.products.dots import ROUND_TWO

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.backward.kernel import Backward

Row = Sequence[tuple[Value, Value]]  # the weights and slopes of a panel of a row, vector by vector


class Kept:
    """As numbers, where the scores and the gradients of weights were."""

    down = ("tile", "slopes")  # the parts of the scratch memory that are read down the queries

    def __init__(self, kernel: Backward) -> None:
        self.kernel, self.code, self.spec, self.lanes = kernel, kernel.code, kernel.spec, kernel.lanes
        self.scratch, self.number = kernel.scratch, kernel.number

    def store(self, row: Value, j: Value, rows: Sequence[Row]) -> None:
        """Keep a panel of as many rows as a word holds elements."""
        for v, both in enumerate(rows[0]):
            for name, own in zip(self.down, both, strict=True):
                self.code.store(self.scratch[name], own, row * self.spec.tile_stride + j + v * self.lanes)

    def weights_down(self, key: Value) -> Value:
        """Where the weights of a key begin; they lie `tile_stride` words apart."""
        return self.code.at(self.scratch[self.down[0]], key, self.number)

    def slopes_down(self, key: Value) -> Value:
        """The same of the slopes."""
        return self.code.at(self.scratch[self.down[1]], key, self.number)

    def slopes_across(self, row: Value) -> Value:
        """Where the slopes of a row begin."""
        return self.code.at(self.scratch["slopes"], row * self.spec.tile_stride, self.number)

    def clear_beyond(self, block: Block) -> None:
        """Zeros in the rows, and the columns, that products read beyond those there are."""
        code, spec = self.code, self.spec
        columns = tiles.rounded(block.count, spec.panel)
        rows = tiles.rounded(block.rows, spec.per_word) / spec.per_word
        stop = tiles.rounded(rows, self.kernel.products.unroll)
        for name in self.down:

            def clear(row: Value, first: Value, count: Value, name: str = name) -> None:
                start = code.at(self.scratch[name], row * spec.tile_stride + first, self.number)
                code.clear(start, count, self.number)

            if self._reads_beyond():
                code.loop(0, rows, lambda row, clear=clear: clear(row, columns, code.i64(SPARE)))
            code.loop(rows, stop, lambda row, clear=clear: clear(row, code.i64(0), columns + SPARE))

    def _reads_beyond(self) -> bool:
        """Whether keys fill whole panels, and yet no whole register tiles."""
        target = self.spec.target
        heights = {target.tile_rows(vectors) for vectors in range(1, target.tile_vectors + 1)}
        return any(self.spec.panel % height for height in heights)


class PairsKept(Kept):
    """Rounded to bfloat16: pairs of queries to be read down, and of keys to be read along."""

    down = ("weight_pairs", "slope_pairs")

    def store(self, row: Value, j: Value, rows: Sequence[Row]) -> None:
        """Two rows, whose elements are partners."""
        code, lanes = self.code, self.lanes
        partners = [lane // 2 + lanes * (lane % 2) for lane in range(2 * lanes)]
        for v, (one, other) in enumerate(zip(*rows, strict=True)):
            for name, first, second in zip(self.down, one, other, strict=True):
                both = code.intrinsic(ROUND_TWO, vector(BF16, 2 * lanes), second, first).bits(vector(I16, 2 * lanes))
                words = code.shuffle(both, both, partners).bits(vector(I32, lanes))
                code.store(self.scratch[name], words, row / 2 * self.spec.tile_stride + j + v * lanes)
        for i, found in enumerate(rows):
            self.kernel.mirrored.store_weights(row + i, [slope for _, slope in found], j)

    def slopes_across(self, row: Value) -> Value:
        """Where the slopes of a row begin."""
        return self.kernel.mirrored.weights(row)[0]


class ScaledKept(PairsKept):
    """With slopes times the scale of scores: matrix tiles add up in memory, and nothing comes between."""

    def store(self, row: Value, j: Value, rows: Sequence[Row]) -> None:
        """Two rows, whose elements are partners."""
        scale = self.code.spread(self.kernel.natural_scale(), self.lanes)
        super().store(row, j, [[(weight, slope * scale) for weight, slope in found] for found in rows])
