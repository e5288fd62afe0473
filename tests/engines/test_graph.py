"""The operator in graphs: as torch's own checks of operators want it, and differentiable in graphs at each rank."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import pellucid
from pellucid import readouts
from tests.cases import assert_close, largest, normal

EPS = torch.finfo(torch.float64).eps
RANKS = {2: (), 3: (2,), 4: (3, 2), 5: (2, 3, 2)}  # leading dimensions


class Calls(TorchDispatchMode):
    """What is asked of the package's operators inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "pellucid":
            self.calls.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True, scope="module")
def afresh() -> None:
    """Nothing compiled for other tests is at hand; here, ranks and lengths come one after the other."""
    torch._dynamo.reset()


def leaves(rank: int, q_len: int = 5, k_len: int = 7) -> dict[str, Tensor]:
    """Query, key, value, a bias, and numbers that a function captures."""
    lead = RANKS[rank]
    sizes = {"query": (*lead, q_len, 4), "key": (*lead, k_len, 4), "value": (*lead, k_len, 3), "bias": (q_len, k_len)}
    made = {name: normal(*size, seed=seed) for seed, (name, size) in enumerate(sizes.items())}
    made["slopes"] = normal(q_len, seed=9)
    if lead:
        made["sinks"] = normal(lead[-1], seed=8)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, slopes: Tensor, sinks: Any = None) -> Tensor:
    return pellucid.attention(
        query, key, value, bias, sinks=sinks, score_mod=lambda score, b, h, q, k: score * slopes[q]
    )


def gradients(function: Callable[..., Tensor], given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(**given).square().sum(), list(given.values()))


@pytest.mark.sampled
@pytest.mark.parametrize("rank", RANKS)
def test_a_compiled_call_has_every_gradient(rank: int) -> None:
    given = leaves(rank)
    compiled = torch.compile(attended, backend="aot_eager", fullgraph=True)
    for found, expected in zip(gradients(compiled, given), gradients(attended, given), strict=True):
        assert_close(found, expected, 64 * EPS * (1 + largest(expected)))


@pytest.mark.parametrize("rank", [2, 4])
def test_lengths_of_a_compiled_call_may_change(rank: int) -> None:
    compiled = torch.compile(attended, backend="aot_eager", fullgraph=True, dynamic=True)
    for q_len, k_len in ((5, 7), (11, 13), (3, 17)):
        given = leaves(rank, q_len, k_len)
        for found, expected in zip(gradients(compiled, given), gradients(attended, given), strict=True):
            assert_close(found, expected, 64 * EPS * (1 + largest(expected)))


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_the_operators_are_as_torch_wants_them(rank: int) -> None:
    given = leaves(rank)
    with Calls() as seen:
        attended(**given).sum().backward()
    assert [str(function) for function, *_ in seen.calls] == [
        "pellucid.attention.default",
        "pellucid.attention_gradients.default",
    ]
    for function, args, kwargs in seen.calls:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        assert set(torch.library.opcheck(function, args, kwargs, test_utils=checks).values()) == {"SUCCESS"}


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck itself, in torch 2.14
@pytest.mark.slow
def test_the_operators_on_torchs_own_samples() -> None:
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (op for op in op_db if op.name == "nn.functional.scaled_dot_product_attention")
    checked = 0
    for sample in info.sample_inputs("cpu", torch.float32, requires_grad=True):
        with Calls() as seen:
            output = pellucid.attention(sample.input, *sample.args, **sample.kwargs)
            if output.requires_grad:
                output.sum().backward()
        for function, args, kwargs in seen.calls:
            if "gradients" in function.name():  # which has no derivative
                args = tree_map_only(torch.Tensor, torch.Tensor.detach, args)
            assert set(torch.library.opcheck(function, args, kwargs).values()) == {"SUCCESS"}
            checked += 1
    assert checked > 20


def of_many(function: Callable[..., tuple[Tensor, ...]], given: dict[str, Tensor], together: bool) -> list[Tensor]:
    """Gradients of several functions of the results: at once, or one after the other."""
    results, inputs = function(**given), list(given.values())
    upstream = [normal(3, *result.shape, seed=11 + i) for i, result in enumerate(results)]
    if together:
        return list(torch.autograd.grad(results, inputs, upstream, is_grads_batched=True))
    each = [torch.autograd.grad(results, inputs, [u[i] for u in upstream], retain_graph=True) for i in range(3)]
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


def observed(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, slopes: Tensor, sinks: Any = None) -> Any:
    output, seen = pellucid.observe(
        query, key, value, bias, sinks=sinks, score_mod=lambda score, b, h, q, k: score * slopes[q],
        readouts=[readouts.Entropy(), readouts.LogSumExp(), readouts.mean_distance()],
    )  # fmt: skip
    return output, seen.entropy, seen.lse, seen.mean_distance


@pytest.mark.sampled
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("function", [lambda **given: (attended(**given),), observed], ids=["output", "readouts"])
def test_many_gradients_at_once(rank: int, function: Callable[..., Any]) -> None:
    given = leaves(rank)
    for found, expected in zip(of_many(function, given, True), of_many(function, given, False), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("rank", [2, 4])
def test_a_vectorized_jacobian(rank: int) -> None:
    tensors = tuple(tensor.detach() for tensor in list(leaves(rank, 2, 3).values())[:3])
    found = torch.autograd.functional.jacobian(pellucid.attention, tensors, vectorize=True)
    wanted = torch.autograd.functional.jacobian(torch.nn.functional.scaled_dot_product_attention, tensors)
    for own, expected in zip(found, wanted, strict=True):
        assert_close(own, expected, 64 * EPS * (1 + largest(expected)))


def through_checkpoint(*tensors: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(pellucid.attention, *tensors, use_reentrant=False)


def on_hooks(*tensors: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
        return pellucid.attention(*tensors)


def alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return pellucid.attention(query, query, query) + 0 * key.sum() + 0 * value.sum()


def spread(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return pellucid.attention(query, key[:1, :1].expand(3, 2, -1, -1), value[:1, :1].expand(3, 2, -1, -1))


def askew(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return pellucid.attention(query, key, value).transpose(-1, -2).flip(-1)


WAYS = (through_checkpoint, on_hooks, alone, spread, askew)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_gradients_however_autograd_comes_by_them(way: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    given = [tensor for name, tensor in leaves(4).items() if name in ("query", "key", "value")]
    found = torch.autograd.grad(way(*given).square().sum(), given)
    monkeypatch.setattr(pellucid, "attention", torch.nn.functional.scaled_dot_product_attention)
    for own, expected in zip(found, torch.autograd.grad(way(*given).square().sum(), given), strict=True):
        assert_close(own, expected, 64 * EPS * (1 + largest(expected)))


@pytest.mark.parametrize("function", [attended, observed])
def test_gradients_of_gradients_of_what_was_recorded(function: Callable[..., Any]) -> None:
    """Outside of a graph a mode that looks on, such as a counter of operations, has the same operator."""
    found = []
    for mode in (Calls(), nullcontext()):
        given = leaves(4)
        with mode:
            results = function(**given)
        results = results if isinstance(results, tuple) else (results,)
        first = torch.autograd.grad(sum(r.sin().sum() for r in results), list(given.values()), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), list(given.values())))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, 1e-9 * (1 + largest(other)))
