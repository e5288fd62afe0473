"""The lesson that everything started from: softmax(Q K^T / sqrt(d)) V, for self- and for cross-attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as the lesson has it
from torch import Tensor

import pellucid
from tests.cases import ENGINES, assert_close, running

TOKENS, DIM, CONTEXT = 10, 4, 7
SEEDS = range(20)


def lesson(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The weights and the attended values, line by line as in the notebook."""
    scores = query @ key.T / (DIM**0.5)
    weights = F.softmax(scores, dim=-1)
    return weights, weights @ value


def projected(dtype: torch.dtype, seed: int, *, cross: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Q of the tokens, K and V of the same tokens or of another sequence; every number from torch.rand."""
    torch.manual_seed(seed)
    x = torch.rand(TOKENS, DIM, dtype=dtype)
    source = torch.rand(CONTEXT, DIM, dtype=dtype) if cross else x
    query_weight, key_weight, value_weight = (torch.rand(DIM, DIM, dtype=dtype) for _ in range(3))
    return x @ query_weight, source @ key_weight, source @ value_weight


def last_bits(exact: Tensor, dtype: torch.dtype) -> float:
    """Eight units in the last place of the largest number."""
    return 8 * torch.finfo(dtype).eps * exact.abs().max().item()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_the_formula_is_attention(cross: bool, dtype: torch.dtype, engine: str) -> None:
    for seed in SEEDS:
        query, key, value = projected(dtype, seed, cross=cross)
        _, attended = lesson(query, key, value)
        with running(engine, tile=(3, 2)):
            output = pellucid.attention(query, key, value)
        assert output.dtype == dtype
        assert_close(output, attended, last_bits(attended, dtype))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_the_weights_can_be_had(cross: bool, dtype: torch.dtype, engine: str) -> None:
    query, key, value = projected(dtype, 0, cross=cross)
    weights, _ = lesson(query, key, value)
    with running(engine, tile=(3, 2)):
        _, seen = pellucid.observe(query, key, value)
    assert_close(seen.weights(), weights, last_bits(torch.ones(()), dtype))
    assert_close(seen.weights().sum(-1), torch.ones(TOKENS, dtype=dtype), last_bits(torch.ones(()), dtype))


@pytest.mark.parametrize("engine", ENGINES)
def test_rand_itself(engine: str) -> None:
    """x attends to itself with no projection at all."""
    x = torch.rand(TOKENS, DIM)
    _, attended = lesson(x, x, x)
    with running(engine, tile=(3, 2)):
        assert_close(pellucid.attention(x, x, x), attended, last_bits(attended, x.dtype))


def test_the_results_have_the_inputs_rank() -> None:
    query, key, value = projected(torch.float32, 0, cross=True)
    output, seen = pellucid.observe(query, key, value)
    assert output.shape == (TOKENS, DIM)
    assert seen.lse.shape == seen.entropy.shape == seen.max_scores.shape == (TOKENS,)
    assert seen.weights().shape == (TOKENS, CONTEXT)
    assert (seen.q_len, seen.k_len, seen.heads) == (TOKENS, CONTEXT, 1)
