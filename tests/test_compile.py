"""torch.compile and its kin: a call is one operator of the graph, and the numbers are those of the call itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TensorifyScalarRestartAnalysis
from torch._dynamo.testing import CompileCounter
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import pellucid
from pellucid import masks, readouts, scores
from pellucid.engines.graph import MADE_BY
from pellucid.observation import Observation
from tests.cases import normal

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of this and that

QUERY, KEY, VALUE = normal(2, 3, 17, 8), normal(2, 3, 11, 8, seed=1), normal(2, 3, 11, 5, seed=2)
ONE_HEAD = normal(2, 1, 11, 8, seed=3)
ALLOWED, BIAS = normal(2, 1, 17, 11, seed=4) < 0.5, normal(17, 1, seed=5)
PER_HEAD, DOCUMENTS = normal(3, seed=6), torch.arange(17) // 5
WINDOW = masks.sliding_window(3, 1)

CALLS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "self": (lambda x: pellucid.attention(x, x, x), (QUERY,)),
    "2-D": (lambda x: pellucid.attention(x, x, x, scale=0.3), (QUERY[0, 0],)),
    "cross": (pellucid.attention, (QUERY, KEY, VALUE)),
    "causal": (lambda x: pellucid.attention(x, x, x, is_causal=True), (QUERY,)),
    "grouped": (lambda q, k: pellucid.attention(q, k, k, enable_gqa=True), (QUERY, ONE_HEAD)),
    "mask": (pellucid.attention, (QUERY, KEY, VALUE, ALLOWED)),
    "bias": (pellucid.attention, (QUERY, KEY, VALUE, BIAS)),
    "sinks": (lambda q, k, v, s: pellucid.attention(q, k, v, sinks=s), (QUERY, KEY, VALUE, PER_HEAD)),
    "alibi": (lambda x, s: pellucid.attention(x, x, x, score_mod=scores.alibi(s)), (QUERY, PER_HEAD)),
    "two masks": (lambda x: pellucid.attention(x, x, x, mask_mod=WINDOW & masks.causal()), (QUERY,)),
    "documents": (lambda x, ids: pellucid.attention(x, x, x, mask_mod=masks.documents(ids)), (QUERY, DOCUMENTS)),
    "softcap": (lambda x: pellucid.attention(x, x, x, score_mod=lambda s, *_: 3 * torch.tanh(s / 3)), (QUERY,)),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CALLS)
def test_one_graph_gives_the_same(name: str) -> None:
    function, tensors = CALLS[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*tensors), function(*tensors), rtol=0, atol=0)


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["cross", "grouped", "bias", "sinks", "alibi"])
def test_training_through_the_graph(name: str) -> None:
    function, tensors = CALLS[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    found = torch.autograd.grad(compiled(*leaves).square().sum(), leaves)
    for gradient, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=1e-13)


CHANGING: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "window": lambda x, n: pellucid.attention(x, x, x, mask_mod=masks.sliding_window(n, 0)),
    "prefix": lambda x, n: pellucid.attention(x, x, x, mask_mod=masks.prefix(n)),
    "offset": lambda x, n: pellucid.attention(x, x, x, mask_mod=masks.causal(n)),
    "growing": lambda x, n: pellucid.attention(
        x[:, :, :3], x[:, :, :n], x[:, :, :n], mask_mod=masks.causal_lower_right(3, n)
    ),
    "int in a mask": lambda x, n: pellucid.attention(x, x, x, mask_mod=lambda b, h, q, k: q + n >= k),
    "int in a score": lambda x, n: pellucid.attention(
        x, x, x, score_mod=lambda s, b, h, q, k: s * n - (q - k).abs() / n
    ),
    "float in a score": lambda x, n: pellucid.attention(x, x, x, score_mod=scores.softcap(n / 3)),
    "scale": lambda x, n: pellucid.attention(x, x, x, scale=n / 3),
    "top keys": lambda x, n: pellucid.observe(x, x, x, readouts=[pellucid.TopK(n)])[1].topk.weights,
    "received": lambda x, n: pellucid.observe(x, x, x, readouts=[pellucid.Received(slice(n, None))])[1].received,
    "pooled": lambda x, n: pellucid.observe(x, x, x, readouts=[pellucid.Pooled(n, n + 1)])[1].pooled,
    "pooled max": lambda x, n: pellucid.observe(x, x, x, readouts=[readouts.PooledMax(n, 2)])[1].pooled_max,
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", CHANGING)
def test_a_number_that_changes_from_call_to_call(name: str) -> None:
    function = CHANGING[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for number in (3, 5, 4, 7):  # from the second on, torch has made a symbol of it
        torch.testing.assert_close(compiled(QUERY, number), function(QUERY, number), rtol=0, atol=0)


def every_readout(x: Tensor) -> tuple[Tensor, ...]:
    asked = [
        pellucid.LogSumExp(), pellucid.Entropy(), pellucid.MaxScore(), pellucid.TopK(3), pellucid.Received(),
        pellucid.Pooled(3, 4), readouts.PooledMax(2, 5), readouts.mean_distance(),
    ]  # fmt: skip
    output, seen = pellucid.observe(x, x, x, is_causal=True, readouts=asked)
    differentiable = (output, seen.lse, seen.entropy, seen.max_scores, seen["mean_distance"])
    return *differentiable, *seen.topk, seen.received, seen.pooled, seen.pooled_max, seen.weights(queries=slice(2, 5))


def test_observations_are_part_of_the_graph() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(every_readout, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(QUERY), every_readout(QUERY))
    leaf = QUERY.clone().requires_grad_()
    made = compiled(leaf)
    assert [tensor.requires_grad for tensor in made] == [tensor.requires_grad for tensor in every_readout(leaf)]
    (found,) = torch.autograd.grad(sum(t.square().sum() for t in made[:5]), leaf)
    (expected,) = torch.autograd.grad(sum(t.square().sum() for t in every_readout(leaf)[:5]), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_an_observation_comes_out_of_the_graph() -> None:
    torch._dynamo.reset()
    output, seen = torch.compile(pellucid.observe, fullgraph=True, backend="eager")(QUERY, KEY, VALUE)
    _, expected = pellucid.observe(QUERY, KEY, VALUE)
    torch.testing.assert_close(seen.entropy, expected.entropy)
    torch.testing.assert_close(seen.weights() @ VALUE, output)


class Layer(nn.Module):
    """A model's attention: a learned bias, a mask made once, and heads that share keys."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(PER_HEAD.clone())
        self.width, self.mask = 3, masks.causal()

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask & masks.sliding_window(self.width, 0)
        return pellucid.attention(x, x, x, score_mod=scores.alibi(self.slopes), mask_mod=mask)


