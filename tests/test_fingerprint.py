"""Tensors of the same numbers have one fingerprint, and one number that is another makes another."""

from __future__ import annotations

import pytest
import torch

from pellucid.tensors import fingerprint as fingerprints
from pellucid.tensors.fingerprint import ROW, fingerprint

DTYPES = (torch.bool, torch.int64, torch.bfloat16, torch.float64, torch.complex64)
SIZES = ((), (0,), (3,), (7, 5), (ROW + 1, 19))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_one_number_makes_another(dtype: torch.dtype, size: tuple[int, ...]) -> None:
    tensor = torch.randint(0, 2, size).to(dtype)
    own = fingerprint(tensor)
    assert len(own) == 16
    assert fingerprint(tensor.clone()) == own
    for place in range(0, tensor.numel(), tensor.numel() // 2 + 1):
        other = tensor.clone()
        other.view(-1)[place] = 1 - int(other.view(-1)[place])
        assert fingerprint(other) != own


def test_the_order_counts() -> None:
    tensor = torch.arange(5 * ROW).view(5, ROW)
    assert len({fingerprint(t) for t in (tensor, tensor.flip(0), tensor.flip(1), tensor.roll(1, 1))}) == 4


def test_masks_whose_rows_and_columns_have_the_same_sums() -> None:
    """Two documents that look at themselves, and two that look at one another."""
    own = torch.eye(2, dtype=torch.bool).repeat_interleave(ROW, 0).repeat_interleave(4 * ROW, 1)
    assert fingerprint(own) != fingerprint(own.flip(1))


@pytest.mark.parametrize("large", [1 << 14, fingerprints.LARGE], ids=["part by part", "at once"])
def test_strides_do_not_count(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "LARGE", large)
    tensor = torch.randn(3, 6, 4)
    repeated = tensor[:1].expand(5, 6, 4)
    assert fingerprint(tensor.mT.contiguous().mT) == fingerprint(tensor)
    assert fingerprint(repeated) == fingerprint(repeated.clone()) != fingerprint(tensor)
    assert fingerprint(torch.nn.Parameter(tensor)) == fingerprint(tensor)


def test_what_cannot_be_compared() -> None:
    assert fingerprint(torch.zeros(3, device="meta")) == ""
    assert torch.vmap(lambda row: torch.full_like(row, len(fingerprint(row))))(torch.ones(2, 3)).sum() == 0
