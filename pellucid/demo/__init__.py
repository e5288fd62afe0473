"""The embedded model: it reads dates as people write them, and its attention can be looked at."""

from pellucid.demo.model.date_reader import DateReader
from pellucid.demo.model.reading import Reading
from pellucid.demo.model.weights import load_reader

__all__ = ["DateReader", "Reading", "load_reader"]
