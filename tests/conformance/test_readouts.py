"""Each readout against its dense definition, written here from the whole matrix of weights, on every engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pellucid
from pellucid import readouts
from tests.cases import (
    ENGINES,
    Call,
    Dense,
    assert_close,
    dense,
    error,
    examples,
    laid_out,
    largest,
    masks,
    normal,
    running,
)

DISTANCE_SCALE = normal(3, 29, seed=91)


def signed_distance(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (kv_idx - q_idx) * DISTANCE_SCALE[h % 3, kv_idx % 29]


# What each readout means, from the dense matrix: [..., q_len, k_len] weights and scores.


def entropy(exact: Dense) -> Tensor:
    return torch.special.entr(exact.weights).sum(-1) + torch.special.entr(exact.sink_weight)


def entropy_of_keys(exact: Dense) -> Tensor:
    """Of the keys' own softmax: beside a large sink their weights may all round to 0."""
    empty = (exact.scores == -torch.inf).all(-1, keepdim=True)
    shares = exact.scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)
    return torch.special.entr(shares).sum(-1)


def max_score(exact: Dense) -> Tensor:
    nothing = exact.scores.new_full((*exact.scores.shape[:-1], 1), -torch.inf)
    return torch.cat([exact.scores, nothing], -1).max(-1).values


def received(chosen: slice) -> Callable[[Dense], Tensor]:
    return lambda exact: exact.weights[..., chosen, :].sum(-2)


