"""The strongest of each head, in bounded lists: ordered wholly, so that lists of parts merge to those of the whole."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

NONE = -1  # the document of a place that is not taken


class Entries(NamedTuple):
    """Lists [..., k] of queries and what they looked at, strongest first.

    Stronger is what has the higher value; among equals, the earlier document, query and key. A list that is not full
    has places at its end whose document is NONE and whose value is -inf.
    """

    value: Tensor  # float64, the number that the list is ordered by
    document: Tensor  # int64, its place among the profile's documents
    query: Tensor  # int32, position; NONE where the entry is about a key alone
    key: Tensor  # int32, position of the key that took most; NONE where that is not known
    weight: Tensor  # float32, what that key took
    start: Tensor  # int32, the position of the first of the rows that are kept
    keys: Tensor  # int32 [..., k, rows, top], the strongest keys of these rows; NONE where there are fewer
    weights: Tensor  # float32, what they took

    @property
    def size(self) -> int:
        """How long a list is."""
        return self.value.shape[-1]

    def best(self, size: int) -> Entries:
        """The first `size` places of each list once it is ordered."""
        order = _order(self)[..., :size]
        return Entries(*(_taken(part, order) for part in self))

    def merged(self, other: Entries) -> Entries:
        """The lists of both, as long as those of the first."""
        dim = self.value.ndim - 1
        return Entries(*(torch.cat(parts, dim) for parts in zip(self, other, strict=True))).best(self.size)

    def of_documents(self, places: Tensor) -> Entries:
        """The same lists where document i has become `places[i]`."""
        taken = self.document >= 0
        moved = places[self.document.clamp(min=0)] if len(places) else self.document
        return self._replace(document=torch.where(taken, moved, NONE))


def no_entries(*shape: int, rows: int = 1, top: int, device: str = "cpu") -> Entries:
    """Lists [*shape] with no place taken.

    Args:
        shape: heads and whatever else, the length of a list last.
        rows: how many are kept of an entry.
        top: how many keys are kept of a row.
        device: "meta" for shapes alone.

    """
    full = partial(torch.full, device=device)
    return Entries(
        full(shape, -torch.inf, dtype=torch.float64),
        full(shape, NONE, dtype=torch.int64),
        full(shape, NONE, dtype=torch.int32),
        full(shape, NONE, dtype=torch.int32),
        full(shape, 0.0, dtype=torch.float32),
        full(shape, 0, dtype=torch.int32),
        full((*shape, rows, top), NONE, dtype=torch.int32),
        full((*shape, rows, top), 0.0, dtype=torch.float32),
    )


def _order(entries: Entries) -> Tensor:
    """The order of each list: of the keys of sorting, the last first."""
    order = torch.arange(entries.size, device="cpu").expand(entries.value.shape)
    for part, descending in (
        (entries.key, False),
        (entries.query, False),
        (entries.document, False),
        (entries.value, True),
    ):
        own = torch.sort(part.gather(-1, order), dim=-1, descending=descending, stable=True).indices
        order = order.gather(-1, own)
    return order


def _taken(part: Tensor, order: Tensor) -> Tensor:
    """What of a list stands where the order says; rows and their keys follow their entry."""
    extra = part.ndim - order.ndim
    index = order.reshape(*order.shape, *[1] * extra).expand(*order.shape, *part.shape[order.ndim :])
    return part.gather(order.ndim - 1, index)
