"""Any part of the weights, compiled: against float64, from any layout, and with nothing in memory but the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pellucid
from pellucid import engines, masks
from pellucid.engines.cpu.machine import compile as compiler
from tests.thorough import thorough

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
Part = dict[str, Any]
PARTS: dict[str, Part] = {
    "all": {},
    "steps": {"queries": slice(3, 90, 7), "keys": slice(100, 600, 3)},
    "a window": {"queries": slice(60, 101), "keys": slice(301, 571), "heads": [3, 1]},
    "lists": {"queries": [5, 2, 2, 100], "keys": [600, 0, 7, 7, 8, 300, -1], "heads": 2},
    "one row": {"queries": 71},
    "one column": {"keys": 8},
    "nothing": {"queries": slice(7, 7)},
}


def every_call(draw: Callable[..., Tensor]) -> dict[str, dict[str, Any]]:
    ids, bias = torch.arange(601) // 37, draw(4, 101, 601)
    bias[bias > 1.5] = -torch.inf
    return {
        "plain": {},
        "causal": {"is_causal": True},
        "window": {"mask_mod": masks.sliding_window(40, 3)},
        "documents": {"mask_mod": masks.documents(ids)},
        "mask": {"attn_mask": torch.rand(101, 601) > 0.3},
        "bias": {"attn_mask": bias},
        "own": {"score_mod": lambda s, b, h, q, k: torch.tanh(s) * (h + 1) + bias[h, q, k - q] + b, "scale": 0.3},
        "sinks and an empty row": {"sinks": draw(4), "mask_mod": lambda b, h, q, k: (k < 500) & (q != 71)},
    }


def seen(tensors: list[Tensor], call: dict[str, Any], engine: str = "cpu") -> pellucid.observation.Observation:
    with engines.using(engine), torch.no_grad():
        return pellucid.observe(*tensors, enable_gqa=True, readouts=[pellucid.LogSumExp()], **call)[1]


@pytest.mark.sampled
@pytest.mark.parametrize(
    "dtype",
    thorough(DTYPES, every_day=[torch.float32, torch.bfloat16]),
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
@pytest.mark.parametrize("name", every_call(torch.randn))
def test_the_error_is_that_of_torch(name: str, dtype: torch.dtype) -> None:
    """At most twice that of the same part by torch operations, and some last places of a weight of 1."""
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64).to(dtype)  # noqa: E731
    tensors = [draw(2, heads, length, 24) for heads, length in ((4, 101), (2, 601), (2, 601))]
    call = every_call(draw)[name]
    wide = {key: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for key, x in call.items()}
    compiled, exact = seen(tensors, call), seen([t.double() for t in tensors], wide, "reference")
    for part in PARTS.values():
        with engines.using("cpu"):
            found = compiled.weights(**part)
        with engines.using("portable"):
            usual = compiled.weights(**part)
            wanted = exact.weights(**part)
        assert found.shape == wanted.shape
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        if found.numel():
            limit = 2 * (usual - wanted).abs().max() + 16 * torch.finfo(found.dtype).eps
            assert (found - wanted).abs().max() <= limit, part
    assert any(symbol == "weights" for symbol, *_ in compiler._loaded)


@pytest.mark.sampled
@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "zero stride", "head_dim not contiguous"])
def test_any_strides(layout: str) -> None:
    views: dict[str, Callable[[], Tensor]] = {
        "transposed": lambda: torch.randn(2, 29, 3, 16).transpose(1, 2),
        "sliced": lambda: torch.randn(2, 3, 61, 40)[:, :, 1::2, 3:19][:, :, :29],
        "expanded": lambda: torch.randn(1, 1, 29, 16).expand(2, 3, 29, 16),
        "zero stride": lambda: torch.randn(2, 3, 1, 16).expand(2, 3, 29, 16),
        "head_dim not contiguous": lambda: torch.randn(2, 3, 16, 29).mT,
    }
    tensors = [views[layout]() for _ in range(3)]
    part: Part = {"queries": [3, 28, 0], "keys": slice(1, 29, 2), "heads": [2, 0]}
    with engines.using("cpu"):
        found = seen(tensors, {}).weights(**part)
        assert torch.equal(found, seen([t.contiguous() for t in tensors], {}).weights(**part))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 1, 3)])
def test_batch_dimensions_broadcast(batch: tuple[int, ...]) -> None:
    tensors = [torch.randn(*batch, 2, 19, 8, dtype=torch.float64), *torch.randn(2, 2, 23, 8, dtype=torch.float64)]
    call = {"score_mod": lambda s, b, h, q, k: s + b * 0.1 * k}
    found, exact = seen(tensors, call), seen(tensors, call, "reference")
    with engines.using("cpu"):
        part = found.weights(queries=slice(2, 9), heads=1)
    torch.testing.assert_close(part, exact.weights(queries=slice(2, 9), heads=1), rtol=1e-10, atol=1e-10)


def test_rows_sum_to_one_whichever_way_they_are_asked_for() -> None:
    query, key = torch.randn(1, 4, 130, 64), torch.randn(1, 2, 4000, 64)
    with engines.using("cpu"):
        weights = seen([query, key, key], {})
        whole = weights.weights()
        halves = [weights.weights(keys=part) for part in (slice(0, None, 2), slice(1, None, 2))]
    torch.testing.assert_close(whole.sum(-1), torch.ones(1, 4, 130))
    assert torch.equal(torch.stack(halves, -1).flatten(-2), whole)


def test_what_no_kernel_covers_is_left_to_torch() -> None:
    x = torch.randn(1, 2, 9, 300)
    with engines.using("cpu"):
        part = seen([x, x, x], {}).weights(queries=3)
    torch.testing.assert_close(part, (x @ x.mT / 300**0.5).softmax(-1)[..., 3:4, :])


def test_dropout_and_gradients_do_not_matter() -> None:
    x = torch.randn(1, 2, 9, 16, requires_grad=True)
    with engines.using("cpu"):
        _, observation = pellucid.observe(x, x, x, dropout_p=0.5)
        part = observation.weights(queries=3)
    assert not part.requires_grad
    torch.testing.assert_close(part, (x @ x.mT / 4).softmax(-1)[..., 3:4, :].detach())


class Sizes(TorchDispatchMode):
    """The numbers of elements of everything that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.found += [t.untyped_storage().nbytes() // 4 for t in tree_leaves(made) if is_new(t, args)]
        return made


def is_new(made: Any, args: tuple[Any, ...]) -> bool:
    places = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
    return isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in places


def test_nothing_as_large_as_the_result_is_made_beside_it() -> None:
    query, key = torch.randn(1, 2, 300, 16), torch.randn(1, 2, 20_000, 16)
    with engines.using("cpu"):
        observation = seen([query, key, key], {"is_causal": True})
        with Sizes() as sizes:
            part = observation.weights(queries=slice(0, 300, 2), keys=slice(0, None, 2))
    *others, largest = sorted(sizes.found)
    assert largest == part.numel()
    assert max(others) <= 1 << 20  # scratch memory, bytes counted in fours; indices; nothing by query and key
