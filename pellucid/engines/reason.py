"""Why an engine does not run a problem."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """A reason, in words.

    Attributes:
        words: what the engine does not do, as a sentence of which it is the subject.
        mine: whether whoever calls can do something about it.

    """

    words: str
    mine: bool = False
