"""Maps of a record's heads at any size, against whole matrices."""

import pytest
import torch

from pellucid.readouts import Pooled
from pellucid.viewer import record_map
from pellucid.viewer.labels import cut_middle
from pellucid.viewer.record_map import all_maps, axes_tokens, head_map, labels
from tests.watch.observed import observed_layer, observed_record


def pooled(weights, rows, columns):
    """The definition for [heads, queries, keys], query by query."""
    heads, q_len, k_len = weights.shape
    sums, counts = torch.zeros(heads, rows, columns), torch.zeros(rows)
    for q in range(q_len):
        if not weights[:, q].isnan().any():
            counts[q * rows // q_len] += 1
            for k in range(k_len):
                sums[:, q * rows // q_len, k * columns // k_len] += weights[:, q, k]
    return sums / counts.where(counts > 0, torch.nan)[:, None]


@pytest.mark.parametrize("chunk", [100, 1 << 24])
@pytest.mark.parametrize("sequence", [0, 1])
def test_a_map_is_computed_from_query_and_key(sequence, chunk, monkeypatch):
    monkeypatch.setattr(record_map, "_CHUNK", chunk)
    layer = observed_layer(left_padding=[0, 9])
    weights = layer.weights()[sequence].clone()
    weights[:, : (0, 9)[sequence]] = torch.nan
    found = head_map(layer, 2, 6, 4, sequence)
    torch.testing.assert_close(found.weights, pooled(weights, 6, 4)[2], rtol=0, atol=1e-6, equal_nan=True)
    mean = head_map(layer, None, 6, 4, sequence).weights
    torch.testing.assert_close(mean, pooled(weights, 6, 4).mean(0), rtol=0, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(all_maps(layer, 5, sequence), pooled(weights, 5, 5), rtol=0, atol=1e-6, equal_nan=True)


def test_a_map_of_few_tokens_is_exact():
    layer = observed_layer(readouts=[Pooled(3, 3)])
    found = head_map(layer, 1, 23, 23)
    assert found.is_exact
    assert found.resolution == "a row a query, a column a key"
    torch.testing.assert_close(found.weights, layer.weights(heads=1)[0, 0], rtol=0, atol=1e-6)


def test_a_map_that_was_read_is_shown_in_joined_bins():
    layer = observed_layer(kept=False, q_len=24, readouts=[Pooled(12, 8)])
    whole = observed_layer(q_len=24).weights()[0]
    assert not head_map(layer, 0, 50, 50).is_exact
    torch.testing.assert_close(head_map(layer, 0, 50, 50).weights, pooled(whole, 12, 8)[0], rtol=0, atol=1e-6)
    found = head_map(layer, 0, 6, 4)
    torch.testing.assert_close(found.weights, pooled(whole, 6, 4)[0], rtol=0, atol=1e-6)
    assert found.resolution.startswith("a cell is 4 of queries by 6 of keys")


def test_bins_of_unequal_size_are_joined_by_their_size():
    layer = observed_layer(kept=False, readouts=[Pooled(5, 5)])  # 23 queries in bins of 5, 5, 4, 5 and 4
    whole = observed_layer().weights()[0]
    found = head_map(layer, 0, 3, 5).weights
    rows = [[q for q in range(23) if q * 5 // 23 in bins] for bins in ((0, 1), (2, 3), (4,))]
    by_key = pooled(whole[0][:, None], 1, 5)[:, 0]  # each query's weights, [23, 5]
    expected = torch.stack([by_key[own].mean(0) for own in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_without_either_there_is_no_map():
    layer = observed_layer(kept=False)
    assert head_map(layer, 0, 5, 5) is None
    assert all_maps(layer, 5) is None


def test_a_bin_is_labelled_by_its_first_token():
    assert labels(list("abcdefg"), 7, 3) == ["a", "d", "f"]
    assert labels(None, 4, 4, start=10) == ["10", "11", "12", "13"]
    assert labels(["x"], 3, 3) == ["x", "1", "2"]


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


def test_a_long_name_keeps_its_first_part_and_its_end():
    assert cut_middle("decoder.block.10.layer.1.EncDecAttention", 36) == "decoder…k.10.layer.1.EncDecAttention"
    assert cut_middle("encoder.layer.0", 36) == "encoder.layer.0"
    assert len(cut_middle("a" * 90, 20)) == 20
