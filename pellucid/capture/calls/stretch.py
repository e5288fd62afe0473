"""A stretch of the queries of a sequence that lies on several ranks, with all keys: what one rank reads of a call.

Whatever layout the ranks' positions lie in, what is read of them follows one another as the ranks do: for that queries
go to the rank that reads them, and their output goes back. Sums over queries are of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.arguments import Arguments
from pellucid.distributed.asked import agreed_here
from pellucid.language import Expression
from pellucid.problem import Problem
from pellucid.readouts import ColumnReadout, Readout

if TYPE_CHECKING:
    from pellucid.distributed.layout import Layout
    from pellucid.distributed.region import Region
    from pellucid.distributed.sequence import Posed

Joined = Callable[[Tensor], "Tensor | None"]


class Stretch(NamedTuple):
    """Which queries of a call of all ranks this rank reads.

    Attributes:
        whole: that call, with this rank's sequences and heads; nothing but sizes is looked at of its tensors.
        queries: the positions.
        groups: of the ranks that read the others.
        joined: gives the token ids of all positions, of those that this rank's model was called with.
        functions: the score and the mask by positions, where they are the same for all ranks.

    """

    whole: Problem
    queries: range
    groups: Sequence[Any]
    joined: Joined
    functions: tuple[Expression, Expression] | None = None

    def parts(self, readouts: Sequence[ColumnReadout]) -> list[Readout]:
        """What is read of these queries for sums over all of them."""
        found: list[Readout] = []
        for readout in readouts:
            part = readout.of_queries(self.queries, self.whole)
            if part is not None:
                if part.name != readout.name:
                    part.name = readout.name
                found.append(part)
        return found

    def of_all(self, readout: ColumnReadout, found: Any) -> Any:
        """A sum over the queries of all ranks, which all ask for it.

        Args:
            readout: what is read.
            found: of this rank's queries; None where none of them counts.

        """
        from pellucid.distributed.exchange import reduced

        state = readout.start(self.whole)
        if found is not None:
            state = readout.merge(state, readout.state_of(found, self.queries, self.whole))
        for group in self.groups:
            state = reduced(state, readout.joined_by or "sum", group)
        return readout.finish(state, self.whole)

    def padding_of_all(self, padded: Tensor) -> Tensor:
        """Which queries of all ranks are padding, bool [batch, queries], of which this rank knows its own."""
        from pellucid.distributed.exchange import reduced

        every = torch.zeros(len(padded), self.whole.q_len, dtype=torch.int8, device=padded.device)
        every[:, self.queries.start : self.queries.stop] = padded
        for group in self.groups:
            every = reduced(every, "max", group)
        return every.bool()

    def check_numbers(self, problem: Problem, readouts: Sequence[Readout]) -> None:
        """Raise on every rank where the numbers of a readout do not fit what one of them reads."""
        from pellucid.distributed.parts import check_numbers

        asked = tuple(readouts)
        check_numbers(replace(self.whole, readouts=asked), [replace(problem, readouts=asked)], self.groups)


class Cut(NamedTuple):
    """A call of all ranks inside `context_parallel`, as this rank reads it."""

    problem: Problem  # of its queries and all keys
    region: Region
    stretch: Stretch
    output: Callable[[Tensor], Tensor]  # gives a rank's own positions of the outputs of what ranks have read


def cut(call: Arguments | Problem, watched: Sequence[str]) -> Cut:
    """A call inside `context_parallel`, which all ranks ask for together.

    Args:
        call: of this rank's own positions, its functions those of the whole sequence.
        watched: in words what is read, the same on each rank.

    Raises:
        TypeError, ValueError: the call is refused, or ranks do not agree on it.

    """
    import torch.distributed as dist

    from pellucid.distributed.exchange import gathered, relaid
    from pellucid.distributed.region import Region

    made = agreed_here(call, watched)
    in_order = _in_order(made.queries)
    own = in_order.spans[dist.get_rank(made.group)][0]
    query = relaid(made.query, made.queries, in_order, made.group)
    key, value = gathered((made.key, made.value), made.keys, made.group)
    region, whole = Region.of_queries(made.whole, own), made.whole
    problem = region.problem(query, key, value)
    sizes = replace(whole, batch=(torch.Size(whole.batch).numel(),))  # as a watched call has them
    stretch = Stretch(sizes, own, [made.group], _joining(made), (whole.score, whole.mask))
    return Cut(problem, region, stretch, lambda output: made.shaped(relaid(output, in_order, made.queries, made.group)))


def _in_order(layout: Layout) -> Layout:
    """A layout in which each rank has one stretch, after those of the ranks before it."""
    from pellucid.distributed.layout import even, of_lengths

    as_they_are = of_lengths(layout.lengths)
    is_in_order = [piece[0] for piece in layout.pieces] == [piece[0] for piece in as_they_are.pieces]
    return as_they_are if is_in_order else even(layout.length, layout.ranks)


def _joining(made: Posed) -> Joined:
    def joined(ids: Tensor) -> Tensor | None:
        from pellucid.distributed.exchange import gathered, numbers_of_all

        lengths = [own[0] for own in numbers_of_all(made.group, [ids.shape[1]])]
        if lengths != list(made.queries.lengths):
            return None
        (whole,) = gathered((ids.unsqueeze(-1),), made.queries, made.group)
        return whole.squeeze(-1)

    return joined
