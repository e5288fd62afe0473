"""Exact softmax attention for PyTorch that can be seen through.

A name is imported when it is first asked for, and torch with it: `pellucid --help` waits for neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pellucid._version import __version__

if TYPE_CHECKING:
    from pellucid import engines, masks, nn, readouts, scores
    from pellucid.accelerating.replacing import accelerate, everywhere, restore
    from pellucid.capture.run.progress import Progress
    from pellucid.capture.sources.transformers.models import register
    from pellucid.capture.watching import watch
    from pellucid.functional import attention, observe
    from pellucid.language import TraceError
    from pellucid.observation import Observation
    from pellucid.profiles.disk.read import open_profile
    from pellucid.profiles.measuring.measure import profile_of
    from pellucid.profiles.profile import Profile
    from pellucid.readouts import At, Entropy, Expect, LogSumExp, MaxScore, Pooled, PooledMax, Received, Renyi, TopK
    from pellucid.record.frames import Frames
    from pellucid.record.images import Image
    from pellucid.record.layer import Layer, Missed, Padding
    from pellucid.record.readable import token_texts
    from pellucid.record.record import Record
    from pellucid.record.stored import open_record
    from pellucid.viewer.viewing.view import view

__all__ = [
    "At",
    "Entropy",
    "Expect",
    "Frames",
    "Image",
    "Layer",
    "LogSumExp",
    "MaxScore",
    "Missed",
    "Observation",
    "Padding",
    "Pooled",
    "PooledMax",
    "Profile",
    "Progress",
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
    "open_profile",
    "open_record",
    "profile_of",
    "readouts",
    "register",
    "restore",
    "scores",
    "token_texts",
    "view",
    "watch",
]

_NAMES_OF = {
    "accelerating.replacing": ("accelerate", "everywhere", "restore"),
    "capture.run.progress": ("Progress",),
    "capture.sources.transformers.models": ("register",),
    "capture.watching": ("watch",),
    "functional": ("attention", "observe"),
    "language": ("TraceError",),
    "observation": ("Observation",),
    "profiles.disk.read": ("open_profile",),
    "profiles.measuring.measure": ("profile_of",),
    "profiles.profile": ("Profile",),
    "readouts": (
        "At", "Entropy", "Expect", "LogSumExp", "MaxScore", "Pooled", "PooledMax", "Received", "Renyi", "TopK",
    ),
    "record.frames": ("Frames",),
    "record.images": ("Image",),
    "record.layer": ("Layer", "Missed", "Padding"),
    "record.readable": ("token_texts",),
    "record.record": ("Record",),
    "record.stored": ("open_record",),
    "viewer.viewing.view": ("view",),
}  # fmt: skip
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
