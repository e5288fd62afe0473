"""What one rank computes of a call: its stretches of queries one after another, each with all keys, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.distributed.exchange import Group, agree
from pellucid.distributed.region import Own, Region, as_it_is
from pellucid.engines.executing import executed
from pellucid.problem import Problem, Result
from pellucid.readouts import Readout
from pellucid.readouts.base import ColumnReadout, tensors_of


@dataclass(frozen=True)
class Parts:
    """A rank's queries, computed.

    Attributes:
        sizes: the whole call with this rank's sequences and heads, whose tensors are not looked at.
        regions: of each stretch of queries.
        results: of each.

    """

    sizes: Problem
    regions: tuple[Region, ...]
    results: tuple[Result, ...]

    @property
    def output(self) -> Tensor:
        """[*batch, heads, own queries, value_dim]."""
        return torch.cat([result.output for result in self.results], -2)

    @property
    def lse(self) -> Tensor:
        """[*batch, heads, own queries]."""
        return torch.cat([result.lse for result in self.results], -1)

    def result(self, readout: Readout) -> Any:
        """What is read of the rank's queries; of what joins them a part, to be joined with that of other ranks."""
        if isinstance(readout, ColumnReadout):
            found: Any = self.state(readout)
        else:
            found = readout.joined_rows(self.rows(readout)) if readout.joins_rows else self.rows(readout)
        return readout.map(found, self._followed) if readout.differentiable else found

    def _followed(self, found: Tensor) -> Tensor:
        """A reading that has a gradient where those of other ranks have one, though nothing of it was read here."""
        lse = self.results[0].lse
        if found.requires_grad or not lse.requires_grad or not found.is_floating_point():
            return found
        return found + lse.flatten()[:0].sum()

    def rows(self, readout: Readout) -> Any:
        """What is read of each of the rank's queries."""
        results = [tensors_of(result.readings[readout.name]) for result in self.results]
        at = len(self.sizes.batch) + readout.per_head
        return readout.result_of(torch.cat(tensors, at) for tensors in zip(*results, strict=True))

    def state(self, readout: ColumnReadout) -> Tensor:
        """The sum over the rank's queries, to be merged with that of other ranks and then finished."""
        state = readout.start(self.sizes)
        for region, result in zip(self.regions, self.results, strict=True):
            if readout.name in result.readings:
                part = result.readings[readout.name]
                state = readout.merge(state, readout.state_of(part, region.queries, self.sizes))
        return state


def posed(regions: Sequence[Region], query: Tensor, key: Tensor, value: Tensor, own: Own = as_it_is) -> list[Problem]:
    """The problems of a rank's stretches of queries.

    Args:
        regions: of the same heads and sequences; of one or more.
        query: of the regions one after another, [..., heads or 1, own queries, head_dim].
        key: all keys of these heads and sequences.
        value: their values.
        own: see `Region.problem`.

    """
    made, start = [], 0
    for region in regions:
        length = len(region.queries)
        made.append(region.problem(query.narrow(-2, start, length), key, value, own))
        start += length
    return made


def computed(regions: Sequence[Region], problems: Sequence[Problem]) -> Parts:
    """What engines make of the problems, which are those of the regions."""
    first, results = regions[0], [executed(problem) for problem in problems]
    whole = replace(first.whole, batch=tuple(map(len, first.batch)), heads=len(first.heads))
    return Parts(whole, tuple(regions), tuple(results))


def check_parts(whole: Problem) -> None:
    """Raise TypeError for a readout that cannot be read of some of the queries, also where a rank has them all."""
    for readout in whole.readouts:
        if isinstance(readout, ColumnReadout):
            readout.of_queries(range(0), whole)


def check_numbers(whole: Problem, problems: Sequence[Problem], groups: Sequence[Group]) -> None:
    """Raise on every rank where numbers in the tensors of a readout do not fit what one of them computes.

    Args:
        whole: the call of all ranks.
        problems: this rank's.
        groups: see `agree`.

    Raises:
        ValueError: as an engine, which would find it on one rank alone.

    """
    if all(type(readout).check_numbers is Readout.check_numbers for readout in whole.readouts):
        return
    fault: Exception | None = None
    try:
        for problem in problems:
            for readout in problem.readouts:
                readout.check_numbers(problem)
    except (TypeError, ValueError) as error:
        fault = error
    agree(groups, fault, {}, "a call's numbers")
