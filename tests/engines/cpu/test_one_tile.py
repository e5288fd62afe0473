"""Short heads, which are read where they lie: any lengths, strides, masks and readouts, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pellucid.engines.cpu import ir_of
from pellucid.engines.cpu.layout import KEYS
from tests.cases import examples
from tests.engines.cpu.calls import check, every_call

KINDS = ("plain", "causal", "window", "documents by batch", "bias", "nobody", "sinks", "scale")


def is_one_tile(*tensors: torch.Tensor) -> bool:
    return 'ModuleID = "one_tile"' in ir_of(*tensors)


def test_which_heads_are_short() -> None:
    def made(q_len: int, k_len: int, value_dim: int = 32, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        sizes = (q_len, 8), (k_len, 8), (k_len, value_dim)
        return [torch.zeros(2, *size, dtype=dtype) for size in sizes]

    assert is_one_tile(*made(20, KEYS))
    assert is_one_tile(*made(KEYS, 1, dtype=torch.float64))
    assert not is_one_tile(*made(20, KEYS + 1))
    assert not is_one_tile(*made(KEYS + 1, 20))
    assert not is_one_tile(*made(20, 20, value_dim=33))
    assert not is_one_tile(*made(20, 20, dtype=torch.bfloat16))


@pytest.mark.sampled
@pytest.mark.parametrize("kind", KINDS)
@given(
    q_len=st.integers(1, 130),
    k_len=st.integers(1, 150),
    head_dim=st.sampled_from((1, 8, 33, 64)),
    value_dim=st.sampled_from((16, 80)),
    heads_inside=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
@example(q_len=49, k_len=65, head_dim=33, value_dim=80, heads_inside=True, dtype=torch.float32)
@example(q_len=97, k_len=129, head_dim=8, value_dim=16, heads_inside=False, dtype=torch.float64)
@examples(6, "cpu")
def test_every_readout(
    kind: str, q_len: int, k_len: int, head_dim: int, value_dim: int, heads_inside: bool, dtype: torch.dtype
) -> None:
    """`heads_inside`: as models lay them out, the heads of a token side by side."""

    def made(heads: int, length: int, dim: int) -> torch.Tensor:
        if heads_inside:
            return torch.randn(2, length, heads, dim, dtype=dtype).transpose(1, 2)
        return torch.randn(2, heads, length, dim, dtype=dtype)

    tensors = [made(4, q_len, head_dim), made(2, k_len, head_dim), made(2, k_len, value_dim)]
    shape = (2, 4, 2, q_len, k_len, head_dim, value_dim)
    check(tensors, every_call(shape, lambda *size: torch.randn(*size, dtype=dtype))[kind])
