"""What a kernel writes of each row beside the output, as the readouts' results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import Spec
from pellucid.problem import Problem
from pellucid.readouts import Entropy, Expect, LogSumExp, RowReadout, TopK
from pellucid.readouts.base import Rows
from pellucid.readouts.topk import TopKeys
from pellucid.softmax import Softmax


@dataclass
class RowState:
    """What the forward kernel writes of each row: the accumulators, and the largest scores with their keys."""

    spec: Spec
    state: Tensor  # [accumulators, *batch, heads, q_len]
    top_scores: Tensor  # [*batch, heads, q_len, k], less the row's maximum
    top_keys: Tensor

    @classmethod
    def empty(cls, spec: Spec, rows: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> RowState:
        """Not written yet.

        Args:
            spec: says what is written.
            rows: the shape of one number a row, [*batch, heads, q_len].
            dtype: of the computation; keys are int64.
            device: "cpu", or "meta" for the sizes alone.

        """
        state = torch.empty(len(spec.accumulators), *rows, dtype=dtype, device=device) if spec.rows_out else _NOTHING
        if not spec.topk:
            return cls(spec, state, _NOTHING, _NOTHING)
        keys = torch.empty(*rows, spec.topk, dtype=torch.int64, device=device)
        return cls(spec, state, torch.empty(*rows, spec.topk, dtype=dtype, device=device), keys)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the kernel writes, by the argument that says where."""
        if not self.spec.rows_out:
            return {}
        state = {"state": self.state}
        return state | {"top_scores": self.top_scores, "top_keys": self.top_keys} if self.spec.topk else state

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
                readings[readout.name] = self._top_keys(rows)
            elif isinstance(readout, RowReadout):
                readings[readout.name] = readout.finish((), rows)
        return readings

    def _top_keys(self, rows: Rows) -> TopKeys:
        """The keys are -1 where there is none; a sink that is NaN the kernel has not seen among the scores."""
        weights = self.top_scores.exp_().mul_(rows.factor[..., None])
        keys = self.top_keys
        if rows.sink is not None:
            keys = keys.masked_fill(rows.whole.total.isnan()[..., None], -1)
        return TopKeys(weights, keys)


_NOTHING = torch.empty(0, device="cpu")
