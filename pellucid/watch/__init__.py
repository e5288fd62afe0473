"""Whole models observed: `watch` and its record, and the operator in place of a model's own without observing."""

from pellucid.watch.record import Layer, Missed, Padding, Record

__all__ = ["Layer", "Missed", "Padding", "Record"]
