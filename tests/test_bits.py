"""A number that tells a tensor from others."""

from __future__ import annotations

import pytest
import torch

from pellucid.tensors import bits

KINDS = (torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.complex64)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 11)], ids=str)
def test_any_change_is_told(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randint(2, shape).to(dtype)
    assert bits.told(tensor) == bits.told(tensor.clone()) == bits.of(tensor)
    for place in range(tensor.numel()):
        other = tensor.clone()
        other.view(-1)[place] = 1 - other.view(-1)[place].to(torch.complex64).real
        assert bits.told(other) != bits.told(tensor)


def test_places_count() -> None:
    tensor = torch.randn(5, 7)
    assert bits.told(tensor.flip(1)) != bits.told(tensor)
    assert bits.told(tensor.T) == bits.told(tensor.T.contiguous())
    assert bits.told(tensor[:, None].expand(5, 3, 7)) == bits.told(tensor[:, None])


def test_large_ones_are_sampled() -> None:
    tensor = torch.randn(3, 700, 900)
    assert bits.told(tensor + 1) != bits.told(tensor) == bits.told(tensor.clone())
    assert bits.told(torch.empty(3, device="meta")) is None
