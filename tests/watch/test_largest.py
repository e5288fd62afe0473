import pytest
import torch

from pellucid.readouts import PooledMax
from pellucid.watch import largest
from tests.watch.observed import observed_layer


@pytest.mark.parametrize("chunk", [200, 1 << 24])
@pytest.mark.parametrize("options", [{}, {"role": "cross", "k_len": 11}, {"window": 5, "kv_heads": 1}])
def test_what_is_kept_gives_what_the_pass_reads(options, chunk, monkeypatch):
    monkeypatch.setattr(largest, "_CHUNK", chunk)
    layer = observed_layer(readouts=[PooledMax(5, 7)], **options)
    torch.testing.assert_close(largest.pooled_max(layer, 5, 7), layer.pooled_max, rtol=0, atol=1e-6)


def test_rows_of_padding_are_not_looked_at():
    layer = observed_layer(role="self", left_padding=[0, 5])
    whole = layer.weights().masked_fill(layer.padding.queries[:, None, :, None], 0.0)
    found = largest.pooled_max(layer, 1, 23)
    torch.testing.assert_close(found[:, :, 0], whole.amax(-2), rtol=0, atol=1e-6)
