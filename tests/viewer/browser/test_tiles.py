"""Tiles, rows, columns and windows against whole matrices: of every kind of layer, computed now or from a pyramid."""

import random

import pytest
import torch

from pellucid import open_record
from pellucid.readouts import Pooled, PooledMax
from pellucid.viewer.browser import tiles
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.pyramid import jobs, levels, shown
from tests.viewer.browser.asking import LAYERS, assert_close, dense, json_of, pooled, soon, value_of
from tests.watch.observed import observed_layer, observed_record


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


@pytest.fixture
def asked():
    """Answers of a record with one layer, closed at the end."""
    made = []

    def of(layer, path=None):
        record = observed_record(layer)
        made.append(Answers({"one": record if path is None else open_record(record.save(path / "run.attn"))}))
        return made[-1]

    yield of
    for answers in made:
        answers.close()


@pytest.fixture
def small(monkeypatch):
    """Tiles of few bins and pyramids of small maps, in stripes of few rows, with checksums of few rows."""
    monkeypatch.setattr(tiles, "SIDE", 4)
    monkeypatch.setattr(tiles, "AT_ONCE", 0)
    monkeypatch.setattr(tiles, "MEANWHILE", 0)
    monkeypatch.setattr(tiles, "SMALL", 0)
    monkeypatch.setattr(levels, "FINEST", 1)
    monkeypatch.setattr(levels, "TOP", 3)
    monkeypatch.setattr(levels, "CHUNK", 2)
    monkeypatch.setattr(jobs, "MOST_ROWS", 4)
    monkeypatch.setattr(shown, "FEWEST", 4)


def chosen(layer, draw):
    """Some heads, how they become one, how a bin's pairs do, and a sequence, as a query has them."""
    heads = draw.choice(["all", str(draw.randrange(layer.heads)), ",".join(map(str, {0, layer.heads - 1}))])
    places = list(range(layer.heads)) if heads == "all" else [int(head) for head in heads.split(",")]
    query = {
        "layer": "0", "heads": heads, "over": draw.choice(["mean", "max"]), "pool": draw.choice(["mean", "max"]),
        "sequence": str(draw.randrange(layer.batch)),
    }  # fmt: skip
    return query, dense(layer, int(query["sequence"]), places, query["over"])


