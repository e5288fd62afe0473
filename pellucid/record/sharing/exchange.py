"""What ranks send one another of a record, group by group: those that divide positions, heads, sequences and layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist

from pellucid.distributed.exchange import reaching
from pellucid.record.sharing.ranks import Ranks

Join = Callable[[str, Sequence[Any]], Any]  # of an axis and what its ranks have


def everywhere(ranks: Ranks, own: Any, join: Join) -> Any:
    """What the ranks have, joined axis by axis, on each of them.

    Raises:
        LostRankError: a rank is not reached.
        ValueError: they cannot be joined; on every rank.

    """
    for axis, group in ranks.groups.items():
        every: list[Any] = [None] * dist.get_world_size(group)
        with reaching("the ranks' parts of a record are gathered"):
            dist.all_gather_object(every, own, group)
        own = _joined(join, axis, every)
    if isinstance(own, Exception):
        raise own
    return own


def at(ranks: Ranks, places: Mapping[str, int], own: Any, join: Join) -> tuple[bool, Any]:
    """Whether this rank is the one that has these places in the groups; there what all have, joined, or the error.

    Args:
        ranks: the groups.
        places: in some of them, which rank is to have it.
        own: what this rank has.
        join: see `everywhere`.

    """
    for axis, place in places.items():
        group, (rank, size) = ranks.groups[axis], ranks.place(axis)
        every: list[Any] | None = [None] * size if rank == place else None
        with reaching("the ranks' parts of a record are gathered"):
            dist.gather_object(own, every, group=group, group_dst=place)
        if every is None:
            return False, None
        own = _joined(join, axis, every)
    return True, own


def told(ranks: Ranks, own: Any) -> list[Any]:
    """What each rank says, on each."""
    found: list[Any] = everywhere(ranks, [own], listed)
    return found


def listed(axis: str, parts: Sequence[Sequence[Any]]) -> list[Any]:
    """What all ranks say, one after another."""
    return [one for part in parts for one in part]


def _joined(join: Join, axis: str, parts: Sequence[Any]) -> Any:
    """What they are together; an error goes on to those who would wait for it."""
    fault = next((part for part in parts if isinstance(part, Exception)), None)
    if fault is not None:
        return fault
    try:
        return join(axis, parts)
    except ValueError as error:
        return error
