"""Which ranks a watched model lies on, and what of it each has."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch.distributed as dist

AXES = ("positions", "heads", "sequences", "layers")  # in the order in which parts are joined


class Ranks:
    """The groups of ranks that a run is divided among, by what each of them divides.

    Args:
        given: of "positions", "heads", "sequences" and "layers" those that are divided, each with a process group, or a
            mesh of one dimension, of the ranks that have the parts; None for all ranks. The parts follow one another as
            the ranks do.

    Raises:
        TypeError: no mapping, or neither a group nor such a mesh.
        ValueError: something else is to be divided, a group that this rank is not in, or no ranks at all.

    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"ranks: a mapping such as {{'heads': group}} is needed, got {type(given).__name__}")
        for name in given:
            if name not in AXES:
                raise ValueError(f"ranks: what is divided is one of {', '.join(AXES)}, got {name!r}")
        if given and not dist.is_initialized():
            raise ValueError("ranks: there are none; torch.distributed is not initialised")
        self.groups = {axis: _group(axis, given[axis]) for axis in AXES if axis in given}

    def __reduce__(self) -> tuple[type[Ranks], tuple[dict[str, Any]]]:
        return Ranks, ({},)  # in another process there are other groups

    def __deepcopy__(self, memo: object) -> Ranks:
        return self

    def __bool__(self) -> bool:
        return bool(self.groups)

    def place(self, axis: str) -> tuple[int, int]:
        """The rank's number among those that divide something, and how many they are; (0, 1) where nobody does."""
        if axis not in self.groups:
            return 0, 1
        return dist.get_rank(self.groups[axis]), dist.get_world_size(self.groups[axis])

    @property
    def count(self) -> int:
        """How many ranks there are."""
        return prod(self.place(axis)[1] for axis in self.groups)

    @property
    def number(self) -> int:
        """The number of this rank, among all."""
        return dist.get_rank()

    @property
    def inner(self) -> Ranks:
        """Those that have parts of the same layers."""
        made = Ranks({})
        made.groups = {axis: group for axis, group in self.groups.items() if axis != "layers"}
        return made

    @property
    def is_first(self) -> bool:
        """Whether this rank is the first of each group."""
        return not any(self.place(axis)[0] for axis in self.groups)


def is_one_of_several() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _group(axis: str, given: Any) -> Any:
    if hasattr(given, "get_group"):  # a mesh
        if given.ndim != 1:
            raise TypeError(f"ranks: {axis} needs a mesh of one dimension, such as mesh['tp'], got {given.ndim}")
        given = given.get_group()
    if given is not None and not isinstance(given, dist.ProcessGroup):
        raise TypeError(f"ranks: {axis} needs a process group or a mesh, got {type(given).__name__}")
    if dist.get_rank(given) < 0:
        raise ValueError(f"ranks: this rank is not in the group of {axis}")
    return given
