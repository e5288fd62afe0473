"""Calls of several ranks in torch.compile: DTensors in one graph; sequences' parts beside it, in words."""

from __future__ import annotations

import re

import pytest
import torch
from torch.distributed.tensor import Placement, Replicate, Shard

from tests.distributed import surroundings
from tests.distributed.cases import assert_same
from tests.distributed.ranks import Ranks
from tests.distributed.surroundings import BY_HEADS, BY_QUERIES


@pytest.mark.parametrize(
    ("shape", "placements"),
    [((2,), BY_HEADS), ((3,), BY_QUERIES), ((2, 2), [Shard(0), Shard(1)]), ((2, 2), [Replicate(), Shard(1)])],
    ids=str,
)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.thorough)])
def test_dtensors_in_a_graph(ranks: Ranks, shape: tuple[int, ...], placements: list[Placement], backend: str) -> None:
    for found in ranks.run(surroundings.compiled, shape, placements, backend, 0.0, ranks=torch.Size(shape).numel()):
        assert found["graphs"] == 1
        for turn in range(2):
            compiled, plain = (dict(enumerate(found[f"{name} {turn}"])) for name in ("compiled", "plain"))
            assert_same(compiled, plain, torch.float32)  # type: ignore[arg-type]
            assert found[f"compiled {turn}, placements"] == found[f"plain {turn}, placements"]


def test_dropout_in_a_graph(ranks: Ranks) -> None:
    """Ranks that have the same drop the same, whatever their seeds."""
    each = ranks.run(surroundings.compiled, (2, 2), [Replicate(), Shard(1)], "aot_eager", 0.4, ranks=4)
    for own in each[1:]:
        assert_same(dict(enumerate(own["compiled 0"])), dict(enumerate(each[0]["compiled 0"])), torch.float32)  # type: ignore[arg-type]


def test_a_sequence_beside_a_graph(ranks: Ranks) -> None:
    for compiled, plain in ranks.run(surroundings.compiled_sequence, 2, False, ranks=2):
        assert torch.equal(compiled, plain)
    for text in ranks.run(surroundings.compiled_sequence, 2, True, ranks=2):
        assert re.search("which no graph holds; of DTensors at pellucid.attention one does", text), text
