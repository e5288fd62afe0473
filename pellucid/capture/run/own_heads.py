"""Which of a module's heads a rank has, where tensor parallelism has left it some of them."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from pellucid.capture.calls.call import Call, HeadsFrom
from pellucid.record.sharing.ranks import Ranks, is_one_of_several
from pellucid.tensors import bits

DECLARED = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def heads_from(name: str, module: nn.Module, call: Call, ranks: Ranks | None) -> HeadsFrom:
    """Which heads a call has: by the weights that made its queries, its model's configuration, or the ranks named.

    A number of heads that the module itself holds is not asked: who divides heads by hand sets it to the rank's own.

    Args:
        name: of the module.
        module: what attends.
        call: what it asks for.
        ranks: as `watch` was given them; None if it was not.

    Raises:
        RuntimeError: it has fewer heads than its model's configuration says, or its weights lie on several ranks, and
            no ranks were named, or others.

    """
    found, configured = _by_weights(module, call), _number(getattr(module, "config", None))
    if found is not None and configured in (None, found.of):
        return found
    if configured == call.heads or (ranks is not None and "heads" not in ranks.groups):
        return HeadsFrom(0, call.heads)
    if ranks is not None:
        return _among(ranks, name, call) if configured is None else _cut(ranks, name, call, configured)
    if is_one_of_several():
        _refuse_unknown(name, module, call, configured)
    return HeadsFrom(0, call.heads)


def _refuse_unknown(name: str, module: nn.Module, call: Call, configured: int | None) -> None:
    """Raise RuntimeError where a module seems to have some of its heads, and nobody says which."""
    declared = configured or _number(module)
    if declared is not None and call.heads < declared:
        reason = f"{name} has {call.heads} of {declared} heads on this rank"
    elif configured is None and any(map(_is_cut, _own_children(module))):
        reason = f"the weights of {name} lie on several ranks"
    else:
        return
    raise RuntimeError(
        f"watch: {reason}; say which ranks have its other heads, watch(model, ranks={{'heads': group}}), or ranks={{}} "
        "if none has"
    )


def _number(holder: object) -> int | None:
    """How many heads a module, or a configuration, says that there are."""
    numbers = (getattr(holder, name, None) for name in DECLARED)
    return next((number for number in numbers if isinstance(number, int) and number > 0), None)


def _by_weights(module: nn.Module, call: Call) -> HeadsFrom | None:
    """By the sharded weights of the projection that gave just these queries; None where it is not to be seen."""
    width = call.query.shape[-1]
    found = set()
    for name, child in module.named_children():
        makes_queries = "q" in name.lower() and "k" not in name.lower()  # and no keys beside them
        if makes_queries and not _is_data_parallel(child) and _is_cut(child):
            weight: Any = child.weight
            rows = _rows_of(weight)
            if rows is not None and len(rows) == call.heads * width < weight.shape[0] and not rows.start % width:
                found.add(HeadsFrom(rows.start // width, weight.shape[0] // width))
    return found.pop() if len(found) == 1 else None


def _own_children(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if not _is_data_parallel(child)]


def _is_cut(module: nn.Module) -> bool:
    """Whether a module's weight is a matrix of which a rank has some."""
    library = sys.modules.get("torch.distributed.tensor")
    weight = getattr(module, "weight", None)
    if library is None or not isinstance(weight, library.DTensor) or weight.ndim != 2:
        return False
    return bool(weight.to_local().shape != weight.shape)


def _is_data_parallel(module: nn.Module) -> bool:
    """Whether FSDP has cut a module's weights, which says nothing of heads."""
    library = sys.modules.get("torch.distributed.fsdp")
    return library is not None and isinstance(module, library.FSDPModule)


def _rows_of(weight: Any) -> range | None:
    """The rows that a rank has of a DTensor that is cut as ColwiseParallel does; None where it is cut otherwise."""
    from pellucid.distributed.layout import even

    rows = range(weight.shape[0])
    for dim, place in enumerate(weight.placements):
        if place.is_shard(0):
            own = even(len(rows), weight.device_mesh.size(dim)).spans[weight.device_mesh.get_local_rank(dim)][0]
            rows = rows[own.start : own.stop]
        elif not place.is_replicate():
            return None
    return rows if len(rows) == weight.to_local().shape[0] else None


def _cut(ranks: Ranks, name: str, call: Call, declared: int) -> HeadsFrom:
    """The stretch of the heads that a rank has of so many."""
    from pellucid.distributed.layout import even

    rank, size = ranks.place("heads")
    own = even(declared, size).spans[rank][0]
    if len(own) != call.heads:
        raise RuntimeError(
            f"ranks: of the {declared} heads of {name} rank {rank} of {size} has {len(own)}, and the call has "
            f"{call.heads}; name the group that they are divided among"
        )
    return HeadsFrom(own.start, declared)


def _among(ranks: Ranks, name: str, call: Call) -> HeadsFrom:
    """The heads of all ranks one after another; where all have computed the very same, each has all of them."""
    from pellucid.distributed.exchange import numbers_of_all

    rank, size = ranks.place("heads")
    every = numbers_of_all(ranks.groups["heads"], [call.heads, bits.of(call.query), bits.of(call.key)])
    if size > 1 and all(numbers == every[0] for numbers in every):
        return HeadsFrom(0, call.heads)
    counts = [numbers[0] for numbers in every]
    return HeadsFrom(sum(counts[:rank]), sum(counts))
