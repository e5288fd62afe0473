"""What a training is made of besides: accumulation, checkpoints, autocast, torch.func, a whole step compiled."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

import pellucid
from tests.cases import ENGINES, normal, running
from tests.training.steps import Transformer, batch, gradients_of, loss_of

engines = pytest.mark.parametrize("engine", ENGINES)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-5) -> None:
    """Each gradient within a part of its own largest number."""
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=rtol * float(expected[name].abs().max()))


def stepped(
    attention: Callable[..., Tensor], change: Callable[[nn.Module], Any] = lambda model: None
) -> dict[str, Tensor]:
    """The gradients of one step of a model that was changed."""
    model = Transformer(attention)
    change(model)
    loss_of(model, batch(0)).backward()
    return gradients_of(model)


@pytest.fixture(scope="module")
def torchs() -> dict[str, Tensor]:
    """The gradients of a step on torch's attention."""
    return stepped(scaled_dot_product_attention)


@engines
def test_a_step_has_torchs_gradients(engine: str, torchs: dict[str, Tensor]) -> None:
    with running(engine):
        assert_same(stepped(pellucid.attention), torchs)


@engines
def test_gradients_add_up_over_the_parts_of_a_batch(engine: str, torchs: dict[str, Tensor]) -> None:
    model, numbers = Transformer(pellucid.attention), batch(0)
    with running(engine):
        for part in numbers.split(3):
            (loss_of(model, part) * len(part) / len(numbers)).backward()
    assert_same(gradients_of(model), torchs)


def checkpointed(model: nn.Module, reentrant: bool) -> None:
    """Every layer is run again in the backward pass."""
    for layer in model.layers:  # type: ignore[union-attr]
        forward = layer.forward
        layer.forward = lambda *given, f=forward: checkpoint(f, *given, use_reentrant=reentrant)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
@engines
def test_layers_that_are_run_again(engine: str, reentrant: bool, early: bool, torchs: dict[str, Tensor]) -> None:
    with running(engine), set_checkpoint_early_stop(early):
        assert_same(stepped(pellucid.attention, lambda model: checkpointed(model, reentrant)), torchs)


@pytest.mark.parametrize("reentrant", [True, False])
@engines
def test_what_is_dropped_is_the_same_when_a_layer_is_run_again(engine: str, reentrant: bool) -> None:
    def dropping(*heads: Tensor, is_causal: bool) -> Tensor:
        return pellucid.attention(*heads, dropout_p=0.3, is_causal=is_causal)

    found = []
    for change in (lambda model: None, lambda model: checkpointed(model, reentrant)):
        torch.manual_seed(3)
        with running(engine):
            found.append(stepped(dropping, change))
    assert_same(*found)


class Heads(nn.Module):
    """Attention of tensors that nobody but its own step holds."""

    def forward(self, x: Tensor, seen: list[Any]) -> Tensor:
        query, key, value = x.sin(), x.cos(), x.tanh()
        mask, table = x.sum((0, 1)) @ x.sum((0, 1)).mT, x[0, :, 0].exp()
        seen.extend(map(weakref.ref, (query, key, value, mask, table)))
        return pellucid.attention(query, key, value, mask, score_mod=lambda s, b, h, q, k: s * table[h, 0])


@engines
def test_a_checkpoint_frees_what_it_will_compute_again(engine: str) -> None:
    x, seen = normal(1, 2, 5, 4).requires_grad_(), []
    with running(engine):
        output = checkpoint(Heads(), x, seen, use_reentrant=False)
        assert len(seen) == 5
        assert all(reference() is None for reference in seen)
        output.sum().backward()
    assert x.grad is not None


@contextmanager
def elsewhere(halved: bool) -> Iterator[None]:
    """What is saved for the backward pass is kept elsewhere, in half of its precision if that is wanted."""

    def put(tensor: Tensor) -> Tensor:
        kept = tensor.detach().clone()
        return kept.float() if halved and kept.is_floating_point() else kept

    with torch.autograd.graph.saved_tensors_hooks(put, lambda t: t.double() if t.is_floating_point() else t):
        yield


