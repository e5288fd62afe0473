"""Which reading each readout has: a new one is a line here."""

from __future__ import annotations

from collections.abc import Iterable

from pellucid.engines.cpu.stages.at import AtReading
from pellucid.engines.cpu.stages.entropy import EntropyReading
from pellucid.engines.cpu.stages.expect import ExpectReading
from pellucid.engines.cpu.stages.logsumexp import LogSumExpReading
from pellucid.engines.cpu.stages.max_score import MaxScoreReading
from pellucid.engines.cpu.stages.pooled import PooledReading
from pellucid.engines.cpu.stages.received import ReceivedReading
from pellucid.engines.cpu.stages.renyi import RenyiReading
from pellucid.engines.cpu.stages.stage import Reading, Stage
from pellucid.engines.cpu.stages.topk import TopKReading
from pellucid.engines.reason import Reason
from pellucid.language import Expression
from pellucid.problem import Problem
from pellucid.readouts import (
    At,
    Entropy,
    Expect,
    LogSumExp,
    MaxScore,
    Pooled,
    PooledMax,
    Readout,
    Received,
    Renyi,
    TopK,
)

# Stages run in this order, whatever the order in which readouts are asked for.
READINGS: dict[type[Readout], type[Reading]] = {
    LogSumExp: LogSumExpReading,
    MaxScore: MaxScoreReading,
    Entropy: EntropyReading,
    Renyi: RenyiReading,
    Expect: ExpectReading,
    TopK: TopKReading,
    At: AtReading,
    Pooled: PooledReading,
    PooledMax: PooledReading,
    Received: ReceivedReading,
}
ORDER = list(dict.fromkeys(READINGS.values()))


def why_not(readout: Readout) -> Reason | None:
    """Why this engine does not read a readout; None if it does. One of a class that it does not know may mean more."""
    reading = READINGS.get(type(readout))
    if reading is not None:
        return reading.why_not(readout)
    return Reason(f"the readout {readout.name!r} is unknown to its kernels; ask for it in a call of its own", mine=True)


def readings_of(problem: Problem) -> tuple[tuple[Reading, ...], dict[str, Expression]]:
    """A reading for each of the problem's readouts, and their functions by the names that a kernel's program has."""
    readings: list[Reading] = []
    functions: dict[str, Expression] = {}
    for readout in problem.readouts:
        own = {f"read{number}": e for number, e in enumerate(readout.expressions, len(functions))}
        readings.append(READINGS[type(readout)].of(readout, problem, list(own)))
        functions |= own
    return tuple(readings), functions


def stages_of(readings: Iterable[Reading]) -> tuple[Stage, ...]:
    """The stages of some readings as a kernel has them: in the table's order, each once."""
    by_class: dict[type[Stage], list[Stage]] = {}
    for reading in sorted(readings, key=lambda reading: ORDER.index(type(reading))):
        if reading.stage is not None:
            by_class.setdefault(type(reading.stage), []).append(reading.stage)
    return tuple(stage for kind, stages in by_class.items() for stage in kind.together(stages))
