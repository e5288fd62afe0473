"""The score language: a user's Python function of one score and its place, recorded as an expression.

trace.py turns the function into an expression; from the expression come its values (evaluate.py), its bounds over a
tile (interval.py) and its derivatives (derivative.py); written.py makes a text of it.
"""

from pellucid.language.derivative import derivatives
from pellucid.language.evaluate import evaluate
from pellucid.language.expression import FALSE, INPUTS, SCORE, TRUE, Expression, constant, load, operation, walk
from pellucid.language.interval import Interval, bounds, bounds_of_all
from pellucid.language.trace import TraceError, trace
from pellucid.language.written import read, write

__all__ = [
    "FALSE",
    "INPUTS",
    "SCORE",
    "TRUE",
    "Expression",
    "Interval",
    "TraceError",
    "bounds",
    "bounds_of_all",
    "constant",
    "derivatives",
    "evaluate",
    "load",
    "operation",
    "read",
    "trace",
    "walk",
    "write",
]
