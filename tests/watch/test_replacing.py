"""accelerate and everywhere: Pellucid's operator in place of a model's own."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

import pellucid
from pellucid import engines, restore
from pellucid.capture.sources.transformers.call import UnknownArgumentError
from pellucid.engines import repeated
from tests.watch import models


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The problems that an engine was given."""
    problems: list[Any] = []
    run = engines.run

    def counted(problem: Any) -> Any:
        problems.append(problem)
        return run(problem)

    monkeypatch.setattr(engines, "run", counted)
    monkeypatch.setattr(repeated, "find", lambda known: None)  # no call runs the plan of one like it
    return problems


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["llama", "gemma2", "t5", "vit", "deepseek_v32"])
def test_an_accelerated_model_computes_the_same_with_pellucid(name: str, computed: list[Any]) -> None:
    model, inputs = models.swappable(name)
    before, plain = models.settings(model), model(**inputs)[0]
    assert computed == []
    assert pellucid.accelerate(model) is model
    pellucid.accelerate(model)
    output = model(**inputs)[0]
    assert len(computed) == (6 if name == "t5" else 2)
    mask = inputs.get("attention_mask", torch.ones(0))
    difference = output - plain
    if mask.shape == difference.shape[:2]:
        difference = difference[mask.bool()]
    assert difference.abs().max() < 1e-5
    assert restore(model) is model
    assert models.settings(model) == before
    assert torch.equal(model(**inputs)[0], plain)


def test_greedy_generation_is_the_same(computed: list[Any]) -> None:
    model, inputs = models.made("llama")
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**inputs, **options)
    pellucid.accelerate(model)
    assert torch.equal(model.generate(**inputs, **options), expected)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)
    assert len(computed) == 2 * 2 * 8


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "t5", "bert", "vit"])
def test_an_accelerated_model_can_be_compiled_in_one_graph(name: str) -> None:
    model, inputs = models.swappable(name)
    pellucid.accelerate(model)
    operators: list[Any] = []

    def noted(graph: torch.fx.GraphModule, _: Any) -> Any:
        operators.extend(node.target for node in graph.graph.nodes)
        return graph

    with torch.no_grad():
        expected = model(**inputs)[0]
        found = torch.compile(model, backend=noted, fullgraph=True)(**inputs)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert operators.count(torch.ops.pellucid.attention) == (6 if name == "t5" else 2)


def test_a_compiled_accelerated_model_has_gradients_and_observations() -> None:
    model, inputs = models.made("llama")
    pellucid.accelerate(model).requires_grad_()
    weight = model.model.layers[0].self_attn.q_proj.weight
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager")):
        weight.grad = None
        run(**inputs).logits.square().mean().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
    torch.compiler.reset()
    restore(model).set_attn_implementation("pellucid")
    with torch.no_grad():
        seen = torch.compile(model, backend="eager")(**inputs, output_attentions=True).attentions
    assert [type(layer) for layer in seen] == [pellucid.Observation] * 2


@pytest.mark.filterwarnings("ignore:LlamaAttention is computed by:UserWarning")
def test_an_argument_that_is_not_known_is_never_passed_over_in_a_compiled_model() -> None:
    model, inputs = models.made("llama")
    pellucid.accelerate(model)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs, strange=3)[0], model(**inputs, strange=3)[0], atol=1e-5, rtol=0)
        expected = model(models.ids(), strange=3)[0]
        # By where the library's graph breaks the mask is None, which eager would believe: then it is refused.
        with suppress(UnknownArgumentError):
            torch.testing.assert_close(compiled(models.ids(), strange=3)[0], expected, atol=1e-5, rtol=0)


def test_a_step_without_padding_has_no_mask(computed: list[Any]) -> None:
    from pellucid.language import TRUE

    model, _ = models.made("llama")
    pellucid.accelerate(model).generate(models.ids(), max_new_tokens=3, min_new_tokens=3, pad_token_id=0)
    assert [problem.mask is TRUE for problem in computed] == [False] * 2 + [True] * 4


