"""The pooled readouts' part in a call: their arguments, and their results from what the chunks of queries wrote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.problem import Problem
from pellucid.readouts import Pooled, PooledMax

POOLED_BYTES = 2 << 20  # of a thread's memory at most for bins, if they need not be more for a single block of queries
POOLED_TASKS = 16  # chunks over all heads, for any number of threads: sums that are rounded together must be the same


@dataclass(frozen=True)
class Pool:
    """One pooled readout of a call."""

    name: str
    rows: int  # bins of queries
    columns: int  # bins of keys
    q_len: int
    k_len: int

    def memory(self, chunk: int, spec: Spec) -> int:
        """Bytes for the bins of a chunk of queries."""
        return chunk * -(-self.columns // spec.lanes) * spec.lanes * spec.size

    def sizes(self, chunk: int) -> dict[str, int]:
        """Numbers that the kernel is told, by argument."""
        return {f"{self.name}_bins": self.columns, f"{self.name}_span": self.span(chunk)}

    def span(self, chunk: int) -> int:
        """Bins that a chunk of queries reaches into, at most."""
        return min(self.rows, chunk * self.rows // self.q_len + 2)

    def written(self, pairs: int, chunk: int, dtype: torch.dtype) -> Tensor:
        """What the kernel joins to, [pairs, chunks, span, columns]."""
        return torch.zeros(pairs, -(-self.q_len // chunk), self.span(chunk), self.columns, dtype=dtype)

    def tables(self, spec: Spec, dtype: torch.dtype) -> dict[str, Tensor]:
        """Where each key's bin lies and whether it goes on, and each query's bin, by argument."""
        padded = -(-self.k_len // KEYS) * KEYS
        bins = torch.arange(padded).clamp_(max=self.k_len - 1) * self.columns // self.k_len
        keep = torch.zeros(padded, dtype=dtype)
        torch.eq(bins[1:], bins[:-1], out=keep[1:])
        queries = torch.arange(self.q_len) * self.rows // self.q_len
        return {f"{self.name}_keys": bins * spec.lanes, f"{self.name}_keep": keep, f"{self.name}_queries": queries}

    def joined(self, written: Tensor, chunk: int) -> Tensor:
        """What the chunks wrote as one, [pairs, rows, columns]."""
        if written.shape[1] == 1:
            return written[:, 0]
        whole = written.new_zeros(len(written), self.rows, self.columns)
        for number, part in enumerate(written.unbind(1)):
            first = number * chunk * self.rows // self.q_len
            own = whole[:, first : first + self.span(chunk)]
            part = part[:, : own.shape[1]]
            torch.add(own, part, out=own) if self.name == Pooled.name else torch.maximum(own, part, out=own)
        return whole


def most_pooled(pools: tuple[Pool, ...], spec: Spec) -> int:
    """Queries of a task at most, whole blocks."""
    block = sum(pool.memory(spec.block, spec) for pool in pools)
    return max(1, POOLED_BYTES // block) * spec.block


def pools_of(problem: Problem) -> tuple[Pool, ...]:
    """The problem's pooled readouts."""
    wanted = (readout for readout in problem.readouts if isinstance(readout, Pooled | PooledMax))
    return tuple(
        Pool(r.name, min(r.queries, problem.q_len), min(r.keys, problem.k_len), problem.q_len, problem.k_len)
        for r in wanted
    )
