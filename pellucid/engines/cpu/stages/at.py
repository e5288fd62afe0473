"""At: the scores of given keys, looked up in each tile that has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pellucid.engines.cpu.machine.builder import I32, I64, Value
from pellucid.engines.cpu.stages.gradient import Back, Carried
from pellucid.engines.cpu.stages.places import carried_weights
from pellucid.engines.cpu.stages.stage import Found, Reading, Sizes, Stage, one_of_a_name
from pellucid.engines.reason import Reason
from pellucid.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.engines.cpu.kernels.block import Block, Task
    from pellucid.engines.cpu.kernels.forward import Forward
    from pellucid.engines.cpu.layout import Spec

MOST = 1024
SCORES = "at_scores"  # in the scratch memory, and the argument where they are written


@dataclass(frozen=True)
class AtStage(Stage):
    """So many scores a row; `root` is the program's function that gives their keys, its "k" being which of them."""

    root: str
    columns: int
    reads_scores = True

    @property
    def arguments(self) -> tuple[str, ...]:
        """Where the scores are written."""
        return (SCORES,)

    def width(self, spec: Spec) -> int:
        """Places of a row: whole vectors."""
        return -(-self.columns // spec.lanes) * spec.lanes

    def a_row(self, spec: Spec) -> int:
        """Its scores."""
        return self.width(spec)

    def scratch(self, spec: Spec, rows: int) -> dict[str, int]:
        """The scores of a chunk."""
        return {SCORES: rows * self.width(spec)}

    def start(self, forward: Forward, task: Task, rows: Value) -> None:
        """None seen."""
        nothing = forward.code.constant(forward.number, -math.inf)
        forward.fill(forward.scratch[SCORES], rows * self.width(forward.spec), nothing)

    def before(self, forward: Forward, block: Block, row: Value) -> None:
        """Take the scores of those keys that are in the tile."""
        code, lanes, integer = forward.code, forward.lanes, forward.numbers.integer
        functions, scores = forward.sweep.of_row(block, row), forward.row_of_tile(row)
        mine = code.at(forward.scratch[SCORES], (block.row + row) * self.width(forward.spec), forward.number)
        key, count = (code.spread(value.to(integer), lanes) for value in (block.key, block.count))

        def some(j: Value) -> None:
            valid = code.spread((self.columns - j).to(I32), lanes) > code.ramp(I32, lanes)
            columns = code.spread(j.to(integer), lanes) + code.ramp(integer, lanes)
            keys = functions.bind("k", columns).value(forward.program.roots[self.root], valid)
            place = code.spread(keys, lanes) - key
            here = valid & (place >= 0) & (place < count)
            inside = code.select(here, place, 0).to(I64)
            found = code.gather(scores, forward.number, inside, here)
            code.store(mine, code.select(here, found, code.load(mine, forward.type, j)), j)

        code.loop(0, code.i64(self.columns), some, step=lanes)

    def write(self, forward: Forward, row: Value, place: Value, shift: Value, total: Value) -> None:
        """The scores, less the row's maximum."""
        code = forward.code

        def one(i: Value) -> None:
            score = code.load(forward.scratch[SCORES], forward.number, row * self.width(forward.spec) + i)
            code.store(forward.pointer(SCORES), (score - shift) * forward.unit, place * self.columns + i)

        code.loop(0, self.columns, one)

    def kept(self, spec: Spec, rows: int) -> dict[str, int]:
        """The scores."""
        return {SCORES: rows * self.width(spec)}

    def merge(self, forward: Forward, kept: dict[str, Value], row: Value) -> None:
        """Each score from the range that has its key."""
        code, first = forward.code, row * self.width(forward.spec)

        def some(i: Value) -> None:
            both = [code.load(of[SCORES], forward.type, first + i) for of in (forward.scratch, kept)]
            code.store(forward.scratch[SCORES], code.maximum(*both), first + i)

        code.loop(0, self.columns, some, step=forward.lanes)


@dataclass(frozen=True)
class AtReading(Reading):
    """How many keys, and the function that gives them."""

    root: str
    columns: int
    per_head: bool

    @classmethod
    def why_not(cls, readout: Any) -> Reason | None:
        """It looks up so many keys of one."""
        if not 1 <= readout.columns <= MOST:
            return Reason(f"At looks up 1 to {MOST} keys a query, not {readout.columns}", mine=True)
        return one_of_a_name(readout)

    @classmethod
    def of(cls, readout: Any, problem: Problem, roots: Sequence[str]) -> AtReading:
        """By the function's name in the program."""
        (root,) = roots
        return cls(readout.name, root, readout.columns, readout.per_head)

    @property
    def stage(self) -> AtStage:
        """The scores."""
        return AtStage(self.root, self.columns)

    def written(self, sizes: Sizes) -> dict[str, Tensor]:
        """Scores less the row's maximum, [*batch, heads, q_len, columns]."""
        return {SCORES: torch.empty(*sizes.rows, self.columns, dtype=sizes.dtype, device=sizes.device)}

    def result(self, readout: Any, found: Found) -> Tensor:
        """The scores as weights; of no key, 0."""
        weights = found.written[SCORES].exp_().mul_(found.rows.factor[..., None])
        result: Tensor = readout.of_weights(weights, readout.keys_of(found.problem) >= 0)
        return result

    carries = True

    @property
    def kept(self) -> tuple[str, ...]:
        """Each head's weights, unless they are the result."""
        return () if self.per_head else (SCORES,)

    def carried(self, name: str, readout: Any, back: Back) -> Carried:
        """To the weights of those keys."""
        keys = readout.keys_of(back.problem)
        if self.per_head:
            return carried_weights(name, keys, back.result, back.gradient)
        return carried_weights(name, keys, back.found.written[SCORES], back.gradient.unsqueeze(-3))
