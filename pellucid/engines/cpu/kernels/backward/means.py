"""The means kernel: a row's mean of a function under its weights, from one more sweep over query @ key.T.

Backward needs it of the gradients that sums over queries give each weight, which forward could not know.
"""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.engines.cpu.kernels.block import Block
from pellucid.engines.cpu.kernels.kernel import Kernel
from pellucid.engines.cpu.kernels.sweep import Sweep
from pellucid.engines.cpu.layout import Spec
from pellucid.engines.cpu.machine.builder import Value
from pellucid.engines.cpu.stages.expect import counted

FUNCTION = "upstream"  # in the program


@dataclass(frozen=True)
class MeansSpec(Spec):
    """What a means kernel is compiled for."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The rows' softmax, as in the backward kernel, and where the means are added up: [*batch, heads, q_len]."""
        return "maximum", "log_total", "means"


class Means(Kernel):
    """Each row's final weights times the function."""

    def sweep_of(self) -> Sweep:
        """Without the values."""
        return Sweep(self, packs_values=False)

    def perform(self, pair: Value, share: Value) -> None:
        """A chunk of the queries."""
        self.sweep.through(self.task(pair, share), self.tile)

    def tile(self, block: Block, full: Value) -> None:
        """Add a tile's share to its rows' means."""

        def rows(masked: bool) -> None:
            self.code.loop(0, block.rows, lambda row: self.add_row(block, row, masked=masked))

        self.masked_or_not(full, rows)

    def add_row(self, block: Block, row: Value, *, masked: bool) -> None:
        """Add a row's."""
        code, functions, scores = self.code, self.sweep.of_row(block, row), self.row_of_tile(row)
        expression, place = self.program.roots[FUNCTION], block.task.pair * self.q_len + block.query + row
        known = (code.load(self.pointer(name), self.number, place) for name in ("maximum", "log_total"))
        maximum, log_total = (code.spread(number, self.lanes) for number in known)

        def panel(j: Value, *sums: Value) -> list[Value]:
            result = []
            for v, total in enumerate(sums):
                first = j + v * self.lanes
                score = self.modified(functions, code.load(scores, self.type, first), block, first, masked)
                weight = self.power(code.minimum(0.0, (score - maximum) - log_total))
                exists = self.sweep.exists(block, first) if masked else None
                value = functions.bind("k", self.sweep.keys(block, first)).value(expression, exists)
                result.append(code.fma(weight, counted(expression, weight, code.spread(value, self.lanes)), total))
            return result

        sums = code.loop(0, block.count, panel, [code.constant(self.type, 0.0)] * self.spec.vectors, step=self.panel)
        total = sum(sums[1:], sums[0])
        means = self.pointer("means")
        code.store(means, code.load(means, self.number, place) + code.reduce("add", total), place)
