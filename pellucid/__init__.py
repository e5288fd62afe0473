"""Exact softmax attention for PyTorch that can be seen through."""

from pellucid import engines, masks, nn, readouts, scores
from pellucid._version import __version__
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
