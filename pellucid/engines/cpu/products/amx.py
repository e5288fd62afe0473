"""The two products on the processor's matrix tiles (Intel AMX), sixteen times as fast as its dot product of pairs.

A tile register holds 16 rows of 64 bytes. Operands lie in memory just as `Dots` packs them: a word is a pair of
bfloat16, and one instruction multiplies 16 rows of 16 words with 16 words of 16 columns into 16 x 16 float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from pellucid.engines.cpu.machine.builder import I8, Value, vector
from pellucid.engines.cpu.products.dots import Dots
from pellucid.engines.cpu.products.tiles import Beside

SIDE = 16  # rows of a tile, and words in one of its rows
DEPTH = 2 * SIDE  # elements in one of its rows
# Tile registers: two by two accumulators, two operands from the left and two from the right.
SUMS, LEFT, RIGHT = ((0, 1), (2, 3)), (4, 5), (6, 7)
# Which parts of the left operand are multiplied with which of the right, by the number of parts (split.py): those whose
# product is not beyond the precision. Each pair shares a part with the one before, which is then in its registers.
FACTORS = {1: [(0, 0)], 2: [(1, 1), (0, 1), (0, 0), (1, 0)], 3: [(1, 1), (0, 1), (0, 2), (0, 0), (1, 0), (2, 0)]}


@dataclass
class Operand:
    """Where an operand of a product begins, how many words its rows are apart, and what its parts are of."""

    first: Value
    stride: int
    name: str


class Matrix(Dots):
    """Products on matrix tiles, 32 rows by 32 columns at a time."""

    unroll = SIDE

    def begin(self) -> None:
        """Configure all eight tiles, 16 rows of 64 bytes each."""
        configuration = [1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[SIDE] * 8, *[0] * 8]
        type_ = ir.ArrayType(I8, 64)
        known = ir.GlobalVariable(self.code.module, type_, "tiles")
        known.global_constant, known.linkage, known.align = True, "internal", 64
        known.initializer = ir.Constant(type_, [ir.Constant(I8, byte) for byte in configuration])
        self._call("ldtilecfg", Value(self.code, known))

    def end(self) -> None:
        """Give the tiles back, for their state is large to save and restore."""
        self._call("tilerelease")

    def score_tile(
        self, rows: Value, keys: Value, count: Value, beside: Beside | None = None, first: Value | int = 0
    ) -> None:
        """query @ key.T of packed queries, from the first on, and a tile of packed keys, into the tile of scores."""
        code, spec = self.code, self.spec

        def panel(p: Value) -> None:
            right = code.at(keys, p * (spec.panel * spec.key_words), spec.number)
            for column in range(0, spec.panel, 2 * SIDE):

                def block(row: Value, column: int = column) -> None:
                    if beside is not None:
                        beside(row, 2 * SIDE, p * spec.panel + column, 2 * SIDE)
                    left = code.at(self.scratch["queries"], (row + first) * spec.key_words, spec.number)
                    columns = code.at(right, column, spec.number)
                    self._clear()
                    operands = Operand(left, spec.key_words, "queries"), Operand(columns, spec.panel, "keys")
                    self._multiply(code.i64(spec.key_words), *operands, 2)
                    place = row * spec.tile_stride + p * spec.panel + column
                    self._store(code.at(self.scratch["tile"], place, spec.number), spec.tile_stride, 2)

                code.loop(0, rows, block, step=2 * SIDE)

        code.loop(0, (count + (spec.panel - 1)) / spec.panel, panel)

    def weigh(self, rows: Value, output: Value, values: Value, count: Value) -> None:
        """output = output * correction + weights @ value, for a block of rows."""
        self.code.loop(0, rows, lambda row: self._rescale(row, output))
        self.accumulate(rows, output, values, count)

    def accumulate(self, rows: Value, output: Value, values: Value, count: Value) -> None:
        """output = output + weights @ value, for a block of rows.

        Args:
            rows: how many rows of weights, a 64-bit integer of the kernel; whole tiles of rows are added to.
            output: the address of the sums so far, `value_width` numbers a row.
            values: the address of the packed values.
            count: how many weights of a row, and values, a 64-bit integer.

        """
        code, spec = self.code, self.spec

        def block(row: Value) -> None:
            left, stride = self.weights(row)
            for column in range(0, spec.value_width, 2 * SIDE):
                width = min(2, (spec.value_width - column) // SIDE)
                target = code.at(output, row * spec.value_width + column, spec.number)
                right = Operand(code.at(values, column, spec.number), spec.value_width, "values")
                self.add_to(
                    target, spec.value_width, self.weight_words(count), Operand(left, stride, "weights"), right, width
                )

        code.loop(0, rows, block, step=2 * SIDE)

    def add_to(self, target: Value, stride: int, words: Value, left: Operand, right: Operand, width: int = 2) -> None:
        """Add left @ right to 32 rows of memory.

        Args:
            target: where the first row begins.
            stride: numbers from one row to the next.
            words: of a row of the left operand, a multiple of `SIDE`.
            left: the left operand.
            right: the right one.
            width: how many times 16 columns, 1 or 2.

        """
        self._load_sums(target, stride, width)
        self._multiply(words, left, right, width)
        self._store(target, stride, width)

    def _rescale(self, row: Value, output: Value) -> None:
        """Multiply a row by its correction, which is 1 unless its maximum has grown."""
        code, spec = self.code, self.spec
        correction = code.load(self.scratch["correction"], spec.number, row)
        with code.when(correction != 1.0):
            for column in range(0, spec.value_width, spec.lanes):
                place = row * spec.value_width + column
                before = code.load(output, vector(spec.number, spec.lanes), place)
                code.store(output, before * code.spread(correction, spec.lanes), place)

    def _multiply(self, words: Value, left: Operand, right: Operand, width: int) -> None:
        """Add left @ right to the sums, over the words of a row of `left`, which are the rows of `right`."""
        factors = FACTORS[self.spec.split]

        def step(word: Value) -> None:
            before: tuple[int | None, int | None] = (None, None)
            for factor in factors:
                if factor[1] != before[1]:
                    for v in range(width):
                        self._load_part(RIGHT[v], right, word * right.stride + v * SIDE, factor[1])
                if factor[0] != before[0]:
                    for r in range(2):
                        self._load_part(LEFT[r], left, word + r * SIDE * left.stride, factor[0])
                for r in range(2):
                    for v in range(width):
                        self._add(SUMS[r][v], LEFT[r], RIGHT[v])
                before = factor

        self.code.loop(0, words, step, step=SIDE)

    def _load_part(self, register: int, operand: Operand, place: Value, part: int) -> None:
        where = self.code.at(operand.first, place + part * self.spec.packed_size(operand.name), self.spec.number)
        self._tile("tileloadd64", register, where, operand.stride)

    def store_product(self, left: Value, right: Value, target: Value) -> None:
        """Store left @ right for 16 rows of `key_words` words and 16 columns."""
        words = self.spec.key_words
        self._call("tilezero", self.code.constant(I8, 0))
        for word in range(0, words, SIDE):
            self._tile("tileloadd64", LEFT[0], self.code.at(left, word, self.spec.number), words)
            self._tile("tileloadd64", RIGHT[0], self._block(right, word // SIDE), SIDE)
            self._add(0, LEFT[0], RIGHT[0])
        self._tile("tilestored64", 0, target, SIDE)

    def add_product(self, left: Value, left_stride: int, right: Value, target: Value, blocks: int) -> None:
        """Add left @ right for 16 rows of 16 words and up to four blocks of 16 columns, which lie one after another.

        Args:
            left: the address of the rows.
            left_stride: words from one row to the next.
            right: the address of the first block, 16 x 16 words.
            target: the address of the first block of sums, 16 x 16 float32.
            blocks: how many, from 1 to 4.

        """
        self._tile("tileloadd64", LEFT[0], left, left_stride)
        for block in range(blocks):
            self._tile("tileloadd64", block, self._block(target, block), SIDE)
            self._tile("tileloadd64", RIGHT[block % 2], self._block(right, block), SIDE)
            self._add(block, LEFT[0], RIGHT[block % 2])
            self._tile("tilestored64", block, self._block(target, block), SIDE)

    def _block(self, blocks: Value, index: int) -> Value:
        return self.code.at(blocks, index * SIDE * SIDE, self.spec.number)

    def _add(self, sums: int, left: int, right: int) -> None:
        self._call("tdpbf16ps", *(self.code.constant(I8, register) for register in (sums, left, right)))

    def _clear(self) -> None:
        for row in SUMS:
            for register in row:
                self._call("tilezero", self.code.constant(I8, register))

    def _load_sums(self, source: Value, stride: int, width: int) -> None:
        self._each_sum("tileloadd64", source, stride, width)

    def _store(self, target: Value, stride: int, width: int) -> None:
        self._each_sum("tilestored64", target, stride, width)

    def _each_sum(self, name: str, where: Value, stride: int, width: int) -> None:
        for r in range(2):
            for v in range(width):
                place = r * SIDE * stride + v * SIDE
                self._tile(name, SUMS[r][v], self.code.at(where, place, self.spec.number), stride)

    def _tile(self, name: str, register: int, where: Value, stride: int) -> None:
        """Load or store a tile whose rows lie `stride` words apart."""
        self._call(name, self.code.constant(I8, register), where, self.code.i64(stride * self.spec.size))

    def _call(self, name: str, *args: Value) -> None:
        self.code.intrinsic(f"llvm.x86.{name}", ir.VoidType(), *args)
