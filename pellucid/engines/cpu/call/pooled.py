"""The pooled readouts' part in a call: their arguments, and their results from what the chunks of queries wrote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.problem import Problem
from pellucid.readouts import Pooled, PooledMax

POOLED_BYTES = 2 << 20  # of a thread's memory at most for bins, if they need not be more for a single block of queries
# Chunks of a head, for any number of threads, heads and batches: sums that are rounded together must be the same.
POOLED_CHUNKS = 8
LEAST_POOLED = 512  # queries of such a chunk, if there are as many: packing the keys is shared by so many
POOLED_RANGES = 64  # of a head's queries, each with a row of bins of its own, if there are not more bins of queries


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

    def written(self, pairs: int, queries: int, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
        """What the kernel joins to, by argument.

        The bins, [pairs, rows, columns], and for each range of queries what it adds to a bin that the range before has
        begun, [pairs, ranges, columns]: no two threads ever meet in one place.

        Args:
            pairs: heads of all batches.
            queries: those of a task, which is a range of them.
            dtype: of the computation.
            device: "cpu", or "meta" for the sizes alone.

        """
        ranges = -(-self.q_len // queries)
        shared = torch.zeros(pairs, ranges if ranges > 1 else 0, self.columns, dtype=dtype, device=device)
        bins = torch.empty(pairs, self.rows, self.columns, dtype=dtype, device=device)
        return {self.name: bins, f"{self.name}_shared": shared}

    def tables(self, spec: Spec, dtype: torch.dtype) -> dict[str, Tensor]:
        """Where each key's bin lies and whether it goes on, and each query's bin, by argument."""
        padded = -(-self.k_len // KEYS) * KEYS
        bins = torch.arange(padded, device="cpu").clamp_(max=self.k_len - 1) * self.columns // self.k_len
        keep = torch.zeros(padded, dtype=dtype, device="cpu")
        torch.eq(bins[1:], bins[:-1], out=keep[1:])
        queries = torch.arange(self.q_len, device="cpu") * self.rows // self.q_len
        return {f"{self.name}_keys": bins * spec.lanes, f"{self.name}_keep": keep, f"{self.name}_queries": queries}

    def joined(self, written: dict[str, Tensor], queries: int) -> Tensor:
        """The bins, [pairs, rows, columns], what was shared added."""
        whole, shared = written[self.name], written[f"{self.name}_shared"]
        for number in range(1, shared.shape[1]):
            own, part = whole[:, number * queries * self.rows // self.q_len], shared[:, number]
            torch.add(own, part, out=own) if self.name == Pooled.name else torch.maximum(own, part, out=own)
        return whole


def most_pooled(pools: tuple[Pool, ...], spec: Spec) -> int:
    """Queries of a chunk at most, whole blocks."""
    block = sum(pool.memory(spec.block, spec) for pool in pools)
    return max(1, POOLED_BYTES // block) * spec.block


def chunks_a_range(pools: tuple[Pool, ...], chunks: int) -> int:
    """Chunks of a task: several where a row of bins for each would take too much, as with a bin for every key."""
    return -(-chunks // max(POOLED_RANGES, *(pool.rows for pool in pools)))


def pools_of(problem: Problem) -> tuple[Pool, ...]:
    """The problem's pooled readouts."""
    wanted = (readout for readout in problem.readouts if isinstance(readout, Pooled | PooledMax))
    return tuple(
        Pool(r.name, min(r.queries, problem.q_len), min(r.keys, problem.k_len), problem.q_len, problem.k_len)
        for r in wanted
    )
