"""Whole models observed: `watch` and its record, and the operator in place of a model's own without observing."""

from pellucid.watch.progress import Progress
from pellucid.watch.readable import token_texts
from pellucid.watch.record import Layer, Missed, Padding, Record
from pellucid.watch.replacing import accelerate, everywhere, restore
from pellucid.watch.store import open_record
from pellucid.watch.transformers_models import register
from pellucid.watch.watching import watch

__all__ = [
    "Layer",
    "Missed",
    "Padding",
    "Progress",
    "Record",
    "accelerate",
    "everywhere",
    "open_record",
    "register",
    "restore",
    "token_texts",
    "watch",
]
