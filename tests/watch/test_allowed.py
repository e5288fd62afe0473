"""The keys that each query may look at, counted in tiles, against the mask evaluated everywhere."""

import pytest
import torch

from pellucid.language import trace
from pellucid.record.studies import allowed
from pellucid.record.studies.allowed import Field

DOCUMENTS = torch.randint(0, 3, (2, 67), generator=torch.Generator().manual_seed(1)).sort(-1).values
MASKS = {
    "all": lambda b, h, q, k: k >= 0,
    "none": lambda b, h, q, k: k < 0,
    "causal": lambda b, h, q, k: k <= q,
    "a window": lambda b, h, q, k: (k <= q) & (k > q - 9),
    "a window a head": lambda b, h, q, k: (k <= q) & (k > q - 3 * h - 1),
    "documents": lambda b, h, q, k: (DOCUMENTS[b, q] == DOCUMENTS[b, k]) & (k <= q),
    "by key alone": lambda b, h, q, k: k % 3 == 0,
    "by query alone": lambda b, h, q, k: q % 2 == 0,
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [range(67), range(41, 67), range(66, 67)])
@pytest.mark.parametrize("name", MASKS)
def test_counts_are_those_of_the_whole_mask(name, queries, padded, monkeypatch):
    monkeypatch.setattr(allowed, "SMALLEST", 8)
    mask = MASKS[name]
    padding = torch.arange(67) < torch.tensor([[0], [5]]) if padded else None
    found = Field(2, 3, queries, range(67), padding, trace(mask, "mask", ("b", "h", "q", "k"))).count()
    b, h = torch.arange(2)[:, None, None, None], torch.arange(3)[:, None, None]
    q, k = torch.tensor(list(queries))[:, None], torch.arange(67)
    expected = torch.as_tensor(mask(b, h, q, k)).expand(2, 3, len(queries), 67)
    first = torch.zeros(2, dtype=torch.int64)
    if padding is not None:
        expected, first = expected & ~padding[:, None, None], torch.tensor([0, 5])
    assert torch.equal(found.keys.expand(2, 3, -1).long(), expected.sum(-1))
    others = expected & (k != first[:, None, None, None])
    assert torch.equal(found.beyond_first.expand(2, 3, -1).long(), others.sum(-1))


def test_keys_of_a_later_stretch_have_no_first():
    found = Field(1, 1, range(10, 12), range(4, 12), None, trace(MASKS["causal"], "mask", ("b", "h", "q", "k"))).count()
    assert found.keys.tolist() == found.beyond_first.tolist() == [[[7, 8]]]