def pooled(rows: int, columns: int) -> Callable[[Dense], Tensor]:
    def pool(exact: Dense) -> Tensor:
        *leading, q_len, k_len = exact.weights.shape
        rows_, columns_ = min(rows, q_len), min(columns, k_len)
        result = torch.zeros(*leading, rows_, columns_, dtype=exact.weights.dtype)
        for row in range(rows_):
            queries = [i for i in range(q_len) if i * rows_ // q_len == row]
            for column in range(columns_):
                keys = [j for j in range(k_len) if j * columns_ // k_len == column]
                part = exact.weights[..., queries, :][..., keys]
                result[..., row, column] = part.sum(-1).mean(-1)
        return result

    return pool


def expect(function: Callable[..., Any]) -> Callable[[Dense], Tensor]:
    """By broadcasting: these functions use nothing that needs torch.vmap."""

    def mean(exact: Dense) -> Tensor:
        *_, heads, q_len, k_len = (1, *exact.weights.shape)
        h = torch.arange(heads)[:, None, None] if exact.weights.ndim > 2 else torch.zeros((), dtype=torch.long)
        values = function(None, h, torch.arange(q_len)[:, None], torch.arange(k_len))
        return (exact.weights * values).sum(-1)

    return mean


@dataclass(frozen=True)
class Definition:
    """A readout, where the observation keeps it, and what it means."""

    readout: pellucid.readouts.Readout
    name: str
    meaning: Callable[[Dense], Tensor]


DEFINITIONS: dict[str, Definition] = {
    "LogSumExp": Definition(readouts.LogSumExp(), "lse", lambda exact: exact.lse),
    "Entropy": Definition(readouts.Entropy(), "entropy", entropy),
    "Entropy of the keys": Definition(readouts.Entropy(sink=False), "entropy", entropy_of_keys),
    "MaxScore": Definition(readouts.MaxScore(), "max_scores", max_score),
    "Received": Definition(readouts.Received(), "received", received(slice(None))),
    "Received from the last": Definition(readouts.Received(slice(-5, None)), "received", received(slice(-5, None))),
    "Received from every third": Definition(
        readouts.Received(slice(1, None, 3)), "received", received(slice(1, None, 3))
    ),
    "Received from none": Definition(readouts.Received(slice(2, 2)), "received", received(slice(2, 2))),
    "Pooled": Definition(readouts.Pooled(4, 7), "pooled", pooled(4, 7)),
    "Pooled to one": Definition(readouts.Pooled(1, 1), "pooled", pooled(1, 1)),
    "Pooled finely": Definition(readouts.Pooled(1000, 1000), "pooled", pooled(1000, 1000)),
    "Expect": Definition(readouts.Expect(signed_distance, "mine"), "mine", expect(signed_distance)),
    "mean_distance": Definition(
        readouts.mean_distance(), "mean_distance", expect(lambda b, h, q, k: (q - k).abs().double())
    ),
    "mass_on_first": Definition(readouts.mass_on_first(), "mass_on_first", expect(lambda b, h, q, k: k == 0)),
    "mass_on_previous": Definition(
        readouts.mass_on_previous(), "mass_on_previous", expect(lambda b, h, q, k: k == q - 1)
    ),
}
GROUPS = (  # what can be asked for in one call: names must differ
    ("LogSumExp", "Entropy", "MaxScore", "Received", "Pooled", "Expect", "mean_distance", "mass_on_first"),
    ("Entropy of the keys", "Received from the last", "Pooled finely", "mass_on_previous"),
    ("Received from every third", "Pooled to one", "MaxScore"),
    ("Received from none",),
)


@dataclass(frozen=True)
class Seen:
    """A call that is observed."""

    call: Call
    sinks: Tensor | None


@st.composite
def observed_calls(draw: st.DrawFn) -> Seen:
    dtype = draw(st.sampled_from((torch.float64, torch.float64, torch.float32, torch.bfloat16)))
    lengths = st.sampled_from((0, 1, 2, 5, 13, 16, 17, 31))
    q_len, k_len, kv_heads = draw(lengths), draw(lengths), draw(st.sampled_from((1, 2)))
    heads = kv_heads * draw(st.sampled_from((1, 3)))
    batch = draw(st.sampled_from(((), (2,), (2, 1))))
    key_batch = tuple(1 for _ in batch) if draw(st.booleans()) else batch
    seed = draw(st.integers(0, 2**20))
    layout = draw(st.sampled_from(("contiguous", "transposed", "every other")))
    magnitude = draw(st.sampled_from((0.1, 1.0, 1.0, 10.0)))
    shapes = ((*batch, heads, q_len, 5), (*key_batch, kv_heads, k_len, 5), (*key_batch, kv_heads, k_len, 3))
    query, key, value = (
        laid_out((normal(*shape, seed=seed + i) * magnitude).to(dtype), layout) for i, shape in enumerate(shapes)
    )
    mask = draw(st.none() | masks((*batch, heads, q_len, k_len), dtype))
    sinks = draw(st.none() | st.just(normal(heads, seed=seed + 3)))
    return Seen(Call(query, key, value, mask, draw(st.booleans()), enable_gqa=True), sinks)


def allowed_error(dtype: torch.dtype, definition: Definition, exact: Dense, peer: Dense) -> float:
    """Twice the error of the same definition in the precision we compute in, and a few units in the last place."""
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    expected = definition.meaning(exact)
    # Expect weighs by up to 31 places; an error in a score is a relative error in its weight.
    scale = 1 + largest(expected) + largest(exact.scores)
    return 2 * error(definition.meaning(peer), expected) + 16 * eps * scale


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0])
def test_a_readout_is_its_dense_definition(group: tuple[str, ...], engine: str) -> None:
    definitions = [DEFINITIONS[name] for name in group]

    @examples(60, engine)
    @given(seen=observed_calls())
    def agree(seen: Seen) -> None:
        computed = torch.float64 if seen.call.query.dtype == torch.float64 else torch.float32
        exact, peer = dense(seen.call, sinks=seen.sinks), dense(seen.call, sinks=seen.sinks, dtype=computed)
        with running(engine):
            output, observation = seen.call.by(
                pellucid.observe, sinks=seen.sinks, readouts=[d.readout for d in definitions]
            )
        assert output.shape == exact.output.shape
        for definition in definitions:
            result = observation[definition.name]
            assert result.dtype == computed, definition.name
            assert_close(
                result, definition.meaning(exact), allowed_error(seen.call.query.dtype, definition, exact, peer)
            )

    agree()


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
def test_topk_is_the_largest_weights_and_their_keys(engine: str) -> None:
    @examples(60, engine)
    @given(seen=observed_calls(), k=st.integers(1, 31))
    def agree(seen: Seen, k: int) -> None:
        k_len = seen.call.key.shape[-2]
        if not k_len:
            return
        k = min(k, k_len)
        exact = dense(seen.call, sinks=seen.sinks)
        with running(engine):
            _, observation = seen.call.by(pellucid.observe, sinks=seen.sinks, readouts=[readouts.TopK(k)])
        weights, keys = observation.topk.weights, observation.topk.keys
        computed = torch.float64 if seen.call.query.dtype == torch.float64 else torch.float32
        bound = 16 * torch.finfo(computed).eps * (1 + largest(exact.scores))
        assert keys.dtype == torch.int64
        assert_close(weights, exact.weights.topk(k).values, bound)
        # The keys are all different, allowed, and have these weights; -1 fills up.
        allowed = (exact.scores > -torch.inf).sum(-1, keepdim=True)
        assert torch.equal(keys >= 0, torch.arange(k) < allowed)
        found = exact.weights.gather(-1, keys.clamp(min=0)).masked_fill(keys < 0, 0.0)
        assert_close(weights, found, bound)
        in_order = keys.sort(-1).values
        assert ((in_order[..., 1:] != in_order[..., :-1]) | (in_order[..., 1:] == -1)).all()

    agree()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_topk_gives_the_lower_key_first_among_equals(k: int, engine: str) -> None:
    """Small integers: equal scores are exactly equal, whatever the tiling."""
    key = torch.tensor([1.0, 3.0, 2.0, 3.0, 1.0, 3.0, 2.0, -1.0, 3.0])[:, None]
    query = torch.tensor([[1.0], [0.0], [-1.0]])
    with running(engine, (2, 2)):
        _, observation = pellucid.observe(query, key, key, scale=1.0, readouts=[readouts.TopK(k)])
    expected = [[1, 3, 5, 8, 2, 6, 0, 4, 7], [0, 1, 2, 3, 4, 5, 6, 7, 8], [7, 0, 4, 2, 6, 1, 3, 5, 8]]
    assert observation.topk.keys.tolist() == [row[:k] for row in expected]


