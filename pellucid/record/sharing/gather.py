"""A record of all ranks in the memory of each, or of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from pellucid.record.sharing.exchange import agree, at, everywhere, told
from pellucid.record.sharing.ranks import Ranks
from pellucid.record.sharing.whole import joined, piece_of

if TYPE_CHECKING:
    from pellucid.record.record import Record


def gather(record: Record, ranks: Ranks, to: int | None) -> Record | None:
    """The record of all ranks, which all ask for it.

    Args:
        record: this rank's.
        ranks: among which the run is divided.
        to: the number of the one rank that gets it, among all; every rank if None.

    Returns:
        A Record in memory; None on another rank than `to`.

    Raises:
        LostRankError: a rank is not reached.
        ValueError: what the ranks have are not parts of one record, or `to` is none of them or not the same.

    """
    agree(ranks, call="gather(...)", to=to)
    if to is None:
        found: Record = everywhere(ranks, piece_of(record), joined).record
        return found
    own = {axis: ranks.place(axis)[0] for axis in ranks.groups}
    places = next((places for rank, places in told(ranks, (dist.get_rank(), own)) if rank == to), None)
    if places is None:
        raise ValueError(f"to: rank {to} is none of those that the run is divided among")
    is_here, piece = at(ranks, places, piece_of(record), joined)
    faults = told(ranks, piece if isinstance(piece, Exception) else None)
    if any(faults):
        raise next(fault for fault in faults if fault)
    return piece.record if is_here else None
