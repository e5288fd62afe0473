"""What a kernel writes of each row beside the output, and how states over different keys become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import Spec
from pellucid.problem import Problem
from pellucid.readouts import Entropy, Expect, LogSumExp, RowReadout, TopK, mass_on_first
from pellucid.readouts.base import Rows
from pellucid.readouts.topk import TopKeys
from pellucid.softmax import Merge, Softmax, finite


@dataclass
class RowState:
    """What the forward kernel writes of each row: the accumulators, and the largest scores with their keys."""

    spec: Spec
    state: Tensor  # [accumulators, *batch, heads, q_len]
    top_scores: Tensor  # [*batch, heads, q_len, k]
    top_keys: Tensor

    @classmethod
    def empty(cls, spec: Spec, rows: tuple[int, ...], dtype: torch.dtype, parts: int = 1) -> RowState:
        """Not written yet; several parts, each over keys of its own, lie one after another."""
        lead = (parts, *rows) if parts > 1 else rows
        state = torch.empty(len(spec.accumulators), *lead, dtype=dtype) if spec.rows_out else _NOTHING
        if not spec.topk:
            return cls(spec, state, _NOTHING, _NOTHING)
        keys = torch.empty(*lead, spec.topk, dtype=torch.int64)
        return cls(spec, state, torch.empty(*lead, spec.topk, dtype=dtype), keys)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the kernel writes, by the argument that says where."""
        if not self.spec.rows_out:
            return {}
        state = {"state": self.state}
        return state | {"top_scores": self.top_scores, "top_keys": self.top_keys} if self.spec.topk else state

    def part(self, number: int) -> RowState:
        """The state over one range of keys."""
        tops = (self.top_scores[number], self.top_keys[number]) if self.spec.topk else (_NOTHING, _NOTHING)
        return RowState(self.spec, self.state[:, number], *tops)

    def merged(self, output: Tensor, other: RowState, its_output: Tensor) -> tuple[RowState, Tensor]:
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

    def rows(self, sinks: Tensor | None) -> Rows:
        """The softmax's state of every row; `sinks` are [heads]."""
        sink = None if sinks is None else sinks.detach().to(self.state.dtype)[:, None]
        return Rows(Softmax(self.state[0], self.state[1]), sink)

    def readings(self, problem: Problem, rows: Rows, lse: Tensor) -> dict[str, Any]:
        """The row readouts' results: each finishes its own state."""
        own = {name: self.state[2 + i] for i, name in enumerate(self.spec.accumulators[2:])}
        expects = (own[f"expect{i}"] for i in range(self.spec.expects))
        readings: dict[str, Any] = {}
        for readout in problem.readouts:
            if isinstance(readout, LogSumExp):
                readings[readout.name] = lse
            elif isinstance(readout, Entropy):
                readings[readout.name] = readout.finish((own["entropy"],), rows)
            elif isinstance(readout, Expect):
                readings[readout.name] = readout.finish((next(expects),), rows)
            elif isinstance(readout, TopK):
                weights = (self.top_scores - finite(lse)[..., None]).exp_()
                readings[readout.name] = TopKeys(weights, self.top_keys)  # -1 where there is none
            elif isinstance(readout, RowReadout):
                readings[readout.name] = readout.finish((), rows)
        return readings


_NOTHING = torch.empty(0)
_ACCUMULATED = {"entropy": Entropy().merge, "expect": mass_on_first().merge}  # a merge does not depend on the function


def merged(outputs: Tensor, state: RowState, sinks: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, RowState]:
    """The parts over different ranges of keys as one, by the merge of the online softmax and of each readout.

    Args:
        outputs: of each range, [ranges, ..., q_len, value_dim], in the precision of the computation.
        state: of each range.
        sinks: [heads], merged with the whole.
        dtype: of the output.

    """
    whole, output = state.part(0), outputs[0]
    shape = (*whole.state.shape[1:], output.shape[-1])
    output = output.view(shape)
    for part in range(1, len(outputs)):
        whole, output = whole.merged(output, state.part(part), outputs[part].view(shape))
    share = whole.rows(sinks).factor * whole.state[1]  # less than 1 where a sink takes weight
    return (output * share[..., None]).to(dtype).view(outputs.shape[1:]), whole
