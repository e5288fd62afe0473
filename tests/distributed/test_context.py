"""Models inside `context_parallel`, plain, accelerated and watched: the numbers and the record of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import pellucid
from pellucid.distributed import context_parallel, cut, join
from pellucid.nn import SelfAttention
from tests.distributed.ranks import Ranks, group, mesh
from tests.distributed.test_models import close, of_kind
from tests.distributed.test_records import MORE, same

LENGTH = 13
MORE_READOUTS = (*MORE, pellucid.PooledMax(3, 2), pellucid.Renyi(2))


class Words(nn.Module):
    """A small language model of Pellucid's layers."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(19, 12)
        self.layers = nn.ModuleList(
            SelfAttention(12, 4, kv_heads=2, head_dim=4, rotary=100.0, is_causal=True) for _ in range(layers)
        )
        self.slopes = torch.rand(4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = x + layer(x, score_mod=lambda s, b, h, i, j: s + self.slopes[h] * (j - i))
        return x


def words(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(19, (batch, length), generator=torch.Generator().manual_seed(3))


def watched(model: nn.Module, ids: Tensor, **options: Any) -> tuple[Tensor, Any]:
    with torch.no_grad(), pellucid.watch(model, keep=True, **({"more": MORE_READOUTS} | options)) as record:
        output = model(ids)
    return output, record


def of_ranks(ranks: int, layout: Any, folder: Path) -> None:
    ids, model = words(), Words()
    output, expected = watched(model, ids)
    own = ids.clone()
    with context_parallel(mesh(ranks), buffers=[own], buffer_seq_dims=[1], layout=layout):
        found, record = watched(model, own, ranks={"positions": mesh(ranks)})
    close(join(found, 1, layout, group(ranks)), output, 1e-5)
    size = -(-LENGTH // ranks)
    rows = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    for name, layer in record.items():
        assert layer.start == rows.start
        close(layer.entropy, expected[name].entropy[:, :, rows], 1e-5)
        close(layer.received, expected[name].received, 1e-5)
        close(layer.weights(), expected[name].weights()[:, :, rows], 1e-5)
    assert torch.equal(record.token_ids, ids)
    whole = record.gather()
    same(whole, expected)
    assert str(whole.summary()) == str(expected.summary())
    assert [len(layer.parts) for layer in whole.values()] == [1, 1]
    path = record.save(folder / "run.attn")
    same(pellucid.open_record(path, verify=True), expected)


@pytest.mark.parametrize("layout", ["head_tail", "contiguous"])
def test_a_watched_model_is_recorded(ranks: Ranks, layout: str, tmp_path: Path) -> None:
    ranks.run(of_ranks, 3 if layout == "head_tail" else 2, layout, tmp_path, ranks=3 if layout == "head_tail" else 2)
