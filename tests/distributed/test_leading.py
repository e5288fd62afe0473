"""`context_parallel`: models give what they give alone or are refused; ranks that come to other things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pellucid.distributed import documents, even, head_tail, of_lengths
from tests.distributed import contexts
from tests.distributed.ranks import Ranks

pytestmark = pytest.mark.sampled


@pytest.mark.parametrize("name", contexts.MODELS)
def test_models_inside(ranks: Ranks, name: str) -> None:
    exact = contexts.MODELS[name]()(contexts.sequence())
    for found in ranks.run(contexts.run, name, 3, ranks=3):
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-6)


def test_what_is_refused_inside(ranks: Ranks) -> None:
    for told in ranks.run(contexts.refused, 2, ranks=2):
        for name, (_, why) in contexts.REFUSED.items():
            assert re.match(why, told[name]), (name, told[name])


def test_buffers_that_cannot_be_cut(ranks: Ranks) -> None:
    for told in ranks.run(contexts.buffers, 2, ranks=2):
        assert told[0] == "IndexError: buffer_seq_dims: one of the 3 dimensions of [2, 11, 8] is needed, got 3"
        assert told[1].startswith("ValueError: buffers: one that needs a gradient")
        assert told[2] == "TypeError: buffers: tensors are needed, got int"


def test_ranks_that_come_to_other_things(ranks: Ranks) -> None:
    first, last = ranks.run(contexts.steps, 2, ranks=2)
    assert first[:4] == last[:4]
    come = "ValueError: attention: all ranks must come to the same, in the same order; rank 0 to "
    assert first[0] == come + "a call's tensors, rank 1 to weights(...) or dropped(...)"
    assert first[1] == come + "weights(...) or dropped(...), rank 1 to join(...)"
    for text, name in zip(first[2:4], ("tensor|dim", "tensor"), strict=True):
        assert re.match(rf"ValueError: ({name}): the ranks of a sharded call must give the same", text)
    assert first[4].startswith("ValueError: attention: rank 1 refuses its own arguments")
    assert last[4] == "IndexError: dim: one of the 3 dimensions of [2, 11, 8] is needed, got 7"


def test_strangers(ranks: Ranks) -> None:
    for told in ranks.run(contexts.strangers, 2, ranks=2):
        assert told[0].startswith("TypeError: group: a process group is needed, as mesh.get_group() gives one")
        assert told[1].startswith("TypeError: group: a process group is needed, or None")
        assert told[2].startswith("TypeError: query: a plain tensor of this rank's is needed")
        assert told[3].startswith("TypeError: sinks: a plain tensor of this rank's is needed")
        assert told[4].startswith("TypeError: a captured tensor: a plain tensor of this rank's is needed")


def test_records_that_are_asked_for_otherwise(ranks: Ranks, tmp_path: Path) -> None:
    said = "the ranks must give the same; rank 0 has"
    for told in ranks.run(contexts.records, 2, str(tmp_path), ranks=2):
        assert told[0] == f"ValueError: to: {said} 0, rank 1 has 1"
        assert told[1] == f"ValueError: call: {said} 'save(...)', rank 1 has 'gather(...)'"
        assert told[2] == f"ValueError: path: {said} '0.attn', rank 1 has '1.attn'"
        assert told[3] == "nothing"
    assert not list(tmp_path.iterdir())


def test_what_has_no_gradient_says_so(ranks: Ranks) -> None:
    assert ranks.run(contexts.pooled_max, 2, ranks=2) == [False, False]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: of_lengths([3, -1]), ValueError, "lengths: 0 or more is needed, got -1"),
        (lambda: documents([3, 0.5], 2), TypeError, "lengths: whole numbers are needed, got 0.5"),  # type: ignore[list-item]
        (lambda: head_tail(-3, 2), ValueError, "lengths: 0 or more is needed, got -3"),
        (lambda: even(3, 0), ValueError, "ranks: 1 or more is needed, got 0"),
    ],
)
def test_lengths_that_are_none(make: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        make()  # type: ignore[operator]
