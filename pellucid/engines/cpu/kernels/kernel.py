"""What every kernel of this engine shares: its arguments, its tasks, and a score's way through the user's functions.

A task is a chunk of the queries of one head, which a sweep takes through the keys. What a kernel does with a tile of
scores is its own: forward.py, decode.py, columns.py, weights.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from llvmlite import ir

from pellucid.engines.cpu.expression import vectormath
from pellucid.engines.cpu.expression.program import Numbers, Program, Slot, SlotArguments
from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.block import Block, Task
from pellucid.engines.cpu.kernels.dropout import Dropout
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.layout import SLOT, Spec
from pellucid.engines.cpu.machine.builder import F64, I64, POINTER, Code, Value, vector
from pellucid.engines.cpu.products.amx import Matrix
from pellucid.engines.cpu.products.dots import Dots
from pellucid.engines.cpu.products.split import Split
from pellucid.engines.cpu.products.tiles import Products
from pellucid.language import SCORE, TRUE, Expression

LOG2E, LN2 = math.log2(math.e), math.log(2)


class Kernel(ABC):
    """A kernel being written. Methods appear in the order in which they run."""

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
        self.sweep = self.sweep_of()
        self.dropout = Dropout(self) if spec.dropout else None

    def products_type(self) -> type[Products]:
        """How this kernel multiplies."""
        if self.spec.matrix:
            return Split if self.spec.split > 1 else Matrix
        return Dots if self.spec.dots else Products

    def sweep_of(self) -> Sweep:
        """How this kernel goes through queries and keys."""
        return Sweep(self)

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
    def perform(self, pair: Value, share: Value) -> None:
        """Do one task: a share of the work of one batch and head."""

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

    def masked_or_not(self, full: Value, use: Callable[[bool], None]) -> None:
        """Write the use of a tile whose keys are all allowed, and that of one to be masked, unless one is enough."""
        if self.mask is TRUE and self.spec.whole:
            use(False)
            return
        # Two of long ones take longer to compile than the mask to be applied.
        if any(stage.long for stage in self.spec.stages):
            use(True)
            return
        with self.code.either(full) as (all_allowed, mixed):
            with all_allowed:
                use(False)
            with mixed:
                use(True)

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
        exists = self.sweep.exists(block, place) if masked else None
        functions = functions.bind("k", self.sweep.keys(block, place)).bind("score", score)
        if self.score is not SCORE:
            score = code.spread(functions.value(self.score, exists), self.lanes)
        if exists is None:
            return score
        if self.mask is not TRUE:
            exists = exists & code.spread(functions.value(self.mask, exists), self.lanes)
        return code.select(exists, score, -math.inf)

    def index(self, value: Value) -> Value:
        """An index as the language's int."""
        return value.to(self.numbers.integer)

    def row_of_tile(self, row: Value) -> Value:
        """Where a row of the tile begins."""
        return self.code.at(self.scratch["tile"], row * self.spec.tile_stride, self.number)
