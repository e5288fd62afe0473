"""The online softmax in a kernel: a tile's scores become weights, and each row's state is merged with the tile's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pellucid.engines.cpu.expression.values import Values
from pellucid.engines.cpu.kernels.block import Block
from pellucid.engines.cpu.machine.builder import I32, Code, Value
from pellucid.engines.cpu.products import tiles
from pellucid.engines.cpu.stages.stage import LOWEST, Stage, Vector

if TYPE_CHECKING:
    from pellucid.engines.cpu.kernels.forward import Forward

# From here on, in powers of two, neighbouring numbers of float32 are 32 apart and more: no two of them both get weight.
FAR = 2.0**29
Kept = Callable[[Value, Value], Value]
EXPONENT = 0x7F800000  # the bits of a float32 that say which power of two is next below


class OnlineSoftmax:
    """What `Forward.attend` does with a tile of scores; methods appear in that order."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.code, self.spec, self.scratch = forward, forward.code, forward.spec, forward.scratch
        self.stages, self.lanes, self.panel = forward.spec.stages, forward.lanes, forward.panel
        self.type, self.number = forward.type, forward.number

    @property
    def kept(self) -> list[tuple[str, Stage | None]]:
        """The sums over a row's keys that are kept, and whose each is: the softmax's own first."""
        return [("total", None), *((name, stage) for stage in self.stages for name in stage.sums)]

    def scores(self, block: Block, row: Value, masked: bool) -> None:
        """Apply score_mod and mask_mod to a row of the tile; keep its largest scores, lane by lane."""
        code, scores = self.code, self.forward.row_of_tile(row)
        functions = self.forward.sweep.of_row(block, row)

        def panel(j: Value, *maxima: Value) -> list[Value]:
            result = []
            for v, maximum in enumerate(maxima):
                place = j + v * self.lanes
                raw = code.load(scores, self.type, place)
                score = self.forward.modified(functions, raw, block, place, masked)
                if score is not raw:
                    code.store(scores, score, place)
                result.append(code.maximum(score, maximum))
            return result

        lowest = [code.constant(self.type, -math.inf)] * self.spec.vectors
        maxima = code.loop(0, block.count, panel, lowest, step=self.panel)
        self._keep_partial(0, row, _pairwise(code.maximum, maxima))

    def maxima(self, block: Block, row: Value) -> None:
        """The largest scores so far of some rows, and what their sums so far must be multiplied by."""
        code, state, of_chunk = self.code, self.scratch, block.row + row
        maximum, factor = self._maxima(row), self.forward.unscaled
        scaled = maximum if factor is None else maximum * code.spread(factor, self.lanes)
        before = code.load(state["maximum"], self.type, of_chunk)
        after = code.maximum(before, scaled)
        shift = code.select(after == -math.inf, 0.0, after)
        code.store(state["maximum"], after, of_chunk)
        code.store(state["correction"], self.forward.power(before - shift), row)
        if any(stage.relative for stage in self.stages):
            code.store(state["drift"], drift(code, before, shift), row)
        if factor is not None:
            shift = self._keep_factors(row, factor, maximum, shift)
        code.store(state["shift"], shift, row)

    def _keep_factors(self, row: Value, factor: Value, maximum: Value, shift: Value) -> Value:
        """Keep what the unscaled scores of some rows are multiplied by; give what their products are less.

        A product's difference from the shift is rounded once. How far the shift was rounded is the same for all keys
        of a row, and counts in its total; but from FAR on no power of two may hold it. There the factor is cut down to
        a power of two, whose products are exact: the largest score's difference is 0, all others' are far below.
        """
        code, every = self.code, self.code.spread(factor, self.lanes)
        power = code.spread((factor.bits(I32) & EXPONENT).bits(self.number), self.lanes)
        far = code.unary("fabs", shift) >= FAR
        code.store(self.scratch["factor"], code.select(far, power, every), row)
        held = code.select(maximum * every == shift, maximum * power, math.inf)  # by a tile before, if not by this one
        return code.select(far, held, shift)

    def _maxima(self, row: Value) -> Value:
        """The largest scores of the tile of some rows, one row in each lane."""
        partials = self._partials(0, row)
        for stage in self.stages:
            found = stage.maxima(self.forward, partials, row)
            if found is not None:
                return found
        return tiles.across_rows(self.code, partials, self.code.maximum)

    def weights(self, block: Block, row: Value) -> None:
        """Store a row's weights; keep the sums of them and of what each readout adds, lane by lane."""
        code, scores, vectors = self.code, self.forward.row_of_tile(row), self.spec.vectors
        functions = self.forward.sweep.of_row(block, row)
        for stage in self.stages:
            stage.before(self.forward, block, row)
        shift = code.spread(code.load(self.scratch["shift"], self.number, row), self.lanes)
        factor, beside = self._factor_of_row(row), self.forward.beside_weights(block)
        kept = self._kept(block, row)

        def panel(j: Value, *sums: Value) -> list[Value]:
            if beside is not None:
                beside(row, 1, j, self.panel)
            result, weights = list(sums), []
            for v in range(vectors):
                some = self._weighed(functions, block, scores, j + v * self.lanes, shift, factor)
                weights.append(some.weight)
                total, *terms = self._terms(some)
                result[v] = total(result[v])  # in the same order whatever is read, so that the output is the same
                for i, term in enumerate(terms, vectors):
                    result[i] = term(result[i])  # one sum for each, as there are registers for
            self._store(row, scores, weights, j, kept)
            return result

        start = [code.constant(self.type, 0.0)] * (vectors + len(self.kept) - 1)
        sums = code.loop(0, block.count, panel, start, step=self.panel)
        self._keep_partial(0, row, _pairwise(Value.__add__, sums[:vectors]))
        for i, sum_ in enumerate(sums[vectors:], 1):
            self._keep_partial(i, row, sum_)

    def _weighed(
        self, functions: Values, block: Block, scores: Value, place: Value, shift: Value, factor: Value | None
    ) -> Vector:
        """A vector of a row's weights.

        Args:
            functions: the user's, with b, h and q known.
            block: the queries and keys of the tile.
            scores: where the row's scores begin.
            place: the vector's first key, counted from the tile's: a 64-bit integer of the kernel.
            shift: the row's largest score so far, in every lane.
            factor: see `_factor_of_row`.

        """
        score = self.code.load(scores, self.type, place)
        distance = score - shift if factor is None else self.code.fma(score, factor, -shift)
        weight = self.forward.power(distance) if factor is None else self.forward.power_of_two(distance)
        return Vector(self.forward, functions, score, weight, distance, block, place)

    @property
    def drops_late(self) -> bool:
        """Whether weights are dropped only when stages have read them, from where the products read them too."""
        read = any(stage.reads_weights for stage in self.stages)
        return self.forward.dropout is not None and read and not self.spec.dots

    def _kept(self, block: Block, row: Value) -> Kept | None:
        """Gives what is kept of a vector of a row's weights; None without dropout."""
        dropout = self.forward.dropout
        if dropout is None:
            return None
        known = dropout.of_row(block, row)
        return lambda weight, place: self.code.select(dropout.kept(known, place), weight, 0.0)

    def drop(self, block: Block, row: Value) -> None:
        """Drop weights of a row where they are kept for the products."""
        scores, kept = self.forward.row_of_tile(row), self._kept(block, row)
        assert kept is not None

        def panel(j: Value) -> None:
            for place in (j + v * self.lanes for v in range(self.spec.vectors)):
                self.code.store(scores, kept(self.code.load(scores, self.type, place), place), place)

        self.code.loop(0, block.count, panel, step=self.panel)

    def _store(self, row: Value, scores: Value, weights: list[Value], j: Value, kept: Kept | None) -> None:
        """Put a panel of a row's weights, from the j-th key on, where the products want them, and where stages do.

        Args:
            row: of the tile.
            scores: where it begins.
            weights: of the panel, in vectors.
            j: the panel's first key, counted from the tile's.
            kept: see `_kept`.

        """
        wanted = weights
        if kept is not None and not self.drops_late:
            wanted = [kept(weight, j + v * self.lanes) for v, weight in enumerate(weights)]
        self.forward.products.store_weights(row, wanted, j)
        if self.spec.dots and any(stage.reads_weights for stage in self.stages):  # pairs lie elsewhere, and rounded
            for v, weight in enumerate(weights):
                self.code.store(scores, weight, j + v * self.lanes)

    def _terms(self, vector: Vector) -> list[Callable[[Value], Value]]:
        """What gives each of `kept`, lane by lane, with a vector of weights added."""
        own = [term for stage in self.stages for term in stage.terms(vector)]
        return [lambda total: total + vector.weight, *own]

    def _factor_of_row(self, row: Value) -> Value | None:
        """What makes unscaled scores powers of two, multiplied in with the difference; None if they are already."""
        if self.forward.unscaled is None:
            return None
        return self.code.spread(self.code.load(self.scratch["factor"], self.number, row), self.lanes)

    def sums(self, block: Block, row: Value) -> None:
        """Add the tile's sums of some rows to their sums so far."""
        code, state, of_chunk = self.code, self.scratch, block.row + row
        correction = code.load(state["correction"], self.type, row)
        total = code.load(state["total"], self.type, of_chunk)

        def drift() -> Value:
            return code.load(state["drift"], self.type, row)

        for i, (name, stage) in enumerate(self.kept):
            own = code.load(state[name], self.type, of_chunk)
            factor = correction
            if stage is not None:
                own = stage.moved(self.forward, own, total, drift)
                factor = stage.factor(self.forward, correction, drift)
            tile_sum = tiles.across_rows(code, self._partials(i, row), Value.__add__)
            code.store(state[name], code.fma(own, factor, tile_sum), of_chunk)

    def _keep_partial(self, number: int, row: Value, lanes: Value) -> None:
        """Keep what a row of the tile came to in each lane; the lanes are combined for many rows at once."""
        self.code.store(self.scratch["partials"], lanes, (row + number * self.spec.block) * self.lanes)

    def _partials(self, number: int, row: Value) -> list[Value]:
        """What as many rows as a vector has lanes came to."""
        first = row + number * self.spec.block
        return [
            self.code.load(self.scratch["partials"], self.type, (first + i) * self.lanes) for i in range(self.lanes)
        ]


def drift(code: Code, before: Value, after: Value) -> Value:
    """How far a maximum has moved, to be multiplied by a total; 0 where there was none."""
    moved = before - after
    return code.select(before == -math.inf, 0.0, code.select(moved < LOWEST, LOWEST, moved))


def _pairwise(combine: Callable[[Value, Value], Value], values: list[Value]) -> Value:
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [combine(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]
