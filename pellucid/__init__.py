"""Exact softmax attention for PyTorch that can be seen through."""

from pellucid import engines, masks, nn, readouts, scores
from pellucid._version import __version__
from pellucid.accelerating.replacing import accelerate, everywhere, restore
from pellucid.capture.run.progress import Progress
from pellucid.capture.sources.transformers.models import register
from pellucid.capture.watching import watch
from pellucid.functional import attention, observe
from pellucid.language import TraceError
from pellucid.observation import Observation
from pellucid.readouts import Entropy, Expect, LogSumExp, MaxScore, Pooled, PooledMax, Received, TopK
from pellucid.record.layer import Layer, Missed, Padding
from pellucid.record.readable import token_texts
from pellucid.record.record import Record
from pellucid.record.stored import open_record

__all__ = [
    "Entropy",
    "Expect",
    "Layer",
    "LogSumExp",
    "MaxScore",
    "Missed",
    "Observation",
    "Padding",
    "Pooled",
    "PooledMax",
    "Progress",
    "Received",
    "Record",
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
    "register",
    "restore",
    "scores",
    "token_texts",
    "watch",
]
