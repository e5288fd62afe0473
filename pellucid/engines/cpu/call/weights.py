"""Any part of the weights, computed when it is asked for: the call of the weights kernel."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pellucid.engines.cpu.call.arguments import TASKS_A_THREAD, call
from pellucid.engines.cpu.call.specify import program_of, spec_of
from pellucid.engines.cpu.expression.program import Program
from pellucid.engines.cpu.kernels.weights import Weights
from pellucid.engines.cpu.layout import KEYS, Spec
from pellucid.engines.cpu.machine import memory
from pellucid.engines.cpu.machine.target import Target
from pellucid.problem import Problem


def weights(problem: Problem, lse: Tensor, queries: Tensor, keys: Tensor, heads: Tensor) -> Tensor:
    """The weights of the chosen queries, keys and heads, without gradient.

    Args:
        problem: the call, of which this engine covers the attention.
        lse: of the chosen queries and heads, [*batch, heads, queries].
        queries: their indices, int64, in any order, as often as one likes; so with those that follow.
        keys: indices of keys.
        heads: indices of query heads.

    Returns:
        [*batch, heads, queries, keys], float32 (float64 for float64 inputs).

    """
    shape = (*problem.batch, len(heads), len(queries), len(keys))
    result = memory.empty(shape, problem.dtype)
    if not result.numel():
        return result
    # Values play no part, and neither do sinks: the lse has their share.
    problem = replace(problem, value=problem.key, sinks=None, readouts=())
    spec, program = for_weights(problem)
    if not _is_range(keys):
        program = _scattered(program)
    lse = lse.to(problem.dtype).contiguous()
    chosen = {"query_index": queries.contiguous(), "key_index": keys.contiguous(), "head_index": heads.contiguous()}
    pairs = result.shape[:-2].numel()
    own = {"pairs": pairs, "heads": len(heads), "q_len": len(queries), "k_len": len(keys)}
    own |= _shares(spec, pairs, len(queries), len(keys))
    call(problem, Weights, program, spec, (), own, chosen | {"lse": lse}, {"output": result.flatten(0, -3)})
    nan = lse.isnan()
    if nan.any():  # also where the kernel has skipped a tile
        result.masked_fill_(nan[..., None], torch.nan)
    return result


def for_weights(problem: Problem, target: Target | None = None) -> tuple[Spec, Program]:
    """What the weights kernel is compiled for, where neighbouring keys are neighbours in the matrix."""
    problem = replace(problem, value=problem.key, sinks=None)
    program = program_of(problem)
    return replace(spec_of(problem, program, target=target), partial=True, whole=False), program


def _shares(spec: Spec, pairs: int, queries: int, keys: int) -> dict[str, int]:
    """How the part is divided into tasks: by queries, and by keys where those are too few for every thread."""
    wanted = TASKS_A_THREAD * torch.get_num_threads()
    blocks = -(-queries // spec.block)
    chunk = min(spec.chunk, max(1, blocks * pairs // wanted) * spec.block)
    chunks = -(-queries // chunk)
    ranges = max(1, wanted // (pairs * chunks))
    keys_a_range = -(-keys // (ranges * KEYS)) * KEYS
    tasks = pairs * chunks * -(-keys // keys_a_range)
    return {"chunk": chunk, "chunks": chunks, "keys_a_range": keys_a_range, "tasks": tasks}


def _is_range(indices: Tensor) -> bool:
    """Whether they count up one by one."""
    return len(indices) == 1 or bool((indices.diff() == 1).all())


def _scattered(program: Program) -> Program:
    """The program for keys that are no neighbours: of captured tensors each key's own element is read."""
    return Program(program.roots, {key: replace(slot, whole=False) for key, slot in program.slots.items()})
