"""Sound whose frames are tokens: Frames say at what time each position of a sequence is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pellucid.record.belonging import layer_names
from pellucid.record.images import span


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A stretch of frames of sound in a sequence, and the time of each.

    Args:
        seconds_per_key: from one frame to the next.
        segment: the positions of the frames: a slice, or (start, stop) without the stop; all of the sequence if None.
        offset: seconds at which the first of them begins.
        sequence: number of the sequence in the batch; None for each of them.
        source: whether the positions are of the sequence that cross-attention looks at.
        layers: the layers that attend in that sequence, as an Image's.
        name: what to call it.

    Raises:
        TypeError, ValueError: these are not what is said above.

    Example:
        >>> import pellucid
        >>> pellucid.Frames(seconds_per_key=0.02, segment=slice(3, 1503)).seconds(53)
        1.0

    """

    seconds_per_key: float
    segment: Any = None  # (start, stop) once it is made, or None
    offset: float = 0.0
    sequence: int | None = None
    source: bool = False
    layers: Any = None  # a tuple of names once it is made, or None
    name: str = ""

    def __post_init__(self) -> None:
        if not _is_finite(self.seconds_per_key) or self.seconds_per_key <= 0:
            raise ValueError(f"seconds_per_key: a number above 0 is needed, got {self.seconds_per_key!r}")
        if not _is_finite(self.offset):
            raise ValueError(f"offset: a number of seconds is needed, got {self.offset!r}")
        if self.sequence is not None and (type(self.sequence) is not int or self.sequence < 0):
            raise ValueError(f"sequence: a whole number from 0 is needed, or None for all, got {self.sequence!r}")
        object.__setattr__(self, "segment", None if self.segment is None else span("segment", self.segment))
        object.__setattr__(self, "layers", layer_names(self.layers))

    @property
    def limits(self) -> tuple[int, int]:
        """The first position, and the one after the last as far as that is said."""
        return (0, 0) if self.segment is None else (int(self.segment[0]), int(self.segment[1]))

    def seconds(self, position: int) -> float:
        """When the frame at a position begins."""
        return self.offset + (position - self.limits[0]) * self.seconds_per_key


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
