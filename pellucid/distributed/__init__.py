"""Attention on several machines: sequences, heads and batches that lie on the ranks of torch.distributed.

layout.py says which positions a rank has; region.py makes a problem of a rank's part of a call, and parts.py computes
it; exchange.py is all that ranks send one another. On these stand sequence.py, for people with shards of their own, and
placements.py, for DTensors. A name is imported when it is first asked for, and torch.distributed with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.distributed.exchange import LostRankError
    from pellucid.distributed.layout import Layout, documents, even, head_tail, of_lengths
    from pellucid.distributed.sequence import attention, observe

__all__ = [
    "Layout",
    "LostRankError",
    "attention",
    "documents",
    "even",
    "head_tail",
    "observe",
    "of_lengths",
]

_MODULE_OF = {
    "LostRankError": "exchange",
    **dict.fromkeys(("Layout", "documents", "even", "head_tail", "of_lengths"), "layout"),
    **dict.fromkeys(("attention", "observe"), "sequence"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
