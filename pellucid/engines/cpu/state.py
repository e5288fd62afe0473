"""What a kernel writes of each row beside the output, and how states over different keys become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import Spec
from pellucid.problem import Problem
from pellucid.readouts import Entropy, Expect, RowReadout, TopK, mass_on_first
from pellucid.readouts.base import Rows
from pellucid.softmax import Merge, Softmax


@dataclass
class RowState:
    """What the forward kernel writes of each row: the accumulators, and the largest scores with their keys."""

    spec: Spec
    state: Tensor  # [accumulators, *batch, heads, q_len]
    top_scores: Tensor  # [*batch, heads, q_len, k]
    top_keys: Tensor

    @classmethod
    def empty(cls, problem: Problem, spec: Spec, parts: int = 0) -> RowState:
        """Not written yet."""
        lead = (parts, *problem.rows) if parts else problem.rows
        state = torch.empty(len(spec.accumulators) if spec.rows_out else 0, *lead, dtype=problem.dtype)
        top_scores = torch.empty(*lead, spec.topk, dtype=problem.dtype)
        return cls(spec, state, top_scores, torch.empty(*lead, spec.topk, dtype=torch.int64))

    def arguments(self) -> dict[str, int]:
        """Where the kernel writes."""
        where = {name: getattr(self, name).data_ptr() for name in ("state", "top_scores", "top_keys")}
        return where | {"state_rows": self.state[:1].numel()}

    def part(self, number: int) -> RowState:
        """The state over one range of keys."""
        return RowState(self.spec, self.state[:, number], self.top_scores[number], self.top_keys[number])

    def merged(self, problem: Problem, output: Tensor, other: RowState, its_output: Tensor) -> tuple[RowState, Tensor]:
        """The state and output merged with another's, over later keys."""
        merge = Merge(Softmax(*self.state[:2]), Softmax(*other.state[:2]))
        whole = [*merge.whole]
        for name, mine, theirs in zip(self.spec.accumulators[2:], self.state[2:], other.state[2:], strict=True):
            readout = _ACCUMULATED["entropy" if name == "entropy" else "expect"]
            whole += readout((mine,), (theirs,), merge)
        tops = (self.top_scores, self.top_keys), (other.top_scores, other.top_keys)
        top = TopK(self.spec.topk).merge(*tops, merge) if self.spec.topk else tops[0]
        total = merge.whole.total.masked_fill(merge.whole.total == 0, 1.0)
        left = self.state[1] * merge.left_factor / total
        right = other.state[1] * merge.right_factor / total
        output = output * left[..., None] + its_output * right[..., None]
        return RowState(self.spec, torch.stack(whole), *top), output

    def rows(self, problem: Problem) -> Rows:
        """The softmax's state of every row."""
        sink = None if problem.sinks is None else problem.sinks.detach().to(problem.dtype)[:, None]
        return Rows(Softmax(self.state[0], self.state[1]), sink)

    def readings(self, problem: Problem, rows: Rows) -> dict[str, Any]:
        """The row readouts' results: each finishes its own state."""
        own = dict(zip(self.spec.accumulators, self.state, strict=True))
        expects = (own[f"expect{i}"] for i in range(self.spec.expects))
        readings: dict[str, Any] = {}
        for readout in problem.readouts:
            if isinstance(readout, Entropy):
                readings[readout.name] = readout.finish((own["entropy"],), rows)
            elif isinstance(readout, Expect):
                readings[readout.name] = readout.finish((next(expects),), rows)
            elif isinstance(readout, TopK):
                readings[readout.name] = readout.finish((self.top_scores, self.top_keys), rows)
            elif isinstance(readout, RowReadout):
                readings[readout.name] = readout.finish((), rows)
        return readings


_ACCUMULATED = {"entropy": Entropy().merge, "expect": mass_on_first().merge}  # a merge does not depend on the function
