"""The embedded model: it reads dates as people write them, and its attention can be looked at."""

from pellucid.demo.model import DateReader
from pellucid.demo.reading import Reading
from pellucid.demo.weights import load_reader

__all__ = ["DateReader", "Reading", "load_reader"]
