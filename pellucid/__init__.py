"""Exact softmax attention for PyTorch that can be seen through."""

from pellucid import engines, masks, nn, readouts, scores
from pellucid._version import __version__
from pellucid.functional import attention, observe
from pellucid.language import TraceError
from pellucid.observation import Observation
from pellucid.readouts import Entropy, Expect, LogSumExp, MaxScore, Pooled, Received, TopK

__all__ = [
    "Entropy",
    "Expect",
    "LogSumExp",
    "MaxScore",
    "Observation",
    "Pooled",
    "Received",
    "TopK",
    "TraceError",
    "__version__",
    "attention",
    "engines",
    "masks",
    "nn",
    "observe",
    "readouts",
    "scores",
]