@pytest.mark.parametrize("engine", ENGINES)
def test_topk_of_fewer_allowed_keys_is_filled_with_minus_one(engine: str) -> None:
    x = normal(5, 3)
    with running(engine, (2, 2)):
        _, observation = pellucid.observe(x, x, x, is_causal=True, readouts=[readouts.TopK(4)])
    keys, weights = observation.topk.keys, observation.topk.weights
    assert [(row >= 0).sum().item() for row in keys] == [1, 2, 3, 4, 4]
    assert torch.equal(weights > 0, keys >= 0)
    assert sorted(keys[2].tolist()) == [-1, 0, 1, 2]


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ENGINES)
def test_the_weights_on_demand_are_exact(engine: str) -> None:
    @examples(60, engine)
    @given(seen=observed_calls(), data=st.data())
    def agree(seen: Seen, data: st.DataObject) -> None:
        exact = dense(seen.call, sinks=seen.sinks).weights
        with running(engine):
            _, observation = seen.call.by(pellucid.observe, sinks=seen.sinks)
        heads, q_len, k_len = exact.shape[-3:]
        queries, keys, head = (
            data.draw(st.none() | slices(length) | indices(length)) for length in (q_len, k_len, heads)
        )
        part = exact[..., selected(head, heads), :, :][..., selected(queries, q_len), :][..., selected(keys, k_len)]
        result = observation.weights(queries=queries, keys=keys, heads=head)
        eps = torch.finfo(result.dtype).eps
        assert_close(result, part, 16 * eps * (1 + largest(dense(seen.call).scores)))

    agree()


def slices(length: int) -> st.SearchStrategy[slice]:
    ends = st.integers(-length - 1, length + 1) | st.none()
    return st.builds(slice, ends, ends, st.sampled_from((None, 1, 2)))


def indices(length: int) -> st.SearchStrategy[int]:
    return st.integers(-length, length - 1) if length else st.nothing()