@pytest.mark.parametrize("halved", [False, True])
@engines
def test_what_hooks_give_back_is_what_is_used(engine: str, halved: bool) -> None:
    leaves = [normal(1, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    with running(engine):
        expected = torch.autograd.grad(pellucid.attention(*leaves).square().sum(), leaves)
        with elsewhere(halved):
            output = pellucid.attention(*leaves)
    found = torch.autograd.grad(output.square().sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert torch.equal(one, other) != halved


@engines
def test_hooks_keep_what_was_captured_as_it_was(engine: str) -> None:
    """Who keeps a copy of it for the backward pass may change it meanwhile."""
    leaves = [normal(1, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    table, allowed, places = normal(2, 5).requires_grad_(), normal(5, 5, seed=1) < 1, torch.tensor([[0, 3]])
    found = []
    for change in (False, True):
        own = table * 1.0, allowed.clone(), places.clone()
        asked = [pellucid.Expect(lambda b, h, q, k, t=own[0]: t[h, k], "mean"), pellucid.readouts.At(own[2])]
        with running(engine), torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda tensor: tensor):
            output, seen = pellucid.observe(
                *leaves, own[1], score_mod=lambda s, b, h, q, k, t=own[0]: s + t[h, k], readouts=asked
            )
        if change:
            with torch.no_grad():
                for tensor in own:
                    tensor.zero_()
        loss = output.square().sum() + seen["mean"].square().sum() + seen.at.square().sum()
        found.append(torch.autograd.grad(loss, [*leaves, table]))
    assert all(map(torch.equal, *found))


@engines
@pytest.mark.parametrize("learned", [True, False])
def test_what_is_frozen_or_thawed_between_forward_and_backward(learned: bool, engine: str) -> None:
    leaves = [normal(1, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    slopes = normal(2).requires_grad_(learned)
    with running(engine):
        output = pellucid.attention(*leaves, score_mod=pellucid.scores.alibi(slopes))
    expected = torch.autograd.grad(output.square().sum(), leaves, retain_graph=True)
    slopes.requires_grad_(not learned)
    output.square().sum().backward()
    assert all(torch.equal(leaf.grad, gradient) for leaf, gradient in zip(leaves, expected, strict=True))
    assert slopes.grad is None


@engines
def test_autocast_trains_as_torchs_attention_does(engine: str) -> None:
    found = {}
    for name, attention in (("ours", pellucid.attention), ("torch", scaled_dot_product_attention)):
        with running(engine), torch.autocast("cpu", torch.bfloat16):
            model = Transformer(attention)
            loss = loss_of(model, batch(0))
        loss.backward()  # outside of it, as torch asks
        found[name] = gradients_of(model)
    assert all(gradient.dtype == torch.float32 for gradient in found["ours"].values())
    assert_same(found["ours"], found["torch"], rtol=0.1)


@engines
def test_a_step_by_torch_func(engine: str, torchs: dict[str, Tensor]) -> None:
    model = Transformer(pellucid.attention)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], numbers: Tensor) -> Tensor:
        scores = torch.func.functional_call(model, parameters, (numbers[:, :-1],))
        return nn.functional.cross_entropy(scores.flatten(0, 1), numbers[:, 1:].flatten())

    with running(engine):
        assert_same(torch.func.grad(loss)(parameters, batch(0)), torchs)
        each = torch.vmap(torch.func.grad(lambda p, n: loss(p, n[None])), (None, 0))(parameters, batch(0))
    assert_same({name: gradient.mean(0) for name, gradient in each.items()}, torchs)


@engines
def test_the_curvature_along_a_direction(engine: str) -> None:
    """Backward over backward, through a whole model: what second-order optimizers and gradient penalties need."""
    found = {}
    for name, attention in (("ours", pellucid.attention), ("torch", math_attention)):
        model = Transformer(attention).double()
        with running(engine):
            gradients = torch.autograd.grad(loss_of(model, batch(0)), list(model.parameters()), create_graph=True)
            sum(gradient.square().sum() for gradient in gradients).backward()  # type: ignore[union-attr]
        found[name] = gradients_of(model)
    assert_same(found["ours"], found["torch"], rtol=1e-9)


def math_attention(*heads: Tensor, is_causal: bool) -> Tensor:
    """Torch's own that can be differentiated twice."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return scaled_dot_product_attention(*heads, is_causal=is_causal)


@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of this and that
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.thorough)])
def test_a_whole_step_is_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    model = Transformer(with_entropy, layers=1)
    loss_of(model, batch(0)).backward()
    expected = gradients_of(model)
    step = torch.compile(lambda numbers: loss_of(model, numbers), fullgraph=True, backend=backend)
    step(batch(0)).backward()
    assert_same(gradients_of(model), expected)
    loss = step(batch(1))
    torch.testing.assert_close(loss, loss_of(model, batch(1)))


def with_entropy(*heads: Tensor, is_causal: bool) -> Tensor:
    """The output with something of the entropy in it."""
    output, seen = pellucid.observe(*heads, is_causal=is_causal, readouts=[pellucid.Entropy()])
    return output + 0.1 * seen.entropy[..., None]


@pytest.mark.filterwarnings("ignore")
def test_forward_and_backward_and_the_optimizer_in_one_compiled_function() -> None:
    torch._dynamo.reset()
    model = Transformer(pellucid.attention, layers=1)
    loss_of(model, batch(0)).backward()
    expected = gradients_of(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    @torch.compile(backend="aot_eager")
    def step(numbers: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, numbers)
        loss.backward()
        optimizer.step()
        return loss.detach()

    step(batch(0))
    assert_same({name: before[name] - p.detach() for name, p in model.named_parameters()}, expected, rtol=1e-4)
