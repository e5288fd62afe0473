"""Exact softmax attention for PyTorch that can be seen through.

A name is imported when it is first asked for, and torch with it: `pellucid --help` waits for neither.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pellucid._version import __version__

if TYPE_CHECKING:
    from pellucid import engines, masks, nn, readouts, scores
    from pellucid.functional import attention, observe
    from pellucid.language import TraceError
    from pellucid.observation import Observation
    from pellucid.readouts import At, Entropy, Expect, LogSumExp, MaxScore, Pooled, PooledMax, Received, Renyi, TopK
    from pellucid.watch import Layer, Record, accelerate, everywhere, open_record, restore, watch

__all__ = [
    "At",
    "Entropy",
    "Expect",
    "Layer",
    "LogSumExp",
    "MaxScore",
    "Observation",
    "Pooled",
    "PooledMax",
    "Received",
    "Record",
    "Renyi",
    "TopK",
    "TraceError",
    "__version__",
    "accelerate",
    "attention",
    "engines",
    "everywhere",
    "masks",
    "nn",
    "observe",
    "open_record",
    "readouts",
    "restore",
    "scores",
    "watch",
]

_NAMES_OF = {
    "functional": ("attention", "observe"),
    "language": ("TraceError",),
    "observation": ("Observation",),
    "readouts": (
        "At",
        "Entropy",
        "Expect",
        "LogSumExp",
        "MaxScore",
        "Pooled",
        "PooledMax",
        "Received",
        "Renyi",
        "TopK",
    ),
    "watch": ("Layer", "Record", "accelerate", "everywhere", "open_record", "restore", "watch"),
}
_HOME_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

if not TYPE_CHECKING:  # else every name would be one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(f"{__name__}.{_HOME_OF.get(name, name)}")
        found = getattr(home, name) if name in _HOME_OF else home
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name != "watch" or not isinstance(value, ModuleType):  # as long as a folder has a function's name
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
