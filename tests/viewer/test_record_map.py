"""Maps of a record's heads at any size, against whole matrices."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.readouts import Pooled, PooledMax
from pellucid.record.texts import lists_of
from pellucid.viewer.labels import cut_middle
from pellucid.viewer.record_map import POOLS, Axis, Look, axes_tokens, bin_sizes, labels, maps
from tests.watch.observed import observed_layer, observed_record


def of_bins(weights, maps):
    """The definition of a map's bins, [heads, queries, keys] bin by bin; rows that are NaN do not count."""
    heads = len(weights)
    rows, columns = ([*axis.firsts, axis.stop] for axis in (maps.queries, maps.keys))
    found = torch.full((heads, len(rows) - 1, len(columns) - 1), torch.nan)
    for i, own in enumerate(pairwise(rows)):
        counted = [q for q in range(*own) if not weights[:, q].isnan().any()]
        for j, keys in enumerate(pairwise(columns)):
            cell = weights[:, counted, keys[0] : keys[1]]
            if counted:
                found[:, i, j] = cell.sum((1, 2)) / len(counted) if maps.pool == "mean" else cell.amax((1, 2))
    return found


def check(found, weights):
    torch.testing.assert_close(found.weights, of_bins(weights, found), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("sequence", [0, 1])
def test_a_map_is_computed_from_query_and_key(sequence, pool):
    layer = observed_layer(left_padding=[0, 9])
    weights = layer.weights()[sequence].clone()
    weights[:, : (0, 9)[sequence]] = torch.nan
    check(maps(layer, Look(pool=pool, sequence=sequence), 5), weights)
    found = maps(layer, Look(2, pool, slice(3, 20), slice(1, 21), sequence), 6)
    assert (found.queries.firsts[0], found.queries.stop, found.keys.firsts[0], found.keys.stop) == (3, 20, 1, 21)
    check(found, weights[2:3])


def test_the_heads_of_a_map_are_joined_as_its_bins_are():
    layer = observed_layer()
    for pool, join in (("mean", torch.mean), ("max", torch.amax)):
        found = maps(layer, Look(pool=pool), 6)
        torch.testing.assert_close(found.joined().weights[0], join(found.weights, 0))


def test_a_map_of_few_tokens_is_exact():
    layer = observed_layer(readouts=[Pooled(3, 3)])
    found = maps(layer, Look(1), 23)
    assert found.is_exact
    assert found.resolution == "a row a query, a column a key"
    torch.testing.assert_close(found.weights, layer.weights(heads=1)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("pool", "readout"), [("mean", Pooled(12, 8)), ("max", PooledMax(12, 8))])
def test_a_map_that_was_read_is_shown_in_joined_bins(pool, readout):
    layer = observed_layer(kept=False, q_len=25, readouts=[readout])
    weights = observed_layer(q_len=25).weights()[0]
    for most in (50, 6, 4, 1):
        found = maps(layer, Look(pool=pool), most)
        assert found.resolution.startswith("a cell is")
        check(found, weights)


def test_a_part_of_a_map_that_was_read_has_the_bins_that_it_begins_and_ends_in():
    layer = observed_layer(kept=False, q_len=24, readouts=[Pooled(6, 4)])
    found = maps(layer, Look(0, queries=slice(5, 9), keys=slice(7, 8)), 50)
    assert (found.queries.firsts, found.queries.stop) == ([4, 8], 12)
    assert (found.keys.firsts, found.keys.stop) == ([6], 12)
    check(found, observed_layer(q_len=24).weights()[0, :1])


def test_a_part_is_computed_where_it_can_be_though_the_whole_was_read():
    layer = observed_layer(q_len=24, readouts=[Pooled(6, 4)])
    found = maps(layer, Look(0, queries=slice(5, 9), keys=slice(7, 8)), 50)
    assert (found.queries.firsts, found.queries.stop) == ([5, 6, 7, 8], 9)
    assert found.is_exact


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_bins_are_alike_unless_the_lengths_are_not(q_len, k_len, most):
    q_bin, k_bin = bin_sizes(q_len, k_len, most)
    assert max(-(-q_len // q_bin), -(-k_len // k_bin)) <= most
    assert q_bin == k_bin or max(q_len, k_len) > 4 * min(q_len, k_len)


def test_how_much_of_a_map_is_computed_is_told():
    told = []
    maps(observed_layer(), Look(), 5, told.append)
    assert told[-1] == 1.0


@pytest.mark.parametrize("pool", POOLS)
def test_without_either_there_is_no_map(pool):
    readouts = [Pooled(3, 3)] if pool == "max" else [PooledMax(3, 3)]
    assert maps(observed_layer(kept=False, readouts=readouts), Look(pool=pool), 5) is None
    assert maps(observed_layer(), Look(pool=pool, keys=slice(23, 23)), 5) is None


def test_a_bin_is_labelled_by_its_first_token():
    assert labels(list("abcdefg"), Axis([0, 3, 5], 7)) == ["a", "d", "f"]
    assert labels(None, Axis([0, 1, 2, 3], 4), start=10) == ["10", "11", "12", "13"]
    assert labels(["x"], Axis([0, 1, 2], 3)) == ["x", "1", "2"]


def test_axes_are_the_sequences_that_a_layer_attends_in():
    layers = [
        observed_layer("encoder", "self", q_len=5),
        observed_layer("decoder", q_len=3),
        observed_layer("cross", "cross", q_len=3, k_len=5),
    ]
    record = observed_record(*layers, tokens=[["a", "b", "c"]], source_tokens=[list("vwxyz")])
    written, read = ["a", "b", "c"], list("vwxyz")
    assert [axes_tokens(record, layer) for layer in layers] == [(read, read), (written, written), (written, read)]
    assert axes_tokens(record, layers[0], sequence=1) == (None, None)


@pytest.mark.parametrize(
    ("shapes", "tokens", "source", "listed"),
    [
        ({"self": (7, 7)}, 7, None, "own"),
        ({"self": (7, 7), "self again": (7, 7)}, 5, None, "own"),  # those of the prompt alone are known
        ({"self": (7, 7), "cross": (3, 7)}, 3, None, None),  # frames of sound, and what is written of them
        ({"self": (7, 7), "cross": (3, 7)}, 7, None, None),  # whose they are is not certain
        ({"self": (3, 3), "cross": (3, 7)}, 3, None, "own"),  # a decoder that is not causal
        ({"self": (7, 7), "cross": (3, 7)}, 3, 7, "source"),
        ({"self": (7, 7), "causal self": (9, 9)}, 9, None, None),  # patches, and a language model that reads them
        ({"self": (7, 7), "causal self": (7, 7)}, 5, None, "own"),
        ({"self": (7, 7), "self again": (9, 9)}, 9, None, None),  # patches and a text, neither causal
        ({"self": (9, 9), "self again": (7, 7)}, 9, None, "own"),
    ],
)
def test_an_encoder_of_no_words_has_none(shapes, tokens, source, listed):
    layers = [
        observed_layer(name, name.removesuffix(" again"), q_len=q_len, k_len=k_len)
        for name, (q_len, k_len) in shapes.items()
    ]
    texts = [list("abcdefghi")[:tokens]], None if source is None else [list("rstuvwxyz")[:source]]
    record = observed_record(*layers, tokens=texts[0], source_tokens=texts[1])
    assert lists_of(record, record["self"]) == (listed, listed)
    assert axes_tokens(record, record["self"])[0] == {"own": texts[0][0], "source": (texts[1] or [None])[0]}.get(listed)


def test_a_long_name_keeps_its_first_part_and_its_end():
    assert cut_middle("decoder.block.10.layer.1.EncDecAttention", 36) == "decoder…k.10.layer.1.EncDecAttention"
    assert cut_middle("encoder.layer.0", 36) == "encoder.layer.0"
    assert len(cut_middle("a" * 90, 20)) == 20
