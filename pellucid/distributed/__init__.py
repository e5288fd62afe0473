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
    from pellucid.distributed.parallel.context import context_parallel, cut, join
    from pellucid.distributed.ring import sending
    from pellucid.distributed.sequence import attention, observe

__all__ = [
    "Layout",
    "LostRankError",
    "attention",
    "context_parallel",
    "cut",
    "documents",
    "even",
    "head_tail",
    "join",
    "observe",
    "of_lengths",
    "sending",
]

_MODULE_OF = {
    **dict.fromkeys(("context_parallel", "cut", "join"), "parallel.context"),
    "LostRankError": "exchange",
    **dict.fromkeys(("Layout", "documents", "even", "head_tail", "of_lengths"), "layout"),
    **dict.fromkeys(("attention", "observe"), "sequence"),
    "sending": "ring",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
