"""Windows of a layer's weights in bins, by a pass over whole rows and by the weights themselves: what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import pellucid
from pellucid import engines
from pellucid.record import part as parts
from pellucid.record import pooling
from pellucid.record.given import record_of_weights
from pellucid.record.layer import Layer, Padding
from pellucid.record.pooling import pooled
from tests.cases import examples
from tests.watch.observed import observed_layer

WAYS = ("passed", "passed by torch", "joined", "joined by an engine")


@contextmanager
def by(way: str, at_once: int = 1 << 20) -> Iterator[None]:
    """Every stretch in one of the ways, and so many weights of it at a time."""
    slow = engines.using("portable") if way == "passed by torch" else nullcontext()
    with pytest.MonkeyPatch.context() as patch, slow:
        patch.setattr(pooling, "LEAST_PASSED", 0)
        patch.setattr(pooling, "LEAST_BIN", 0)
        patch.setattr(pooling, "ROWS_A_WINDOW", 1 << 30 if way.startswith("passed") else 0)
        patch.setattr(parts, "FOR_AN_ENGINE", 0 if way == "joined by an engine" else 1 << 60)
        for name in ("AT_ONCE", "PASSED_AT_ONCE"):
            patch.setattr(pooling, name, at_once)
        yield


def meant(layer: Layer, sequence: int, heads: Any, rows: range, keys: range, q_bin: int, k_bin: int) -> list[Any]:
    """Mean, largest and count of each bin, from the layer's weights one by one."""
    weights = layer.weights(heads=heads)[sequence].double()
    padded = layer.padding.queries
    found = []
    for first in rows[::q_bin]:
        own = [q for q in range(first, min(first + q_bin, rows.stop)) if padded is None or not padded[sequence, q]]
        bins = [weights[:, own][..., start : min(start + k_bin, keys.stop)] for start in keys[::k_bin]]
        nothing = torch.full((len(weights),), torch.nan, dtype=torch.float64)
        means = [cell.sum((-2, -1)) / len(own) if own else nothing for cell in bins]
        largest = [cell.amax((-2, -1)) if own else nothing for cell in bins]
        found.append((torch.stack(means, -1), torch.stack(largest, -1), len(own)))
    return [torch.stack([row[0] for row in found], 1), torch.stack([row[1] for row in found], 1), [r[2] for r in found]]


def check(layer: Layer, way: str, *, q: slice, k: slice, q_bin: int, k_bin: int, **more: Any) -> None:
    """The bins of a window are what they mean."""
    sequence, heads, at_once = more.get("sequence", 0), more.get("heads"), more.pop("at_once", 1 << 20)
    rows, keys = range(layer.q_len)[q], range(layer.k_len)[k]
    mean, largest, counts = meant(layer, sequence, heads, rows, keys, q_bin, k_bin)
    with by(way, at_once):
        found = pooled(layer, q_bin=q_bin, k_bin=k_bin, queries=q, keys=k, **more)
    assert found.mean.dtype == found.largest.dtype == torch.float32
    assert found.counted.tolist() == counts
    # A weight is of lse and a score, whose last digits are of the size of the largest score's.
    exact = {"rtol": 1e-5, "atol": 3e-6, "equal_nan": True}
    torch.testing.assert_close(found.mean.double(), mean, **exact)
    torch.testing.assert_close(found.largest.double(), largest, **exact)


@st.composite
def windows(draw: st.DrawFn, q_len: int, k_len: int) -> dict[str, Any]:
    """A window with something in it, and the sizes of its bins."""
    found: dict[str, Any] = {}
    for name, length in (("q", q_len), ("k", k_len)):
        start = draw(st.integers(0, length - 1))
        found[name] = slice(start, draw(st.integers(start + 1, length)))
        found[f"{name}_bin"] = draw(st.sampled_from((1, 2, 3, 7, 16, 64)))
    return found


