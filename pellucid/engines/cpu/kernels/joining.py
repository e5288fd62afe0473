"""Forward, whose rows become part of what the same queries have of other keys, in place."""

from __future__ import annotations

import math

from pellucid.engines.cpu.expression import vectormath
from pellucid.engines.cpu.kernels.block import Task
from pellucid.engines.cpu.kernels.forward import Forward
from pellucid.engines.cpu.kernels.kernel import LN2
from pellucid.engines.cpu.machine.builder import I32, Value
from pellucid.engines.cpu.products import tiles


class Joining(Forward):
    """The output that is there counts as one more key's value, its lse as that key's score."""

    def finish(self, task: Task) -> None:
        """Write the mean of both, each by its share of the row's weight; a row without any key is left as it is."""
        code = self.code

        def rows(first: Value) -> None:
            self._share(task, first)
            count = code.minimum(task.rows - first, self.lanes)
            code.loop(0, count, lambda row: self._join(task, first + row, row))

        code.loop(0, task.rows, rows, step=self.lanes)
        self.finish_state(task)

    def _share(self, task: Task, first: Value) -> None:
        """Of as many rows as a vector has lanes: the lse of both, and what either's output is to be multiplied by."""
        code, place = self.code, self.place_of_row(task, first)
        there = code.spread((task.rows - first).to(I32), self.lanes) > code.ramp(I32, self.lanes)
        natural = code.masked_load(self.pointer("lse"), self.type, there, place)
        maximum, total = (code.load(self.scratch[name], self.type, first) for name in ("maximum", "total"))
        before = natural * (1.0 / self.unit)
        largest = code.maximum(maximum, before)
        largest = code.select(largest == -math.inf, 0.0, largest)
        new = self.power(maximum - largest)
        old = code.select(before != before, math.nan, self.power(before - largest))
        both = code.fma(total, new, old)
        power = vectormath.log2(code, both) * (LN2 / self.unit)
        nothing = both == 0.0
        lse = code.select(nothing, natural, (largest + power) * self.unit)
        code.masked_store(self.pointer("lse"), lse, there, place)
        code.store(self.scratch["correction"], code.select(nothing, 1.0, old / both), 0)
        code.store(self.scratch["shift"], code.select(nothing, 0.0, new / both), 0)

    def _join(self, task: Task, row: Value, lane: Value) -> None:
        code, spec, output = self.code, self.spec, self.output_of_row(task, row)
        old, new = (
            code.spread(code.load(self.scratch[name], self.number, lane), self.lanes)
            for name in ("correction", "shift")
        )
        for start, length in tiles.columns(spec.value_dim, self.lanes):
            sums = code.load(self.scratch["output"], self.type, row * spec.value_width + start)
            valid = tiles.first_lanes(code, self.lanes, length)
            if valid is None:
                before = code.load(output, self.type, start)
            else:
                before = code.masked_load(output, self.type, valid, start)
            tiles.store_numbers(code, spec, output, before * old + sums * new, start, valid)
