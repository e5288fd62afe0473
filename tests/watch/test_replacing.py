"""accelerate and everywhere: Pellucid's operator in place of a model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid
from pellucid import engines
from pellucid.watch import restore
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
    return problems


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
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


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


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model: a torch.nn.Module is needed, got str"):
        pellucid.accelerate("llama")
