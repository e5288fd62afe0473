"""What was read of a call of several ranks, and any exact part of its weights, which all of them compute together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid import engines
from pellucid.distributed.exchange import Group, agree, reduced
from pellucid.distributed.parts import Parts
from pellucid.distributed.region import Own, Region
from pellucid.observation import Observation
from pellucid.problem import Problem, Result
from pellucid.tensors.chosen import Chosen


@dataclass(frozen=True)
class OfRank:
    """What a rank computed, and what it needs to compute weights of that again.

    Attributes:
        parts: what it computed.
        query: of its regions one after another.
        keys: gives all their keys, asked of all ranks together.
        own: see `Region.problem`.
        groups: of the ranks that have other parts of the weights; each in turn joins them.
        given: this rank's tensors that weights are computed from, and that nobody may change in place.

    """

    parts: Parts
    query: Tensor
    keys: Callable[[], Tensor]
    own: Own
    groups: Sequence[Group]
    given: Sequence[Tensor]


class SharedObservation(Observation):
    """The observation of a call of several ranks; its sizes are those of the whole call.

    `weights` and `dropped` are asked by all ranks together, with the same arguments, and give each of them the same.

    Args:
        whole: the call of all ranks.
        readings: what a caller gets, by name; lse among them.
        shaped: gives a result the inputs' rank again.
        of_rank: what this rank computed.

    """

    def __init__(
        self, whole: Problem, readings: dict[str, Any], shaped: Callable[[Tensor], Tensor], of_rank: OfRank
    ) -> None:
        self._of_rank = of_rank
        super().__init__(whole, Result(readings["lse"], readings["lse"], {}), lambda tensor: tensor)
        self._readings, self._shaped = readings, shaped  # the readings have their shape

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "an observation of a call of several ranks is bound to them: copy or save what was read, seen.lse or "
            "seen.weights(...)"
        )

    def _watched(self) -> tuple[Tensor, ...]:
        return tuple(self._of_rank.given)

    def weights(self, queries: Chosen = None, keys: Chosen = None, heads: Chosen = None) -> Tensor:
        """An exact part of the weights of the whole call, [..., heads, queries, keys], on every rank.

        Args:
            queries: which queries, by their positions in the whole sequence; see `Observation.weights`.
            keys: which keys, the same way.
            heads: which heads, the same way.

        Returns:
            See `Observation.weights`; a plain tensor, the same on each rank.

        Raises:
            IndexError: an index beyond the queries, keys or heads.
            LostRankError: another rank has died or does not come to the call.
            RuntimeError: a tensor was changed in place since.
            ValueError: the ranks ask for different parts, or one of them raises one of these.

        """

        def of_region(problem: Problem, lse: Tensor, rows: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
            return engines.weights(problem, lse[..., chosen, :][..., rows], rows, columns, chosen)

        return self._joined(of_region, True, queries, keys, heads)

    def dropped(self, queries: Chosen = None, keys: Chosen = None, heads: Chosen = None) -> Tensor:
        """Which weights dropout took from the output, [..., heads, queries, keys], on every rank.

        Args:
            queries: which queries, by their positions in the whole sequence; see `Observation.dropped`.
            keys: which keys, the same way.
            heads: which heads, the same way.

        Returns:
            Bool; a plain tensor, the same on each rank.

        Raises:
            IndexError: an index beyond the queries, keys or heads.
            LostRankError: see `weights`.
            ValueError: see `weights`.

        """

        def of_region(problem: Problem, _: Tensor, rows: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
            return (~problem.kept(problem.place(rows, columns, chosen))).to(problem.dtype)

        return self._joined(of_region, False, queries, keys, heads).bool()

    def view(self, tokens: Any = None, source_tokens: Any = None, **options: Any) -> Any:
        """Not of a call of several ranks: `pellucid.view(seen.weights(...))` shows a part of it.

        Args:
            tokens: see `Observation.view`.
            source_tokens: see `Observation.view`.
            options: see `Observation.view`.

        Raises:
            TypeError: always.

        """
        raise TypeError("view: the call lies on several ranks; show a part, pellucid.view(seen.weights(queries=...))")

    def save_picture(self, path: Any, **options: Any) -> Any:
        """Not of a call of several ranks: see `view`.

        Args:
            path: see `Observation.save_picture`.
            options: see `Observation.save_picture`.

        Raises:
            TypeError: always.

        """
        raise TypeError("save_picture: the call lies on several ranks; draw a part, of seen.weights(queries=...)")

    def _agreed(self, of_numbers: bool, chosen: Sequence[Chosen]) -> tuple[Tensor, Tensor, Tensor]:
        """The places that all ranks ask for; all raise if one does."""
        fault: Exception | None = None
        told: dict[str, Any] = dict.fromkeys(("queries", "keys", "heads"))
        try:
            if of_numbers and self._is_changed():
                raise RuntimeError("weights: a tensor that they are computed from was changed in place since the call")
            found = self._chosen(*chosen)
            told = {name: (len(own), own.tolist()) for name, own in zip(told, found, strict=True)}
        except (IndexError, RuntimeError) as error:
            fault = error
        agree(self._of_rank.groups, fault, told)
        return found

    def _joined(self, of_region: Callable[..., Tensor], of_numbers: bool, *chosen: Chosen) -> Tensor:
        """What each rank finds of its own queries and heads, put together on all."""
        rank, whole = self._of_rank, self._problem
        rows, columns, heads = self._agreed(of_numbers, chosen)
        key = rank.keys()
        window = torch.zeros(
            *whole.batch, len(heads), len(rows), len(columns), dtype=whole.dtype, device=whole.query.device
        )
        start = 0
        with torch.no_grad(), whole.own_precision():
            for region, result in zip(rank.parts.regions, rank.parts.results, strict=True):
                query = rank.query.narrow(-2, start, len(region.queries))
                problem = region.problem(query, key, key, rank.own)
                own_rows, own_heads = _within(rows, region.queries), _within(heads, region.heads)
                found = of_region(
                    problem, result.lse, rows[own_rows] - region.queries.start, columns,
                    heads[own_heads] - region.heads.start,
                )  # fmt: skip
                _put(window, region, own_heads, own_rows, found)
                start += len(region.queries)
            for group in rank.groups:
                window = reduced(window, "sum", group)
        return self._shaped(window)


def _within(positions: Tensor, own: range) -> Tensor:
    """The places of those positions that are in a range, int64."""
    return ((positions >= own.start) & (positions < own.stop)).nonzero().flatten()


def _put(window: Tensor, region: Region, heads: Tensor, rows: Tensor, found: Tensor) -> None:
    own = window[tuple(slice(part.start, part.stop) for part in region.batch)]
    own[..., heads[:, None], rows, :] = found
