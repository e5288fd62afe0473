"""Readings that carry gradients: when they can, and how their graph stays out of what a checkpoint counts."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pellucid.capture.calls.call import Call
from pellucid.readouts import ColumnReadout, Readout
from pellucid.record.record import Record


class _Here(threading.local):
    whole = False  # whether what is saved for backward is kept as it is


_here = _Here()


def in_backward() -> bool:
    """Whether autograd is computing gradients: then a checkpointed forward is run a second time."""
    return torch._C._current_graph_task_id() != -1


def is_replayed() -> bool:
    """Whether autograd may run this forward again, and compare what it saves, watched or not."""
    hooked = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    return torch.is_grad_enabled() and hooked and not _here.whole


@contextmanager
def kept_whole() -> Iterator[None]:
    """Keep what is saved for backward inside the `with` as it is: a checkpoint around it neither counts nor drops it.

    A forward that is run again need then not be read again, nor be watched any more.
    """
    if not is_replayed():
        yield
        return
    _here.whole = True
    try:
        with torch.autograd.graph.saved_tensors_hooks(_itself, _itself):
            yield
    finally:
        _here.whole = False


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def check_readouts(readouts: Iterable[Readout]) -> None:
    """Raise ValueError for readouts that carry no gradient."""
    for readout in readouts:
        if not readout.differentiable:
            raise ValueError(
                f"gradients: {type(readout).__name__} ({readout.name!r}) is not differentiable; "
                "leave it out, or read it in a watch of its own"
            )


def check_mode(name: str) -> None:
    """Raise RuntimeError where nothing that a module computes carries a gradient."""
    if not torch.is_grad_enabled():
        raise RuntimeError(
            f"gradients: {name} runs where torch computes none (torch.no_grad, torch.inference_mode, `generate`, or a "
            "checkpoint with use_reentrant=True); call the model outside of it, or watch without gradients=True"
        )


def graph_bytes(call: Call, readouts: Iterable[Readout]) -> int:
    """Bytes that the graph of a call's readings holds until backward: what it was called with, output, and row sums."""
    query, key, value = call.problem.query, call.problem.key, call.problem.value
    rows = call.batch * call.heads * call.q_len
    numbers = query.numel() + key.numel() + value.numel() + rows * value.shape[-1]
    if call.by_hand:
        numbers += rows * call.k_len
    return numbers * query.element_size() + rows * 4 * (2 + sum(1 for _ in readouts))


def note_sums(record: Record, gradients: bool, readouts: Iterable[Readout]) -> None:
    """Say of what is read of all ranks together that it carries no gradient."""
    sums = [readout.name for readout in readouts if isinstance(readout, ColumnReadout)]
    note = f"gradients: {', '.join(sums)}, summed over the queries of all ranks, carries none"
    if gradients and sums and note not in record.notes:
        record.notes.append(note)


def note_without(record: Record) -> None:
    """Say of which layers the readings carry no gradient, for nothing that they come from needs one."""
    without = [name for name, layer in record.items() if not layer.requires_grad]
    if not without:
        return
    few = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
    reason = "nothing that their queries and keys are computed from needs one (requires_grad)"
    note = f"gradients: readings of {few} carry none: {reason}"
    record.notes.append(note)
    if len(without) == len(record):
        warnings.warn(f"watch: {note}", stacklevel=6)