def test_what_functions_captured_may_change() -> None:
    """A tensor is read anew, a number makes a new graph."""
    torch._dynamo.reset()
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for change in (lambda: None, lambda: layer.slopes.data.mul_(-2), lambda: setattr(layer, "width", 1)):
        change()
        torch.testing.assert_close(compiled(QUERY), layer(QUERY))
    (found,) = torch.autograd.grad(compiled(QUERY).square().sum(), layer.slopes)
    (expected,) = torch.autograd.grad(layer(QUERY).square().sum(), layer.slopes)
    torch.testing.assert_close(found, expected)


def test_lengths_may_change() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()

    def function(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        return pellucid.attention(query, key, key, mask, is_causal=True)

    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    for q_len, k_len in ((5, 13), (7, 11), (31, 17), (6, 70)):
        tensors = normal(2, 3, q_len, 8), normal(2, 3, k_len, 8), normal(q_len, k_len) < 0.5
        torch.testing.assert_close(compiled(*tensors), function(*tensors), rtol=0, atol=0)
    assert counter.frame_count == 1


def test_what_may_lie_on_several_ranks_is_one_graph_too() -> None:
    import torch.distributed.tensor  # from here on a call asks whether it is one of several

    torch._dynamo.reset()
    compiled = torch.compile(pellucid.attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(QUERY, KEY, VALUE), pellucid.attention(QUERY, KEY, VALUE))


def test_the_first_observe_of_a_process_may_be_traced_twice() -> None:
    """As it is where a backend asks for it, for which torch wants the same steps again."""
    torch._dynamo.reset()
    if "__annotations__" in vars(Observation):
        del Observation.__annotations__  # as before any call
    graphs: list[Any] = []

    def again(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        if len(graphs) == 1:
            raise TensorifyScalarRestartAnalysis
        return graph.forward

    def function(query: Tensor) -> Tensor:
        return pellucid.observe(query, query, query, readouts=[pellucid.Entropy()])[1].entropy

    found = torch.compile(function, fullgraph=True, backend=again)(QUERY)
    torch.testing.assert_close(found, function(QUERY))
    assert len(graphs) == 2


def test_dropout_is_drawn_whenever_the_graph_runs() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: pellucid.attention(x, x, x, dropout_p=0.3), fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    first, second = compiled(QUERY), compiled(QUERY)
    torch.manual_seed(3)
    assert torch.equal(compiled(QUERY), first)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    torch.testing.assert_close(first, pellucid.attention(QUERY, QUERY, QUERY, dropout_p=0.3))


def test_errors_are_the_calls_own() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(pellucid.attention, backend="eager")
    with pytest.raises(ValueError, match=r"^key: its head_dim must be query's"):
        compiled(QUERY, KEY[..., :3], VALUE)
    with pytest.raises(pellucid.TraceError, match="branches on its argument"):
        compiled(QUERY, QUERY, QUERY, mask_mod=lambda b, h, q, k: q > k or h > 1)


class Doubled(pellucid.Entropy):
    """A readout that the operator does not know."""

    name = "doubled"

    def finish(self, state: Any, rows: Any) -> Tensor:
        return 2 * super().finish(state, rows)


def test_a_readout_of_the_users_own_breaks_the_graph_and_gives_the_same() -> None:
    torch._dynamo.reset()

    def function(x: Tensor) -> Tensor:
        output, seen = pellucid.observe(2 * x, x, x, readouts=[Doubled()])
        return output + seen["doubled"][..., None]

    torch.testing.assert_close(torch.compile(function, backend="eager")(QUERY), function(QUERY))


@pytest.mark.slow
def test_inductor() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: pellucid.attention(x * 2, x, x + 1, is_causal=True) * 2, fullgraph=True)
    torch.testing.assert_close(compiled(QUERY), pellucid.attention(QUERY * 2, QUERY, QUERY + 1, is_causal=True) * 2)


def test_export() -> None:
    layer = Layer()
    program = torch.export.export(layer, (QUERY,))
    assert "pellucid.attention" in str(program.graph)
    torch.testing.assert_close(program.module()(-QUERY), layer(-QUERY))


@pytest.mark.slow
def test_a_saved_program_runs_elsewhere(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Layer(), (QUERY,)), tmp_path / "layer.pt2")
    code = """
import pellucid.functional
import torch

query, expected = torch.load("query.pt")
torch.testing.assert_close(torch.export.load("layer.pt2").module()(query), expected)
"""
    torch.save((-QUERY, Layer()(-QUERY)), tmp_path / "query.pt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=300)


def test_fake_tensors_have_shapes_alone() -> None:
    with FakeTensorMode() as mode:
        query, key = (mode.from_tensor(tensor) for tensor in (QUERY, KEY))
        output, seen = pellucid.observe(query, key, key, readouts=[pellucid.TopK(3), pellucid.Received()])
    assert output.shape == QUERY.shape
    assert seen.topk.keys.shape == (2, 3, 17, 3)
    assert seen.topk.keys.dtype == torch.int64
    assert seen.received.shape == (2, 3, 11)
    assert pellucid.attention(query, key, key).shape == QUERY.shape  # outside of the mode as well


def test_a_recorded_call_is_one_operator() -> None:
    graph = make_fx(lambda q, k, v: pellucid.attention(q, k, v))(QUERY, KEY, VALUE)
    assert "torch.ops.pellucid.attention" in graph.code
    torch.testing.assert_close(graph(-QUERY, KEY, VALUE), pellucid.attention(-QUERY, KEY, VALUE))


def test_every_node_says_which_version_made_it() -> None:
    """What torch keeps of compiled graphs on disk is found by what is in them: another version's is another graph."""
    torch._dynamo.reset()
    nodes: dict[str, Any] = {}

    def kept(graph: Any, inputs: Any) -> Any:
        nodes.update({str(node.target): node.args for node in graph.graph.nodes if "pellucid" in str(node.target)})
        return make_boxed_func(graph.forward)

    compiled = torch.compile(pellucid.attention, fullgraph=True, backend=aot_autograd(fw_compiler=kept))
    compiled(QUERY.clone().requires_grad_(), KEY, VALUE).sum().backward()
    assert list(nodes) == ["pellucid.attention.default", "pellucid.attention_gradients.default"]
    assert all(pellucid.__version__ in MADE_BY and MADE_BY in arguments for arguments in nodes.values())


def test_the_operators_keep_torchs_rules() -> None:
    """Torch's own check: schema, fake shapes, autograd, and that a traced graph gives the same, with dynamic shapes."""
    text = "input float  score;input int  h;load float 1 0;mul float 0,2 ;constant bool  1|3,4"
    leaves = [tensor.clone().requires_grad_() for tensor in (QUERY, KEY, VALUE)]
    own = (*leaves, PER_HEAD.clone().requires_grad_(), [PER_HEAD + 2], None, text)
    torch.library.opcheck(torch.ops.pellucid.attention.default, (*own, "entropy 1,topk 3", 0.3, 0.0, [2], 3, "0"))
