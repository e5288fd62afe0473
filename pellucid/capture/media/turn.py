"""What is known, before a module attends, of the sequences in which it will."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pellucid.capture.calls.call import Call
from pellucid.record.frames import Frames
from pellucid.record.images import Image

Item = Image | Frames


class Turn(NamedTuple):
    """One call of attention."""

    batch: int
    length: int  # of what attends, or, in cross-attention, of what is looked at
    items: list[Item]  # with positions in the call
    note: str | None = None  # what is to be known of them

    def fits(self, role: str, call: Call) -> bool:
        """Whether a call can be this one."""
        return call.batch == self.batch and (call.k_len if role == "cross" else call.q_len) == self.length


@dataclass
class Turns:
    """The calls that each layer inside of a module makes, in their order.

    Layers may attend in other parts of the whole, each in its own way: `ways` are those that there are.
    """

    ways: list[list[Turn]]
    _done: Counter[str] = field(default_factory=Counter)  # calls of each layer

    def next_of(self, base: str, role: str, call: Call) -> Turn | None:
        """The turn that a layer's call is, None where it is none of them, or one of several."""
        number = self._done[base]
        self._done[base] += 1
        fitting = [way[number] for way in self.ways if number < len(way) and way[number].fits(role, call)]
        return fitting[0] if fitting and all(turn.items == fitting[0].items for turn in fitting) else None