def selected(chosen: slice | int | None, length: int) -> list[int]:
    every = list(range(length))
    if chosen is None:
        return every
    return every[chosen] if isinstance(chosen, slice) else [every[chosen]]


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_and_readouts_of_a_plain_matrix(engine: str) -> None:
    x = normal(11, 3)
    with running(engine):
        _, observation = pellucid.observe(x, x, x)
    exact = dense(Call(x, x, x)).weights
    eps = torch.finfo(torch.float64).eps
    assert observation.weights().shape == (11, 11)
    assert_close(observation.weights(queries=3), exact[3:4], 32 * eps)
    assert_close(observation.weights(keys=[0, 10, -2]), exact[:, [0, 10, 9]], 32 * eps)
    assert_close(observation.weights(queries=slice(2, 5), keys=slice(-3, None)), exact[2:5, -3:], 32 * eps)


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_follow_the_inputs_rank(engine: str) -> None:
    asked = [readouts.Entropy(), readouts.TopK(3), readouts.Received(), readouts.Pooled(2, 3), readouts.mean_distance()]
    for leading in ((), (3,), (2, 3), (5, 2, 3)):
        query, key = normal(*leading, 7, 4), normal(*leading, 11, 4)
        with running(engine):
            output, observation = pellucid.observe(query, key, key, readouts=asked)
        assert output.shape == (*leading, 7, 4)
        assert observation.lse.shape == observation.entropy.shape == (*leading, 7)
        assert observation["mean_distance"].shape == (*leading, 7)
        assert observation.topk.weights.shape == observation.topk.keys.shape == (*leading, 7, 3)
        assert observation.received.shape == (*leading, 11)
        assert observation.pooled.shape == (*leading, 2, 3)
        assert observation.weights().shape == (*leading, 7, 11)
        assert (observation.heads, observation.q_len, observation.k_len) == ((leading or (1,))[-1], 7, 11)


def test_the_default_readouts() -> None:
    x = normal(5, 3)
    _, observation = pellucid.observe(x, x, x)
    assert {"lse", "entropy", "max_scores"} <= set(observation.readouts)
    for name in ("lse", "entropy", "max_scores"):
        assert getattr(observation, name) is observation[name]
    assert "topk" not in observation


def test_what_was_not_read_is_named() -> None:
    x = normal(5, 3)
    _, observation = pellucid.observe(x, x, x, readouts=[readouts.Received()])
    with pytest.raises(AttributeError, match=r"entropy.*received"):
        _ = observation.entropy
    with pytest.raises(KeyError, match=r"mean_distance.*received"):
        _ = observation["mean_distance"]


@pytest.mark.parametrize("engine", ENGINES)
def test_known_numbers(engine: str) -> None:
    """By hand: scores log 1, log 2, log 5 have weights 1/8, 2/8, 5/8; a sink of log 8 takes half of each."""
    query = torch.ones(1, 1, dtype=torch.float64)
    key = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()[:, None]
    value = torch.tensor([[8.0], [16.0], [24.0]], dtype=torch.float64)
    asked = [readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.mean_distance()]
    sink = torch.tensor([math.log(8)], dtype=torch.float64)
    with running(engine, (1, 1)):
        output, plain = pellucid.observe(query, key, value, scale=1.0, readouts=asked)
        shared, with_sink = pellucid.observe(query, key, value, scale=1.0, readouts=asked, sinks=sink)
    shares = [1 / 8, 2 / 8, 5 / 8]
    halves = [share / 2 for share in shares]
    eps = 16 * torch.finfo(torch.float64).eps
    expectations = [
        (output, 20.0),
        (shared, 10.0),
        (plain.lse, math.log(8)),
        (with_sink.lse, math.log(16)),
        (plain.entropy, -sum(w * math.log(w) for w in shares)),
        (with_sink.entropy, -sum(w * math.log(w) for w in (*halves, 0.5))),
        (plain.max_scores, math.log(5)),
        (with_sink.max_scores, math.log(5)),
        (plain["mean_distance"], 2 / 8 + 2 * 5 / 8),
        (with_sink["mean_distance"], (2 / 8 + 2 * 5 / 8) / 2),
    ]
    for result, expected in expectations:
        assert abs(result.item() - expected) <= eps * 24
    assert_close(with_sink.weights().flatten(), torch.tensor(halves, dtype=torch.float64), eps)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_keeps_its_digits(dtype: torch.dtype, engine: str) -> None:
    """A sharp row far from zero: in float32 lse - E[score] has an error of 3e-5, and the entropy is 5e-4."""
    scores = torch.tensor([1000.0, 990.0, 985.0, 980.0], dtype=dtype)
    with running(engine, (1, 1)):
        _, observation = pellucid.observe(torch.ones(1, 1, dtype=dtype), scores[:, None], scores[:, None], scale=1.0)
    exact = torch.special.entr(scores.double().softmax(-1)).sum().item()
    assert abs(observation.entropy.item() - exact) <= 4 * torch.finfo(dtype).eps  # of weights that sum to 1


