"""What a plan is decided by is what it is found by, and ints are right however large they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks
from pellucid.engines.cpu.call.specify import magnitude
from pellucid.problem import Problem

LENGTHS = [(61, 67), (263, 269), (1, 1543)]  # one tile, forward, decode
Function = Callable[..., Any]


def check(q_len: int, k_len: int, **call: Any) -> None:
    """Output, received and parts of the weights, against the reference in float64."""
    query, key, value = torch.randn(2, q_len, 16), torch.randn(2, k_len, 16), torch.randn(2, k_len, 16)

    def results(name: str, dtype: torch.dtype) -> list[Tensor]:
        tensors = (tensor.to(dtype) for tensor in (query, key, value))
        with engines.using(name):
            output, seen = pellucid.observe(*tensors, readouts=[pellucid.Received()], **call)
            some = seen.weights(queries=slice(0, 3), keys=torch.tensor([5, 0, 3]))
            return [output, seen.received, some, seen.weights(queries=slice(0, 3))]

    exact = results("reference", torch.float64)
    for name in ("cpu", "portable"):
        for found, wanted in zip(results(name, torch.float32), exact, strict=True):
            assert torch.allclose(found.double(), wanted, atol=1e-5), name


@pytest.mark.parametrize(("q_len", "k_len"), LENGTHS)
def test_captured_ints_of_any_size_one_call_after_another(q_len: int, k_len: int) -> None:
    """The second has the first's shapes, strides, dtypes and functions; so has the third, whose tensor was changed."""
    ids = torch.arange(k_len) // 7
    for shift in (0, 32, 31):
        check(q_len, k_len, mask_mod=masks.documents(ids << shift))
    same = masks.documents(ids)
    check(q_len, k_len, mask_mod=same)
    ids <<= 40
    check(q_len, k_len, mask_mod=same)


def test_an_offset_and_lengths_that_grow_in_place() -> None:
    offset, lengths = torch.tensor(3), torch.tensor([2, 131])
    for mask in (masks.causal(offset), masks.key_lengths(lengths)):
        check(61, 137, mask_mod=mask)
    offset += 2**33
    lengths += 2**33
    for mask in (masks.causal(offset), masks.key_lengths(lengths)):
        check(61, 137, mask_mod=mask)


@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of this and that
def test_in_a_compiled_graph_and_in_expect() -> None:
    x, ids = torch.randn(2, 67, 16), torch.arange(67) // 7

    def attend(ids: Tensor) -> Tensor:
        return pellucid.attention(x, x, x, mask_mod=masks.documents(ids) | masks.causal())

    def expected(ids: Tensor) -> Tensor:
        expect = pellucid.Expect(lambda b, h, q, k: ids[q] == ids[k], "same")
        _, seen = pellucid.observe(x, x, x, readouts=[expect])
        return seen["same"]

    compiled = torch.compile(attend, backend="eager")
    for shift in (0, 32):
        with engines.using("reference"):
            exact = attend(ids << shift), expected(ids << shift)
        assert torch.allclose(compiled(ids << shift), exact[0], atol=1e-5)
        assert torch.allclose(expected(ids << shift), exact[1], atol=1e-5)


LOWEST, HIGHEST = -(2**63), 2**63 - 1
table = torch.arange(1543) - 7


def low(k: Any) -> Any:
    """The lowest int, where nobody knows it before."""
    return k.clamp(0, 0) + LOWEST


MASKS: dict[str, Function] = {
    "a wide window": masks.sliding_window(sys.maxsize, 0),
    "a long prefix": masks.prefix(2**31),
    "a far offset": masks.causal(torch.tensor(2**62)),
    "a sum that wraps": lambda b, h, q, k: (k + HIGHEST) < 0,
    "a product that wraps": lambda b, h, q, k: (k + 1) * 2**62 >= 0,
    "a difference that wraps": lambda b, h, q, k: (LOWEST - k < 0) | (k == q),
    "products of positions": lambda b, h, q, k: (q * q * q * q * q * q * k * k) % 7 < 3,
    "a captured sum that wraps": lambda b, h, q, k: table[k] + HIGHEST < 0,
    "a captured product that wraps": lambda b, h, q, k: table[k] * 2**61 >= 0,
    "a negation that wraps": lambda b, h, q, k: -(low(k) + k % 2) < 0,
    "an absolute that wraps": lambda b, h, q, k: (low(k) + k % 2).abs() < 0,
    "a quotient by 1": lambda b, h, q, k: low(k) // (k % 2 + 1) == low(k),
    "a quotient by -1": lambda b, h, q, k: (low(k) + k % 3) // (k.clamp(0, 0) - 1) < 0,
    "a quotient towards 0": lambda b, h, q, k: torch.div(low(k) + k, 3, rounding_mode="trunc") % 2 == 0,
    "powers of 2": lambda b, h, q, k: 2 ** (k % 67) >= 1,
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", MASKS)
def test_ints_are_those_of_torch(name: str) -> None:
    q_len, k_len = LENGTHS[list(MASKS).index(name) % 2]
    check(q_len, k_len, mask_mod=MASKS[name])
    check(1, 1543, mask_mod=MASKS[name])


def test_a_number_beyond_64_bits_is_refused() -> None:
    x = torch.randn(2, 5, 4)
    with pytest.raises(TypeError, match="the whole number 9223372036854775808 is beyond 64 bits; write it as a float"):
        pellucid.attention(x, x, x, mask_mod=masks.prefix(2**63))


@pytest.mark.parametrize(
    ("numbers", "bits"),
    [([0, 0], 0), ([-1, 0], 0), ([1, -2], 1), ([127], 7), ([-129], 8), ([HIGHEST], 63), ([LOWEST], 63), ([2**31], 32)],
)
def test_the_magnitude_of_captured_ints(numbers: list[int], bits: int) -> None:
    x = torch.randn(2, 5, 4)
    problem = Problem(x, x, x, batch=(), heads=2, scale=1.0)
    assert magnitude(torch.tensor(numbers), problem) == bits
    assert magnitude(torch.tensor(numbers).float(), problem) == 0
    assert magnitude(torch.tensor(numbers) > 0, problem) == 0
    assert magnitude(torch.tensor(numbers).expand(1 << 15, len(numbers)), problem) == 63
    assert magnitude(torch.zeros(3, dtype=torch.uint8), problem) == 8


@pytest.mark.parametrize("offset", [0, 5, -300, 700, 2**62, -(2**63)])
def test_a_number_in_a_tensor_moves_the_diagonal(offset: int) -> None:
    """Tiles are skipped by it; where places and it wrap around, as torch's ints do, any may be."""
    number = torch.tensor(offset)
    query, key = torch.randn(2, 70, 8), torch.randn(2, 700, 8)

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return q + number + number >= k

    found = pellucid.attention(query, key, key, mask_mod=mask)
    with pellucid.engines.using("reference"):
        torch.testing.assert_close(found, pellucid.attention(query, key, key, mask_mod=mask))
