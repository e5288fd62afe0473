"""The ring as a node of autograd's graph: backward, keys and values travel again, and with them their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pellucid import engines
from pellucid.distributed.region import Own, Region, as_it_is
from pellucid.distributed.ring import Piece, Ring, Rows, forward, wait
from pellucid.engines.node import Upstream
from pellucid.language import Expression
from pellucid.problem import Problem, Result

ROWS = 4096  # queries whose gradients are made at a time


def computed(ring: Ring, query: Tensor, key: Tensor, value: Tensor) -> Rows:
    """What `ring.forward` gives, output in query's dtype, differentiable once; readings have no gradient but lse.

    Args:
        ring: see `Ring`.
        query: of its regions, one after another.
        key: this rank's.
        value: theirs.

    """
    whole = ring.whole
    sinks = ring.regions[0].sinks(ring.own)
    tensors = (query, key, value, *(() if sinks is None else (sinks,)), *whole.captured)
    readings: dict[str, Any] = {}
    output, lse = _Ring.apply(ring, readings, sinks is not None, *tensors)
    return Rows(output, lse, {name: lse if own is None else own for name, own in readings.items()})


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ring: Ring, readings: dict[str, Any], sinks: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value, *rest = tensors
        rows = forward(ring, query, key, value)
        output = rows.output.to(query.dtype)
        lse_of = {readout.name for readout in ring.whole.readouts if readout.is_lse}
        readings.update({name: None if name in lse_of else own for name, own in rows.readings.items()})
        ctx.ring, ctx.has_sinks, ctx.versions = ring, sinks, _versions(ring)
        ctx.save_for_backward(query, key, value, output, rows.lse, *rest)
        ctx.set_materialize_grads(False)
        return output, rows.lse.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor | None, of_lse: Tensor | None) -> Any:
        query, key, value, output, lse, *rest = ctx.saved_tensors
        if _versions(ctx.ring) != ctx.versions:
            raise RuntimeError("attention's backward: a mask or a captured tensor was changed in place since forward")
        sinks = rest.pop(0) if ctx.has_sinks else None
        made = _Backward(ctx.ring, query, Result(output, lse, {}), Upstream(of_output, of_lse, {}), rest)
        with ctx.ring.whole.own_precision():
            gradients = made.run(key, value)
        of_sinks = () if sinks is None else (made.of_sinks(sinks),)
        return None, None, None, *gradients, *of_sinks, *made.of_captured()


def _versions(ring: Ring) -> list[int]:
    """How often what functions read was changed in place: autograd counts that of tensors with gradients alone."""
    return [load.value._version for load in ring.whole.loads if not load.value.is_inference()]


class _Backward:
    """One pass of the ring backward."""

    def __init__(
        self, ring: Ring, query: Tensor, result: Result, upstream: Upstream, captured: Sequence[Tensor]
    ) -> None:
        self.ring, self.query, self.result, self.upstream = ring, query, result, upstream
        self.number = ring.whole.dtype
        self.of_query = torch.zeros_like(query, dtype=self.number)
        # Captured tensors as leaves of their own, in whose place those of the call are cut.
        self.leaves = [tensor.detach().requires_grad_() for tensor in captured]
        self.sums = [torch.zeros_like(leaf, dtype=_of_sums(leaf.dtype)) for leaf in self.leaves]
        self.instead = {id(old): new for old, new in zip(ring.whole.captured, self.leaves, strict=True)}

    def run(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, and of this rank's key and value."""
        ring, posted, own = self.ring, list[Any](), tuple[Tensor, ...]()
        # The gradients of the keys that are here, of the ranks where they were; whose piece they are, if this rank's.
        travelling, home = tuple[Tensor, ...](), None
        for piece, source, (keys, values) in ring.travelling((key, value)):
            sums: tuple[Tensor, ...] = self._part(piece, source, keys, values)
            wait(posted)
            if source == ring.rank:
                own = sums
                continue
            if home is not None:
                self._add(own, home, travelling)
            elif travelling:
                sums = tuple(part.add_(before) for part, before in zip(sums, travelling, strict=True))
            after = (source - 1) % ring.keys.ranks
            travelling = tuple(t.new_empty(*t.shape[:-2], piece.lengths[after], t.shape[-1]) for t in sums)
            posted = ring.passed_on(sums, travelling, tag=1)
            home = piece if after == ring.rank else None
        wait(posted)
        if home is not None:
            self._add(own, home, travelling)
        of_key, of_value = own
        return self.of_query.to(self.query.dtype), of_key.to(key.dtype), of_value.to(value.dtype)

    def _add(self, own: Sequence[Tensor], piece: Piece, travelled: Sequence[Tensor]) -> None:
        """Add what came back of this rank's keys to what its own queries found."""
        lengths = list(map(len, piece.spans[self.ring.rank]))
        for whole, part in zip(own, travelled, strict=True):
            for here, came in zip(piece.of(whole, self.ring.rank), part.split(lengths, -2), strict=True):
                here.add_(came)

    def _part(self, piece: Piece, source: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add to query's gradient; give those of a rank's keys and values, through this rank's queries."""
        of_keys, of_values = (torch.zeros_like(tensor, dtype=self.number) for tensor in (keys, values))
        for region, rows, columns in self.ring.pairs(piece, source, ROWS):
            with torch.enable_grad():  # for what is cut of captured tensors
                problem = self._problem(region, rows, keys[..., columns, :], values[..., columns, :])
            result = Result(self.result.output[..., rows, :].contiguous(), self.result.lse[..., rows].contiguous(), {})
            own = Upstream(_rows(self.upstream.output, rows, -2), _rows(self.upstream.lse, rows, -1), {})
            of_query, of_key, of_value, *captured = engines.gradients(problem, own, result)
            self.of_query[..., rows, :] += of_query
            of_keys[..., columns, :] += of_key
            of_values[..., columns, :] += of_value
            if captured:
                torch.autograd.backward(problem.captured, captured)
                self._collect()
        return of_keys, of_values

    def _problem(self, region: Region, rows: slice, keys: Tensor, values: Tensor) -> Problem:
        own: Own = self._own if self.instead else self.ring.own
        problem = region.problem(self.query[..., rows, :].detach(), keys.detach(), values.detach(), own)
        return replace(problem, sinks=None, readouts=())

    def _own(self, tensor: Tensor, indices: Sequence[Expression]) -> tuple[Tensor, frozenset[int]]:
        return as_it_is(self.instead.get(id(tensor), tensor), indices)

    def of_sinks(self, sinks: Tensor) -> Tensor:
        """The gradient of each head's sink."""
        lse = self.result.lse
        total = torch.zeros_like(lse) if self.upstream.lse is None else self.upstream.lse
        if self.upstream.output is not None:
            total = total - (self.upstream.output.to(self.number) * self.result.output.to(self.number)).sum(-1)
        weight = torch.exp(sinks.to(lse.dtype)[:, None] - lse)
        return (weight * total).movedim(-2, 0).flatten(1).sum(1).to(sinks.dtype)

    def _collect(self) -> None:
        for leaf, total in zip(self.leaves, self.sums, strict=True):
            if leaf.grad is not None:
                total += leaf.grad
                leaf.grad = None

    def of_captured(self) -> list[Tensor | None]:
        """Their gradients, this rank's share."""
        return [total.to(leaf.dtype) for leaf, total in zip(self.leaves, self.sums, strict=True)]


def _of_sums(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rows(gradient: Tensor | None, rows: slice, dim: int) -> Tensor | None:
    if gradient is None:
        return None
    return gradient.narrow(dim, rows.start, rows.stop - rows.start).contiguous()
