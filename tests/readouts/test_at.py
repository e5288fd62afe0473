"""What is particular to At: which keys it takes, and what they are in steps of a sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import pellucid
from pellucid.engines import portable, using
from pellucid.problem import Problem
from pellucid.readouts import At
from pellucid.readouts.base import Dense
from tests.cases import examples, normal, running
from tests.readouts.rows import BATCH, HEADS, QUERIES, finished, matrices, merged, sinks, tile, weights
from tests.readouts.test_merge import splits
from tests.watch import caches, models

SHAPES = ((1, 1), (QUERIES, 3), (1, 4), (HEADS, QUERIES, 2), (HEADS, 1, 2), (1, QUERIES, 0), (BATCH, 1, QUERIES, 3),
          (BATCH, HEADS, QUERIES, 2), (1, HEADS, 1, 2))  # fmt: skip


def gathered(weights: Tensor, keys: Tensor, sum_heads: bool = False) -> Tensor:
    """The definition, from the whole matrix."""
    keys = keys.expand(*weights.shape[:-1], keys.shape[-1])
    found = weights.gather(-1, keys.clamp(min=0)).masked_fill(keys < 0, 0.0)
    return found.sum(-3) if sum_heads else found


@st.composite
def asked(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores, and keys that they have; some twice in a row, some none."""
    scores = draw(matrices())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return scores, torch.randint(-1, scores.shape[-1], draw(st.sampled_from(SHAPES)), generator=generator)


@given(data=st.data(), drawn=asked(), sink=sinks(), sum_heads=st.booleans())
@examples(80)
def test_any_split_gives_the_whole(data: Any, drawn: Any, sink: Tensor | None, sum_heads: bool) -> None:
    (scores, keys), readout = drawn, At(drawn[1], sum_heads)
    expected = gathered(weights(scores, sink), keys, sum_heads)
    whole = tile(scores, torch.arange(scores.shape[-1]))
    dense = readout.dense(Dense(scores, weights(scores, sink), scores, whole, sink))
    torch.testing.assert_close(dense, expected, rtol=1e-12, atol=1e-13)
    parts, order = data.draw(splits(scores.shape[-1]))
    tiles = [tile(scores, part) for part in parts]
    softmax, state = merged(readout, [(t.softmax, readout.of_tile(t)) for t in tiles], order)
    torch.testing.assert_close(finished(readout, softmax, state, sink), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["reference", "portable", "tiles", "cpu"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 2), (1, 3, 4, 5, 2), (3, 1, 5, 2), (1, 1, 1, 1, 2), (4, 5, 2)])
def test_several_dimensions_of_sequences(engine: str, shape: tuple[int, ...]) -> None:
    x, keys = normal(2, 3, 4, 5, 8), torch.randint(-1, 5, shape)
    with running(engine, (2, 2)):
        _, seen = pellucid.observe(x, x, x, readouts=[At(keys)])
    torch.testing.assert_close(seen.at, gathered(seen.weights(), keys))


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
def test_a_row_that_is_nan_is_nan_where_there_is_a_key(engine: str) -> None:
    x, bias = torch.randn(3, 5, 4), torch.zeros(5, 5)
    bias[1, 2], bias[1, 4] = torch.nan, -torch.inf
    keys = torch.tensor([[0, -1, 4]])
    with using(engine), portable.tiles(2, 2):
        _, seen = pellucid.observe(x, x, x, bias, readouts=[At(keys)])
    assert seen.at[:, 1, [0, 2]].isnan().all()
    assert not seen.at[:, :, 1].any()
    assert not seen.at[:, [0, 2, 3, 4]].isnan().any()


def test_finite_differences() -> None:
    query, sinks = normal(2, 3, 4).requires_grad_(), normal(2, seed=1).requires_grad_()
    key, keys = normal(2, 5, 4, seed=2), torch.tensor([[0, 4, -1], [2, 2, 2], [1, 2, 3]])

    def read(sum_heads: bool, query: Tensor, sinks: Tensor) -> Tensor:
        return pellucid.observe(query, key, key, sinks=sinks, is_causal=True, readouts=[At(keys, sum_heads)])[1].at

    for sum_heads in (False, True):
        with portable.tiles(2, 2):
            assert torch.autograd.gradcheck(lambda *leaves, own=sum_heads: read(own, *leaves), (query, sinks))


