"""The readouts: functions of the attention weights, one a file. base.py says what a readout is."""

from pellucid.readouts.at import At
from pellucid.readouts.base import ColumnReadout, Readout, RowReadout
from pellucid.readouts.entropy import Entropy
from pellucid.readouts.expect import Expect, mass_on_first, mass_on_previous, mean_distance
from pellucid.readouts.logsumexp import LogSumExp
from pellucid.readouts.max_score import MaxScore
from pellucid.readouts.pooled import Pooled
from pellucid.readouts.pooled_max import PooledMax
from pellucid.readouts.received import Received
from pellucid.readouts.renyi import Renyi
from pellucid.readouts.topk import TopK, TopKeys

__all__ = [
    "At",
    "ColumnReadout",
    "Entropy",
    "Expect",
    "LogSumExp",
    "MaxScore",
    "Pooled",
    "PooledMax",
    "Readout",
    "Received",
    "Renyi",
    "RowReadout",
    "TopK",
    "TopKeys",
    "mass_on_first",
    "mass_on_previous",
    "mean_distance",
]
