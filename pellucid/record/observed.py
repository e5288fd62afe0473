"""An observation as a record of one layer, so that whoever shows a record shows an observation too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from pellucid.language import evaluate
from pellucid.observation import Observation
from pellucid.problem import Problem
from pellucid.readouts import Expect
from pellucid.record.layer import Layer
from pellucid.record.part import Part
from pellucid.record.record import Record
from pellucid.record.studies.beyond import summary_readouts
from pellucid.record.studies.repeats import repeats
from pellucid.record.studies.sums import run
from pellucid.record.texts import Texts, ids_of, texts_of

ROLES = ("self", "causal self", "cross")
MOST_PAIRS = 1 << 29  # of queries and keys that are gone through once more, for the numbers of a summary
_NAME = "attention"
_KEYS = "weight on the keys"


def record_of(
    observation: Observation, tokens: Texts = None, source_tokens: Texts = None, role: str | None = None
) -> Record:
    """A Record with one Layer, "attention": what the observation read, and its exact weights on demand.

    Batch dimensions are flattened. What a summary needs and was not read is read now, unless the call has more than
    2^29 pairs of a query and a key.

    Args:
        observation: of one call.
        tokens: the queries' tokens, a list, or one for each of the flattened batch; in self-attention the keys' too.
        source_tokens: the keys' tokens in cross-attention, the same way.
        role: "self", "causal self" or "cross". Where None: cross if source_tokens are given or there are not as many
            keys as queries, else causal if no query may look at the key after its own.

    Raises:
        RuntimeError: a tensor that weights are computed from was changed in place since the call.
        TypeError: tokens that are no texts.
        ValueError: as many tokens as there are no queries, or keys, or a role that the shape does not allow.

    """
    observation.weights(queries=[], keys=[], heads=[])  # says so where a tensor was changed
    part = _part(observation)
    batch, heads = part.query.shape[:2]
    found = role_of(role, part.q_len, part.k_len, source_tokens is not None, lambda: _looks_ahead(part))
    own = texts_of("tokens", tokens, batch, part.q_len)
    source = texts_of("source_tokens", source_tokens, batch, part.k_len)
    layer = Layer(
        _NAME, found, batch, heads, part.key.shape[1], part.q_len, part.k_len, part.key.shape[-1],
        observation._problem.value.shape[-1], part.scale, part.sinks is not None,
        head_numbers=list(range(heads)), parts=[part], over_heads=list(observation._over_heads),
    )  # fmt: skip
    layer.readings = _readings(observation, layer)
    record = Record("observation", {_NAME: layer}, tokens=own, source_tokens=source)
    record.token_ids = ids_of(own) if found != "cross" else None
    if batch * heads * part.q_len * part.k_len <= MOST_PAIRS:
        complete(layer, part.problem(), record.token_ids)
    return record


def role_of(role: str | None, q_len: int, k_len: int, has_source: bool, looks_ahead: Callable[[], bool]) -> str:
    """The role that was asked for, or the one that the shape and the weights suggest.

    Args:
        role: as asked for, or None.
        q_len: queries.
        k_len: keys.
        has_source: whether the keys are said to be tokens of another sequence.
        looks_ahead: says whether a query looks at the key after its own.

    Raises:
        ValueError: no such role, or one of self-attention where there are not as many keys as queries.

    """
    if role is None:
        return "cross" if has_source or q_len != k_len else "self" if looks_ahead() else "causal self"
    if role not in ROLES:
        raise ValueError(f"role: one of {', '.join(ROLES)}, got {role!r}")
    if role != "cross" and q_len != k_len:
        raise ValueError(f"role: {role!r} needs as many keys as queries, and there are {q_len} queries, {k_len} keys")
    return role


@dataclass
class _Unchanged(Part):
    """The part of a layer that an observed call is; refuses where the call's tensors were changed since."""

    observation: Observation | None = None

    def computing(self) -> Any:
        """As of any part. Raises RuntimeError where a tensor was changed in place."""
        if self.observation is not None:
            self.observation.weights(queries=[], keys=[], heads=[])
        return super().computing()


def _part(observation: Observation) -> Part:
    problem = observation._problem
    size = prod(problem.batch)
    query = problem.query.detach().expand(*problem.batch, problem.heads, -1, -1)
    key = problem.key.detach().expand(*problem.batch, -1, -1, -1)
    query, key = (tensor.reshape(size, *tensor.shape[-3:]) for tensor in (query, key))
    sinks = None if problem.sinks is None else problem.sinks.detach()
    return _Unchanged(0, 0, query, key, problem.scale, problem.score, problem.mask, sinks, observation)


def _readings(observation: Observation, layer: Layer) -> dict[str, Any]:
    """What was read, each tensor [batch, heads, ...], of all heads together [batch, ...]."""
    before = len(observation._problem.batch)
    flat = observation._lse.ndim - observation["lse"].ndim  # 1 where the call had no dimension of heads

    def shaped(tensor: Tensor, of_heads: bool) -> Tensor:
        leading = (layer.batch, layer.heads) if of_heads else (layer.batch,)
        return tensor.detach().reshape(*leading, *tensor.shape[before + (1 - flat if of_heads else 0) :])

    found: dict[str, Any] = {}
    for name in observation.readouts:
        reading, of_heads = observation[name], name not in observation._over_heads
        if name in observation._over_rows:
            found[name] = reading.detach()
        elif isinstance(reading, Tensor):
            found[name] = shaped(reading, of_heads)
        else:
            found[name] = type(reading)(*(shaped(tensor, of_heads) for tensor in reading))
    return found


def complete(layer: Layer, problem: Problem, token_ids: Tensor | None) -> None:
    """Read what a summary needs, where it was not read."""
    wanted = [r for r in summary_readouts(token_ids, role=layer.role) if r.name not in layer.readings]
    if layer.has_sink:
        wanted.append(Expect(lambda b, h, q, k: k >= 0, _KEYS))
    with torch.no_grad():
        found = run(replace(problem, value=problem.key[..., :1], readouts=tuple(wanted))).readings
    if layer.has_sink:
        found["sink_mass"] = (1.0 - found.pop(_KEYS)).clamp(min=0.0)
    if token_ids is not None:
        found["repeats"] = repeats(token_ids, None, layer.role == "causal self", range(layer.q_len))
    layer.readings = layer.readings | found


def _looks_ahead(part: Part) -> bool:
    """Whether a query may look at the key after its own."""
    before = torch.arange(part.q_len - 1, device=part.query.device)
    place = {
        "b": torch.arange(part.query.shape[0], device=before.device)[:, None, None],
        "h": torch.arange(part.query.shape[1], device=before.device)[:, None],
        "q": before,
        "k": before + 1,
        "score": torch.zeros((), device=before.device),
    }
    with torch.no_grad(), part.computing():
        score, allowed = evaluate(part.score, part.mask, inputs=place, dtype=torch.float32)
    return bool((allowed & (score > -torch.inf)).any()) or part.q_len < 2