LAYERS: dict[str, dict[str, Any]] = {
    "causal": {},
    "padded": {"left_padding": [0, 9]},
    "all but one padded": {"left_padding": [22, 3]},
    "self": {"role": "self", "left_padding": [4, 0]},
    "cross": {"role": "cross", "q_len": 17, "k_len": 41, "left_padding": [2, 0]},
    "grouped": {"heads": 6, "kv_heads": 2, "q_len": 70},
    "one head of keys": {"heads": 4, "kv_heads": 1},
    "a sliding window": {"window": 5, "q_len": 67},
    "sinks": {"sinks": torch.tensor([0.5, -3.0, 2.0])},
    "sharp": {"sharp": 30.0},
    "bfloat16": {"dtype": torch.bfloat16, "q_len": 70},
    "float16": {"dtype": torch.float16},
    "float64": {"dtype": torch.float64},
}


@pytest.mark.sampled
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
@examples(6)
@given(data=st.data())
def test_a_window_in_bins_is_what_it_means(name: str, way: str, data: st.DataObject) -> None:
    layer = observed_layer(**LAYERS[name])
    heads = data.draw(st.none() | st.lists(st.integers(0, layer.heads - 1), min_size=1, max_size=4), "heads")
    window = data.draw(windows(layer.q_len, layer.k_len), "window")
    at_once = data.draw(st.sampled_from((1, 300, 1 << 20)), "at_once")
    check(layer, way, **window, heads=heads, sequence=data.draw(st.integers(0, 1), "sequence"), at_once=at_once)


def positioned(layer: Layer, start: int, cuts: list[int], dropped: int = 0) -> Layer:
    """The layer's queries from a position on, in parts as a generation leaves them: each of the keys that it may see.

    `dropped` keys fall out of the cache behind each query, as those of a sliding window do.
    """
    part = layer.parts[0]
    bounds = [start, *cuts, layer.q_len]
    found = []
    for first, stop in pairwise(bounds):
        own, k_start = part.between(first, stop), max(0, first - dropped) if dropped else 0
        found.append(replace(own, k_start=k_start, key=part.key[:, :, k_start:stop]))
    readings = {"lse": layer.lse[:, :, start:]}
    padding = layer.padding.queries
    padding = Padding(None if padding is None else padding[:, start:], layer.padding.keys)
    return replace(
        layer, q_len=layer.q_len - start, start=start, parts=found, readings=readings, padding=padding, calls=len(found)
    )


@pytest.mark.sampled
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"left_padding": [0, 5]}, {"window": 6}], ids=str)
@examples(6)
@example(start=11, cuts=[12, 13, 14], data=None)
@given(start=st.integers(0, 20), cuts=st.lists(st.integers(1, 33), max_size=6), data=st.data())
def test_parts_of_a_generation_share_bins(
    way: str, options: dict[str, Any], start: int, cuts: list[int], data: st.DataObject | None
) -> None:
    whole = observed_layer(q_len=34, **options)
    own = sorted({cut for cut in cuts if cut > start})
    layer = positioned(whole, start, own, dropped=options.get("window", 1) - 1)
    torch.testing.assert_close(layer.weights(), whole.weights(queries=slice(start, None)), rtol=1e-5, atol=1e-6)
    window = {"q": slice(None), "k": slice(2, 33), "q_bin": 5, "k_bin": 4}
    window = window if data is None else data.draw(windows(layer.q_len, layer.k_len), "window")
    check(layer, way, **window, sequence=1)


@pytest.mark.sampled
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("own", [nn.MultiheadAttention, "written"], ids=str)
def test_layers_of_a_watched_model(way: str, own: Any) -> None:
    model = _Written() if own == "written" else own(24, 3, batch_first=True)
    x = torch.randn(2, 19, 24)
    with pellucid.watch(model.eval(), keep=True) as record:
        model(*(x,) * (1 if own == "written" else 3))
    layer = record[0]
    assert layer.by_hand == (own == "written")
    check(layer, way, q=slice(3, None), k=slice(1, 17), q_bin=4, k_bin=3, sequence=1, heads=[2, 0])