def test_a_model_of_torchs_own(computed: list[Any]) -> None:
    model, x = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), torch.rand(2, 5, 8)
    plain = model(x)
    output = pellucid.accelerate(model)(x)
    assert len(computed) == 1
    torch.testing.assert_close(output, plain, atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 5, 7))
    functional.scaled_dot_product_attention(x, x, x)
    assert len(computed) == 1  # nobody else is led to Pellucid, after an exception neither
    restore(model)
    assert torch.equal(model(x), plain)
    assert type(model) is nn.TransformerEncoderLayer
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_after_an_interrupt_nobody_else_is_led_to_pellucid(computed: list[Any]) -> None:
    class Interrupted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            functional.scaled_dot_product_attention(x, x, x)
            raise KeyboardInterrupt

    x = torch.rand(2, 5, 8)
    with pytest.raises(KeyboardInterrupt):
        pellucid.accelerate(Interrupted())(x)
    assert len(computed) == 1
    functional.scaled_dot_product_attention(x, x, x)
    assert len(computed) == 1


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_an_accelerated_model_is_one_too(computed: list[Any], copied_by: Any) -> None:
    model, x = pellucid.accelerate(nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()), torch.rand(2, 5, 8)
    copied = copied_by(model)
    restore(model)
    assert type(model) is nn.TransformerEncoderLayer
    assert type(copied).__name__ == "TransformerEncoderLayer"
    torch.testing.assert_close(copied(x), model(x), atol=1e-5, rtol=0)
    assert len(computed) == 1


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_restored_and_accelerated_on_its_own(computed: list[Any], copied_by: Any) -> None:
    x = torch.rand(2, 5, 8)
    for model, call in (
        (nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), lambda model: model(x)),
        (models.made("llama")[0], lambda model: model(**models.made("llama")[1])[0]),
    ):
        kind, settings, plain = type(model), models.settings(model), call(model)
        copied = copied_by(pellucid.accelerate(model))
        assert pellucid.accelerate(copied) is copied  # once is enough
        restore(copied)
        assert type(copied) is kind
        assert models.settings(copied) == settings
        assert not copied._forward_pre_hooks
        before = len(computed)
        torch.testing.assert_close(call(copied), plain, rtol=0, atol=0)
        assert len(computed) == before
        call(model)
        assert len(computed) > before  # the first is accelerated as ever
        assert models.settings(restore(model)) == settings


