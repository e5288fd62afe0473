"""The column readouts' results: sums over the queries, from a second sweep with the final lse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.engines.cpu.call import RANGES, call
from pellucid.engines.cpu.columns import Columns
from pellucid.engines.cpu.specify import program_of, spec_of
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout, Pooled, Received


def column_sums(problem: Problem, lse: Tensor) -> dict[str, Any]:
    """The results of the problem's column readouts by name; `lse` is [*batch, heads, q_len]."""
    wanted = [readout for readout in problem.readouts if isinstance(readout, ColumnReadout)]
    if not wanted:
        return {}
    whole = replace(problem, readouts=tuple(wanted))
    program = program_of(whole)
    received = next((r for r in wanted if isinstance(r, Received)), None)
    pooled = next((r for r in wanted if isinstance(r, Pooled)), None)
    spec = replace(spec_of(whole, program), rows_out=False, received=received is not None, pooled=pooled is not None)
    sums = {readout.name: readout.start(problem) for readout in wanted}
    partial = {name: total.new_zeros(RANGES, *total.shape) for name, total in sums.items()}
    own = {"lse": lse.data_ptr()} | {name: tensor.data_ptr() for name, tensor in partial.items()}
    if received is not None:
        chosen = range(problem.q_len)[received.queries]
        own |= {"received_first": chosen.start, "received_stop": chosen.stop, "received_step": chosen.step}
    if pooled is not None:
        rows, columns = sums[pooled.name].shape[-2:]
        query_bin, key_bin = _bins(problem.q_len, rows), _bins(problem.k_len, columns)
        own |= {"query_bin": query_bin.data_ptr(), "key_bin": key_bin.data_ptr()}
        own |= {"query_bins": rows, "key_bins": columns}
    output = problem.query.new_empty(*problem.batch, problem.heads, 1, 1)
    call(problem, Columns, program, spec, own, output)
    return {readout.name: readout.finish(partial[readout.name].sum(0), problem) for readout in wanted}


def _bins(length: int, bins: int) -> Tensor:
    return (torch.arange(length) * bins // length).to(torch.int32)