def tiles_of(layer, side, draw, count):
    """Random tiles: their levels and places."""
    for _ in range(count):
        z = [draw.randrange(7) for _ in range(2)]
        ends = (-(-length // (side << level)) for length, level in zip((layer.q_len, layer.k_len), z, strict=True))
        yield *z, *(draw.randrange(end) for end in ends)


def part_of(whole, side, tile, pool):
    zq, zk, i, j = tile
    rows, columns = side << zq, side << zk
    return pooled(whole[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns], 1 << zq, 1 << zk, pool)


@pytest.mark.sampled
def test_a_tile_that_is_computed_now(layer, asked, monkeypatch):
    monkeypatch.setattr(tiles, "SIDE", 8)
    monkeypatch.setattr(shown, "FEWEST", 4)
    draw, answers = random.Random(3), asked(layer)
    for tile in tiles_of(layer, 8, draw, 12):
        query, whole = chosen(layer, draw)
        query |= {"dtype": "f32"} | dict(zip(("zq", "zk", "i", "j"), map(str, tile), strict=True))
        answer = answers.get("api/tile", query)
        assert_close(value_of(answer), part_of(whole, 8, tile, query["pool"]))
        assert answer.headers["X-Exact"] == ("exact" if tile[:2] == (0, 0) else "pooled")


@pytest.mark.sampled
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_tile_out_of_a_pyramid(layer, asked, small, tmp_path, on_disk):
    on_disk = on_disk and bool(layer.parts)  # weights that were given are not kept
    draw, answers = random.Random(5), asked(layer, tmp_path if on_disk else None)
    for tile in tiles_of(layer, 4, draw, 12):
        query, whole = chosen(layer, draw)
        query |= {"dtype": "f32"} | dict(zip(("zq", "zk", "i", "j"), map(str, tile), strict=True))
        answer, _ = soon(answers, "api/tile", query)
        assert_close(value_of(answer), part_of(whole, 4, tile, query["pool"]))


def test_half_precision_is_that_of_the_logarithm(asked):
    layer = observed_layer(q_len=300, batch=1)
    answers = asked(layer)
    found = value_of(answers.get("api/tile", {"layer": "0", "heads": "1", "j": "0", "i": "1"}))
    expected = dense(layer, 0, [1], "mean")[256:, :256]
    assert found.shape == (44, 256)
    assert_close(found.log(), expected.log(), atol=2**-8, rtol=2**-10)


@pytest.mark.parametrize("name", LAYERS)
def test_windows_rows_and_columns_are_exact(name, asked):
    layer = LAYERS[name]()
    draw, answers = random.Random(7), asked(layer)
    for _ in range(4):
        query, whole = chosen(layer, draw)
        (a, b), (c, d) = (sorted(draw.sample(range(length + 1), 2)) for length in whole.shape)
        window = value_of(answers.get("api/window", query | {"queries": f"{a}:{b}", "keys": f"{c}:{d}"}))
        assert_close(window, whole[a:b, c:d])
        assert_close(value_of(answers.get("api/row", query | {"query": str(a)})), whole[a])
        assert_close(value_of(answers.get("api/column", query | {"key": str(c)})), whole[:, c])


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_the_whole_map_at_once(name, asked):
    layer = LAYERS[name]()
    draw, answers = random.Random(11), asked(layer)
    for _ in range(4):
        query, whole = chosen(layer, draw)
        answer = answers.get("api/overview", query)
        assert answer.headers["X-Exact"] == "exact"
        assert_close(value_of(answer), whole)


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("name", LAYERS)
def test_thumbnails(name, asked, pool):
    layer = LAYERS[name]()
    answers, sequence = asked(layer), layer.batch - 1
    query = {"layer": "0", "sequence": str(sequence), "pool": pool, "most": "9"}
    answer = answers.get("api/thumbs", query)
    found = value_of(answer)
    for head in range(layer.heads):
        whole = dense(layer, sequence, [head], "mean")
        if "X-Bins" in answer.headers:
            expected = pooled(whole, *map(int, answer.headers["X-Bins"].split(",")), pool)
        else:
            expected = uniform(whole, found.shape[1:], pool)
        assert_close(found[head], expected, rtol=1e-2)  # float16
    assert max(found.shape[1:]) <= 9


def uniform(whole, shape, pool):
    """As `pooled`, bin i of R from i / R of the length to (i + 1) / R."""
    places = [torch.arange(length) * bins // length for length, bins in zip(whole.shape, shape, strict=True)]
    found = torch.full(tuple(shape), torch.nan, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            part = whole[places[0] == i][:, places[1] == j]
            part = part[~part.isnan().any(1)]
            if part.numel():
                found[i, j] = part.mean() if pool == "mean" else part.amax()
    return found


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_thumbnails_and_overviews_of_a_large_layer(asked, small, monkeypatch, pool):
    monkeypatch.setattr("pellucid.viewer.browser.wholes.SMALL", 0)
    layer = observed_layer(q_len=300, left_padding=[0, 30])
    answers = asked(layer)
    query = {"layer": "0", "sequence": "1", "pool": pool, "most": "48"}
    answer, tried = soon(answers, "api/thumbs", query)
    bins = [int(size) for size in answer.headers["X-Bins"].split(",")]
    assert (tried > 0, bins) == (True, [8, 8])
    for head, found in enumerate(value_of(answer)):
        assert_close(found, pooled(dense(layer, 1, [head], "mean"), *bins, pool), rtol=1e-2)
    for heads, over in (([1], "mean"), ([0, 2], "mean"), ([0, 2], "max")):
        named = {"heads": ",".join(map(str, heads)), "over": over}
        answer, _ = soon(answers, "api/overview", query | named)
        bins = [int(size) for size in answer.headers["X-Bins"].split(",")]
        assert_close(value_of(answer), pooled(dense(layer, 1, heads, over), *bins, pool))


def test_what_was_read_in_the_pass_is_enough(asked):
    readouts = Pooled(24, 24), PooledMax(24, 24)
    layer = observed_layer(q_len=96, kept=False, left_padding=[0, 10], readouts=readouts)
    for readout in readouts:
        layer.readings[readout.name] = readout.without_padding(layer.readings[readout.name], layer.padding.queries)
    whole = observed_layer(q_len=96, left_padding=[0, 10])
    answers = asked(layer)
    for pool in ("mean", "max"):
        query = {"layer": "0", "sequence": "1", "pool": pool}
        for head, found in enumerate(value_of(answers.get("api/thumbs", query | {"most": "12"}))):
            assert_close(found, uniform(dense(whole, 1, [head], "mean"), (12, 12), pool), rtol=1e-2)
        found = value_of(answers.get("api/overview", query | {"heads": "0,2", "over": pool}))
        each = [uniform(dense(whole, 1, [head], "mean"), (24, 24), pool) for head in (0, 2)]
        expected = torch.stack(each).mean(0) if pool == "mean" else torch.stack(each).amax(0)
        assert_close(found, expected, rtol=1e-4)
        other = {"over": "max" if pool == "mean" else "mean"}
        refused = answers.get("api/overview", query | other)
        assert refused.status == 404
    refused = answers.get("api/tile", {"layer": "0"})
    assert refused.status == 404
    assert json_of(refused) == {"error": "the layer kept no query and key to compute exact weights from"}


def test_what_no_query_may_look_at_is_not_computed(asked, monkeypatch):
    """A tile above the diagonal costs nothing."""
    layer = observed_layer(q_len=600, batch=1)
    monkeypatch.setattr("pellucid.record.pooling.pooled", lambda *_, **__: pytest.fail("it is computed"))
    found = value_of(asked(layer).get("api/tile", {"layer": "0", "heads": "0", "i": "0", "j": "1"}))
    assert found.shape == (256, 256)
    assert not found.any()