@pytest.mark.parametrize("engine", ENGINES)
def test_entropy_is_between_zero_and_the_logarithm_of_the_keys(engine: str) -> None:
    query, key = normal(2, 13, 4).float() * 3, normal(2, 17, 4, seed=1).float() * 3
    with running(engine):
        _, spread = pellucid.observe(query * 0, key, key)
        _, sharp = pellucid.observe(query * 1000, key, key)
        _, some = pellucid.observe(query, key, key)
    eps = torch.finfo(torch.float32).eps
    assert_close(spread.entropy, torch.full((2, 13), math.log(17)), 8 * eps * math.log(17))
    for seen in (sharp, some):
        assert (seen.entropy >= 0).all()
        assert (seen.entropy <= math.log(17) * (1 + 4 * eps)).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_totals(engine: str) -> None:
    """What the keys received, and each row of the pooled map, sum to the queries and to 1."""
    query, key = normal(2, 3, 23, 4), normal(2, 3, 37, 4, seed=1)
    with running(engine):
        _, seen = pellucid.observe(query, key, key, readouts=[readouts.Received(), readouts.Pooled(5, 7)])
    eps = torch.finfo(torch.float64).eps
    assert_close(seen.received.sum(-1), torch.full((2, 3), 23.0).double(), 23 * 16 * eps)
    assert_close(seen.pooled.sum(-1), torch.ones(2, 3, 5).double(), 16 * eps)


def test_two_engines_have_the_same_observation() -> None:
    query, key = normal(2, 6, 23, 4), normal(2, 2, 37, 4, seed=1)
    asked = [DEFINITIONS[name].readout for name in GROUPS[0]]
    found = []
    for engine in ENGINES:
        with running(engine):
            _, seen = pellucid.observe(query, key, key, enable_gqa=True, is_causal=True, readouts=asked)
        found.append([seen[DEFINITIONS[name].name] for name in GROUPS[0]])
    for results in found[1:]:
        for result, expected in zip(results, found[0], strict=True):
            assert_close(result, expected, 64 * torch.finfo(torch.float64).eps * (1 + largest(expected)))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_observation_of_functions(engine: str) -> None:
    """weights() after the call evaluates score_mod and mask_mod again."""
    query, key, slopes = normal(2, 3, 13, 4), normal(2, 3, 17, 4, seed=1), normal(3, seed=2)

    def score_mod(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s - slopes[h] * (q - k).abs()

    def mask_mod(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q + k) % 3 != b

    exact = dense(Call(query, key, key), score_mod=score_mod, mask_mod=mask_mod)
    with running(engine):
        _, seen = pellucid.observe(
            query,
            key,
            key,
            score_mod=score_mod,
            mask_mod=mask_mod,
            readouts=[readouts.Received(), readouts.Entropy(), readouts.MaxScore()],
        )
    eps = 64 * torch.finfo(torch.float64).eps
    assert_close(seen.weights(), exact.weights, eps)
    assert_close(seen.weights(heads=1, queries=slice(2, 4)), exact.weights[:, 1:2, 2:4], eps)
    assert_close(seen.received, exact.weights.sum(-2), 13 * eps)
    assert_close(seen.entropy, entropy(exact), 4 * eps)
    assert_close(seen.max_scores, max_score(exact), 16 * eps)