class _Written(nn.Module):
    """Attention by a softmax of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(24, 72)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (t.unflatten(-1, (3, -1)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        return torch.softmax(query @ key.mT * 0.3, -1) @ value


@examples(20)
@given(data=st.data())
def test_weights_that_were_given(data: st.DataObject) -> None:
    given = torch.softmax(torch.randn(2, 3, 13, 17), -1)
    given[1, :, 4] = torch.nan  # padding
    layer = record_of_weights(given)[0]
    sequence = data.draw(st.integers(0, 1))
    check(layer, "joined", **data.draw(windows(13, 17)), sequence=sequence, heads=[2, 1])


def test_the_way_is_chosen_by_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = observed_layer(q_len=600, batch=1)
    seen = []
    for name in ("_passed", "_joined"):
        way = getattr(pooling._Stretch, name)
        monkeypatch.setattr(pooling._Stretch, name, lambda *a, way=way, name=name: seen.append(name) or way(*a))
    monkeypatch.setattr(pooling, "LEAST_PASSED", 1 << 15)
    pooled(layer, q_bin=4, k_bin=4)
    pooled(layer, q_bin=4, k_bin=4, queries=slice(0, 9))  # few
    pooled(layer, q_bin=4, k_bin=4, keys=slice(0, 100))  # a part of its rows
    pooled(layer, q_bin=1, k_bin=2)  # hardly bins
    assert seen == ["_passed", "_joined", "_joined", "_joined"]


def test_how_much_is_done_is_told_and_an_error_ends_it() -> None:
    layer = observed_layer(q_len=40)
    told: list[float] = []
    with by("joined", at_once=23 * 40):
        pooled(layer, q_bin=4, k_bin=4, progress=told.append)
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pooled(layer, q_bin=4, k_bin=4, progress=stop)


def test_nothing_is_in_an_empty_window() -> None:
    found = pooled(observed_layer(), q_bin=4, k_bin=4, queries=slice(5, 5), keys=slice(9, 2))
    assert (list(found.mean.shape), list(found.largest.shape), list(found.counted.shape)) == ([3, 0, 0], [3, 0, 0], [0])
    assert list(pooled(observed_layer(), q_bin=4, k_bin=4, keys=slice(9, 2)).mean.shape) == [3, 6, 0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"q_bin": 0}, ValueError, "q_bin: at least 1, got 0"),
        ({"k_bin": -1}, ValueError, "k_bin: at least 1, got -1"),
        ({"queries": slice(0, 9, 2)}, ValueError, "queries: a slice of neighbours"),
        ({"sequence": 2}, IndexError, "has 2, counted from 0, got 2"),
        ({"heads": [3]}, IndexError, "heads: a slice, or indices from -3 to 2"),
    ],
)
def test_what_is_not_there_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pooled(observed_layer(), **{"q_bin": 4, "k_bin": 4, **options})


def test_without_query_and_key_there_are_no_bins() -> None:
    with pytest.raises(ValueError, match="kept no query and key; watch the model with keep=True"):
        pooled(observed_layer(kept=False), q_bin=4, k_bin=4)


@pytest.mark.parametrize("name", LAYERS)
def test_one_sequence_has_the_weights_that_it_has_in_the_batch(name: str) -> None:
    layer = observed_layer(**LAYERS[name])
    for number in range(layer.batch):
        alone = layer.of_sequence(number)
        torch.testing.assert_close(alone.weights()[0], layer.weights()[number], rtol=1e-5, atol=1e-6)
        assert alone.batch == 1


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_an_engine_computes_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = observed_layer(**LAYERS[name])
    part = {"queries": slice(3, 15), "keys": [1, 5, 6, 16], "heads": [2, 0]}
    expected = [layer.weights(), layer.weights(**part)]
    monkeypatch.setattr(parts, "FOR_AN_ENGINE", 0)
    for found, dense in zip([layer.weights(), layer.weights(**part)], expected, strict=True):
        assert found.dtype == dense.dtype
        torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-5)