def test_a_pickled_one_is_called_in_another_process(tmp_path: Path) -> None:
    model, inputs = models.made("llama")
    expected = model(**inputs)[0]
    file = tmp_path / "model.pt"
    torch.save((pellucid.accelerate(model), inputs, expected), file)
    code = (
        "import sys, torch; model, inputs, expected = torch.load(sys.argv[1], weights_only=False); "
        "torch.testing.assert_close(model(**inputs)[0], expected, atol=1e-5, rtol=0); print(type(model).__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == type(model).__name__


def test_watching_an_accelerated_model(computed: list[Any]) -> None:
    model, inputs = models.made("llama")
    pellucid.accelerate(model)
    with pellucid.watch(model) as record:
        model(**inputs)
    assert len(record) == 2
    assert set(models.settings(model)) == {"pellucid"}
    encoder = pellucid.accelerate(nn.TransformerEncoderLayer(8, 2, batch_first=True).eval())
    with pellucid.watch(encoder) as record:
        encoder(torch.rand(1, 5, 8))
    assert record.layers == ["self_attn"]


def test_everywhere_means_every_model_and_function_inside_the_with(computed: list[Any]) -> None:
    x = torch.rand(1, 2, 5, 8)
    encoder = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    model, inputs = models.made("bert")
    plain = functional.scaled_dot_product_attention(x, x, x), encoder(x[0]), model(**inputs)[0]
    with pellucid.everywhere():
        output = functional.scaled_dot_product_attention(x, x, x), encoder(x[0]), model(**inputs)[0]
        assert len(computed) == 4
        with pellucid.watch(encoder) as record:
            encoder(x[0])
        assert len(record) == 1
    torch.testing.assert_close(output, plain, atol=1e-5, rtol=0)
    before = len(computed)
    functional.scaled_dot_product_attention(x, x, x)
    model(**inputs)
    assert len(computed) == before


@pytest.mark.parametrize("how", ["accelerate", "everywhere"])
def test_what_is_compiled_computes_the_same(how: str) -> None:
    class Direct(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(x, x, x)

    model, x = torch.compile(Direct(), backend="eager"), torch.rand(1, 2, 5, 8)
    expected = functional.scaled_dot_product_attention(x, x, x)
    with HOW[how](model):
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)


class Flexible(nn.Module):
    """FlexAttention, called by the name that this file imported."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        return flex_attention(query, key, value, **self.options)


def tilted(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return score + 0.1 * h * (k - q)


def windowed(length: int = 128) -> Any:
    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (q - k < 40)

    return create_block_mask(mask_mod, None, None, length, length, device="cpu")


def blocks_alone() -> Any:
    """A mask of which torch knows only the blocks: each query sees the first half of the keys."""
    counts, indices = torch.tensor([[[1, 1]]], dtype=torch.int32), torch.zeros(1, 1, 2, 2, dtype=torch.int32)
    return BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=64)


def qkv(heads: int = 4, length: int = 128) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, own, length, 16, generator=generator) for own in (4, heads, heads))


@pytest.fixture
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own function as it is, not traced by torch.compile first, nor warning of it."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
    monkeypatch.setattr(torch_flex, "_warn_once", lambda *_, **__: None)


@contextmanager
def accelerated(model: Any) -> Iterator[None]:
    pellucid.accelerate(model)
    try:
        yield
    finally:
        restore(model)


HOW = {"accelerate": accelerated, "everywhere": lambda _: pellucid.everywhere(), "watch": pellucid.watch}
LSE = AuxRequest(lse=True)


@pytest.mark.sampled
@pytest.mark.usefixtures("_not_compiled")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3, "score_mod": tilted},
        {"block_mask": windowed()},
        {"block_mask": windowed(), "score_mod": tilted, "return_aux": LSE},
        {"return_lse": True},
        {"return_aux": AuxRequest()},
        {"enable_gqa": True, "block_mask": windowed(), "return_aux": LSE},
    ],
)
@pytest.mark.parametrize("how", HOW)
def test_flex_attention_is_swapped(how: str, options: dict[str, Any], computed: list[Any]) -> None:
    model, tensors = Flexible(**options), qkv(2 if "enable_gqa" in options else 4)
    before, expected = flex_attention, model(*tensors)
    assert computed == []
    with HOW[how](model):
        assert flex_attention is not before
        output = model(*tensors)
    assert computed
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert flex_attention is torch_flex.flex_attention is before
    computed.clear()
    torch.testing.assert_close(model(*tensors), expected, rtol=0, atol=0)
    assert computed == []


@pytest.mark.parametrize("how", HOW)
def test_flex_attention_brings_what_torch_has_on_no_cpu(how: str) -> None:
    """Gradients, and the largest scores."""

    def dense(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place = torch.arange(4)[:, None, None], torch.arange(128)[:, None], torch.arange(128)
        scores = tilted(query @ key.mT / 4, torch.zeros(()), *place)
        return scores.softmax(-1) @ value, scores.logsumexp(-1), scores.amax(-1)

    def results(call: Any) -> list[Any]:
        tensors = [t.requires_grad_() for t in qkv()]
        output, lse, maximum = call(*tensors)
        (output.sum() + lse.square().sum()).backward()
        return [output, lse, maximum, *(t.grad for t in tensors)]

    model = Flexible(score_mod=tilted, return_aux=AuxRequest(lse=True, max_scores=True))
    with HOW[how](model):
        found = results(lambda *tensors: (lambda output, aux: (output, *aux))(*model(*tensors)))
    torch.testing.assert_close(found, results(dense), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("_not_compiled")
@pytest.mark.parametrize(
    ("options", "tensors"),
    [
        ({"score_mod": lambda score, b, h, q, k: torch.special.i0(score)}, qkv()),  # not in the score language
        ({"block_mask": blocks_alone()}, qkv()),
        ({}, (qkv()[0], *(t[:1] for t in qkv()[1:]))),
        ({"block_mask": windowed()}, qkv(length=127)),
        ({}, tuple(t[0] for t in qkv())),
        ({"return_lse": True, "return_aux": LSE}, qkv()),
    ],
    ids=["function", "blocks", "batch", "length", "dimensions", "both"],
)
def test_what_flex_attention_means_or_refuses_otherwise_is_left_to_torch(
    options: dict[str, Any], tensors: tuple[Tensor, ...], computed: list[Any]
) -> None:
    model = Flexible(**options)

    def outcome() -> Any:
        try:
            return model(*tensors)
        except Exception as error:
            return type(error), str(error)

    expected = outcome()
    with pellucid.everywhere():
        found = outcome()
    assert computed == []
    if not isinstance(expected, Tensor):
        assert found == expected
        return
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="Flexible: its call is not one that Pellucid computes"), pellucid.watch(model):
        assert torch.equal(model(*tensors), expected)


@pytest.mark.usefixtures("_not_compiled")
def test_names_are_as_before_once_their_last_user_is_gone(computed: list[Any]) -> None:
    before, tensors, one, other = flex_attention, qkv(), Flexible(), Flexible()
    pellucid.accelerate(one)
    with pellucid.everywhere():
        pellucid.accelerate(other)
        restore(one)
    one(*tensors)
    assert computed == []  # restored, though the name in its file is not torch's own yet
    other(*tensors)
    assert len(computed) == 1
    assert flex_attention is not before
    del other
    assert flex_attention is before


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model: a torch.nn.Module is needed, got str"):
        pellucid.accelerate("llama")