# What is refused.


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ([0, 1], TypeError, "^keys: At takes a tensor of whole numbers, got list"),
        (torch.zeros(5, 2), TypeError, "^keys: At takes a tensor of whole numbers, got torch.float32"),
        (torch.zeros(5, 2, dtype=torch.bool), TypeError, "^keys: At takes a tensor of whole numbers, got torch.bool"),
        (torch.zeros(5, dtype=torch.int64), ValueError, r"^keys: At takes \[queries, n\], .*, got \[5\]"),
    ],
)
def test_what_is_no_keys(keys: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        At(keys)


def test_heads_are_summed_or_not() -> None:
    with pytest.raises(TypeError, match=r"^sum_heads: At takes True or False, got 'yes'"):
        At(torch.zeros(5, 2, dtype=torch.int64), "yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 2), (6, 2), (2, 5, 2), (2, 3, 5, 2), (1, 1, 1, 1, 5, 2)])
def test_a_shape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 3, 5, 4)
    with pytest.raises(ValueError, match=rf"^keys: At takes \[3, 3, 5, n\], or 1 .*, got \[{shape[0]}, "):
        pellucid.observe(x, x, x, readouts=[At(torch.zeros(shape, dtype=torch.int64))])


def test_keys_that_there_are_not() -> None:
    x, keys = torch.randn(3, 5, 4), torch.zeros(5, 2, dtype=torch.int64)
    readout = At(keys)
    pellucid.observe(x, x, x, readouts=[readout])
    for wrong, got in ((5, "0 to 5"), (-2, "-2 to 0")):
        keys[3, 1] = wrong  # in place: it is seen in the next call
        with pytest.raises(ValueError, match=f"^keys: At takes -1, for none, to 4, the last of the keys; got {got}"):
            pellucid.observe(x, x, x, readouts=[readout])


def test_keys_that_there_are_not_in_a_graph() -> None:
    x, keys = torch.randn(3, 5, 4), torch.zeros(5, 2, dtype=torch.int64)

    def read(keys: Tensor) -> Tensor:
        return pellucid.observe(x, x, x, readouts=[At(keys)])[1].at

    torch._dynamo.reset()
    compiled = torch.compile(read, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(keys), read(keys))
    with pytest.raises(ValueError, match=r"^keys: At takes -1, for none, to 4, the last of the keys; got 7 to 7"):
        compiled(keys + 7)


def test_keys_of_a_graph_may_be_of_any_number() -> None:
    x = torch.randn(3, 5, 4)

    def read(x: Tensor, keys: Tensor) -> Tensor:
        return pellucid.observe(x, x, x, readouts=[At(keys)])[1].at

    torch._dynamo.reset()
    compiled = torch.compile(read, backend="aot_eager", fullgraph=True)
    recorded = make_fx(read, tracing_mode="symbolic")(x, torch.zeros(5, 2, dtype=torch.int64))
    for n in (2, 3, 7):
        keys = torch.randint(-1, 5, (5, n))
        torch.testing.assert_close(compiled(x, keys), read(x, keys))
        torch.testing.assert_close(recorded(x, keys), read(x, keys))


def test_keys_that_are_looked_through() -> None:
    x, keys = torch.randn(3, 5, 4), torch.zeros(2, 5, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^keys: At must look at them"):
        torch.vmap(lambda keys: pellucid.observe(x, x, x, readouts=[At(keys)])[1].at)(keys)


# Steps of a sequence.


def test_steps_of_a_module_with_a_cache() -> None:
    layer, x = pellucid.nn.SelfAttention(12, 3, is_causal=True), torch.randn(2, 7, 12)
    readout = At(torch.arange(7)[:, None] - torch.arange(3))  # -1 is none, and so there is no row 0 with -2
    with pytest.raises(ValueError, match=r"got -2 to 6"):
        layer(x, observe=[readout])
    readout = At((torch.arange(7)[:, None] - torch.arange(3)).clamp(min=-1))
    whole = layer(x, observe=[readout])[1].at
    with pytest.raises(ValueError, match=r"^keys: At takes \[2, 3, 4, n\], or 1 .*, got \[7, 3\]"):
        layer(x[:, :4], observe=[readout])
    cache = pellucid.nn.KeyValueCache()
    parts = [layer(x[:, part], cache=cache, observe=[readout])[1].at for part in (slice(4), slice(4, 5), slice(5, 7))]
    torch.testing.assert_close(torch.cat(parts, -2), whole)
    with pytest.raises(ValueError, match=r"^keys: At has 7 rows of keys, and the last query is 7"):
        layer(x[:, :1], cache=cache, observe=[readout])


def stepped(name: str, readout: At, ends: tuple[int, ...], **options: Any) -> Any:
    model, given = models.made(name)[0], models.ids()
    cache = transformers.DynamicCache(config=model.config)
    with pellucid.watch(model, readouts=[readout], keep=True, **options) as record:
        for start, end in zip((0, *ends), ends, strict=False):
            model(given[:, start:end], **caches.given(cache))
    return record


@pytest.mark.sampled
@pytest.mark.parametrize("sum_heads", [False, True])
@pytest.mark.parametrize("name", ["llama", "mistral"])  # which has a window of 5, beyond which its cache forgets
def test_steps_of_a_watched_model(name: str, sum_heads: bool) -> None:
    keys = torch.randint(-1, models.LENGTH, (models.BATCH, 1, models.LENGTH, 6))  # some ahead, that a step has not yet
    for layer in stepped(name, At(keys, sum_heads), (4, 5, 9, 10, 11, models.LENGTH)).values():
        torch.testing.assert_close(layer.at, gathered(layer.weights(), keys, sum_heads), rtol=1e-5, atol=1e-6)


def test_one_row_for_every_position_and_too_few() -> None:
    keys = torch.tensor([[0, 7]])
    for layer in stepped("llama", At(keys), (4, 5, models.LENGTH)).values():
        torch.testing.assert_close(layer.at, gathered(layer.weights(), keys), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"^keys: At has 6 rows of keys, and the last query is 12"):
        stepped("llama", At(keys.expand(6, 2)), (4, models.LENGTH))
    with pytest.raises(ValueError, match=r"^keys: At takes \[2, 4, positions, n\], or 1 .*, got \[3, 13, 2\]"):
        stepped("llama", At(keys.expand(3, models.LENGTH, 2)), (4,))


def test_rows_taken_back_have_the_rows_of_what_came_instead() -> None:
    model, ids = models.made("llama")[0], models.ids()
    keys = torch.arange(models.LENGTH)[:, None] - torch.arange(2)
    cache = transformers.DynamicCache(config=model.config)
    with pellucid.watch(model, readouts=[At(keys, sum_heads=True)], keep=True) as record:
        model(ids[:, :9], **caches.given(cache))
        cache.crop(-3)
        model(ids[:, 9:12], **caches.given(cache))
    for layer in record.values():
        assert layer.at.shape == (models.BATCH, 9, 2)
        torch.testing.assert_close(layer.at, gathered(layer.weights(), keys[:9], sum_heads=True), rtol=1e-5, atol=1e-6)


def test_what_a_problem_of_no_queries_gives() -> None:
    nothing = torch.zeros(2, 0, 4)
    keys = torch.zeros(1, 3, dtype=torch.int64)
    for engine in ("reference", "portable"):
        with using(engine):
            assert pellucid.observe(nothing, torch.zeros(2, 5, 4), torch.zeros(2, 5, 4), readouts=[At(keys)])[
                1
            ].at.shape == (2, 0, 3)
            x = torch.zeros(2, 5, 4)
            assert not pellucid.observe(x, nothing, nothing, readouts=[At(keys - 1)])[1].at.any()
    problem = Problem(nothing, nothing, nothing, (), 2, 1.0)
    assert At(keys, sum_heads=True).empty(problem).shape == (0, 3)
