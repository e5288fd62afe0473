"""In whose place Pellucid attends: masks are the library's for whoever computes with them, causality is no guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import masking_utils

import pellucid
from pellucid import register
from pellucid.capture.calls.mask import LazyMask
from pellucid.capture.sources.transformers.functions import mask_function
from pellucid.capture.sources.transformers.names import is_alike, questions
from pellucid.capture.sources.transformers.origin import FOR_EAGER, NAME, SETTING, origin_of
from tests.watch import caches, models

TOLERANCE = 1e-5
PADDING = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])


def git() -> models.Model:
    """Attention written out that adds the library's mask, in a file that asks the registry for its images."""
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 31}
    config = transformers.GitConfig(**models.SIZES, vision_config=vision | {"image_size": 16, "patch_size": 8})
    return transformers.GitModel(config), models.left_padded()


def align() -> models.Model:
    """An encoder that only has eager attention, and whose modules say nothing of causality."""
    return transformers.AlignTextModel(transformers.AlignTextConfig(**models.SIZES)), {"input_ids": models.ids()}


def clap() -> models.Model:
    return transformers.ClapTextModel(transformers.ClapTextConfig(**models.SIZES)), {"input_ids": models.ids()}


def informer() -> models.Model:
    """A decoder half of whose attention is written out, and is given no mask by the library."""
    config = transformers.InformerConfig(
        prediction_length=7, context_length=13, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=31, decoder_ffn_dim=31,
        lags_sequence=[1, 2], num_time_features=1, attention_type="prob",
    )  # fmt: skip
    past, future = 13 + 2, 7
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "past_values": torch.rand(2, past, generator=generator), "past_observed_mask": torch.ones(2, past),
        "past_time_features": torch.rand(2, past, 1, generator=generator),
        "future_values": torch.rand(2, future, generator=generator),
        "future_time_features": torch.rand(2, future, 1, generator=generator),
    }  # fmt: skip
    return transformers.InformerModel(config), inputs


def falcon() -> models.Model:
    """SDPA that the model calls itself, with the library's mask."""
    config = transformers.FalconConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    return transformers.FalconModel(config), {"input_ids": models.ids()}


def hy_v4() -> models.Model:
    """Sparse attention that chooses keys by a mask under the library's names, by indices under any other."""
    models.needs((5, 23), "it has no HY V4")
    config = transformers.HYV4Config(
        **models.LATENT, index_topk=3, index_n_heads=2, index_head_dim=8, head_dim=8, experts_implementation="eager"
    )
    return transformers.HYV4Model(config), models.left_padded()


@contextmanager
def watched(model: Any) -> Iterator[Any]:
    with pellucid.watch(model):
        yield


@contextmanager
def accelerated(model: Any) -> Iterator[Any]:
    pellucid.accelerate(model)
    yield
    pellucid.restore(model)


@contextmanager
def everywhere(model: Any) -> Iterator[Any]:
    with pellucid.everywhere():
        yield


def made(maker: Callable[[], models.Model]) -> models.Model:
    """A model in whose outputs it matters where each head looks."""
    torch.manual_seed(0)
    model, inputs = maker()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model.eval().requires_grad_(False), inputs


@pytest.mark.sampled
@pytest.mark.parametrize("way", [watched, accelerated, everywhere])
@pytest.mark.parametrize("maker", [git, align, clap, informer, falcon, hy_v4])
def test_a_model_computes_what_it_computes_alone(maker: Callable[[], models.Model], way: Any) -> None:
    model, inputs = made(maker)
    torch.manual_seed(0)
    plain = model(**inputs)[0]
    with way(model):
        torch.manual_seed(0)
        found = model(**inputs)[0]
    rows = slice(None) if "attention_mask" not in inputs else inputs["attention_mask"].bool()
    own = plain.shape[:2] == models.ids().shape
    difference = (found - plain)[rows] if own else found - plain
    assert difference.abs().max() < TOLERANCE * plain.abs().max()


@pytest.mark.parametrize("maker", [git, align, hy_v4])
def test_the_weights_of_models_that_only_have_eager_attention_are_seen(maker: Callable[[], models.Model]) -> None:
    model, inputs = made(maker)
    with pellucid.watch(model, keep=True) as record:
        model(**inputs)
    assert record.missed == []
    assert len(record) == 2
    for layer in record.values():
        sums = layer.weights().sum(-1)[~torch.isinf(layer.lse)]
        assert (sums < 1 + TOLERANCE).all() if layer.has_sink else torch.allclose(sums, torch.ones_like(sums))


def test_an_encoder_set_to_pellucid_by_name_does_not_become_causal() -> None:
    model, inputs = made(align)
    plain = model(**inputs)[0]
    register()
    model.set_attn_implementation("pellucid")
    assert (model(**inputs)[0] - plain).abs().max() < TOLERANCE * plain.abs().max()


def test_a_module_of_an_unknown_kind_that_says_nothing_is_not_guessed_to_be_causal() -> None:
    from pellucid.capture.sources.transformers.functions import attention_forward

    query = torch.randn(2, 3, 5, 7)
    with pytest.raises(ValueError, match="no mask, and nothing that says whether it is causal"):
        attention_forward(nn.Identity(), query, query, query, None)
    expected = nn.functional.scaled_dot_product_attention(query, query, query)
    found = attention_forward(nn.Identity(), query, query, query, None, is_causal=False)[0].transpose(1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("value", [torch.zeros(1), 3])
@pytest.mark.parametrize("argument", ["indices", "block_indices", "tilt"])
@pytest.mark.parametrize("maker", [models.llama, align])
def test_an_argument_that_is_not_understood_leaves_the_layer_to_the_library(
    maker: Callable[[], models.Model], argument: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = made(maker)
    asking = [module for name, module in model.named_modules() if name.endswith(("self_attn", "attention.self"))]
    original = type(asking[1]).forward

    def passing(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **options, **({argument: value} if self is asking[1] else {}))

    monkeypatch.setattr(type(asking[1]), "forward", passing)
    plain = model(**inputs)[0]
    with pytest.warns(UserWarning, match=f"{argument}: an argument"), pellucid.watch(model) as record:
        found = model(**inputs)[0]
    assert len(record) == len(record.missed) == 1
    rows = inputs["attention_mask"].bool() if "attention_mask" in inputs else slice(None)
    assert (found - plain)[rows].abs().max() < TOLERANCE * plain.abs().max()


def config_of(setting: str) -> Any:
    config = transformers.LlamaModel.config_class()  # of a class that is there, as it is where a model is
    setattr(config, SETTING, setting)
    return config


def asked(function: Any = masking_utils.causal_mask_function, **more: Any) -> dict[str, Any]:
    sizes = {"batch_size": 2, "q_length": 7, "kv_length": 7, "q_offset": 0, "kv_offset": 0}
    return sizes | {"mask_function": function, "attention_mask": None, "dtype": torch.float64} | more


ASKED = [
    asked(),
    asked(attention_mask=PADDING.bool()),
    asked(q_length=1, q_offset=6),
    asked(kv_length=11),
    asked(q_length=3, q_offset=4),
    asked(masking_utils.sliding_window_causal_mask_function(3), local_size=3),
    asked(masking_utils.sliding_window_causal_mask_function(11), local_size=11),
    asked(masking_utils.bidirectional_mask_function, allow_is_causal_skip=False, allow_is_bidirectional_skip=True),
]
USES: dict[str, Callable[[Tensor], Any]] = {
    "added": lambda mask: torch.zeros(2, 3, *mask.shape[2:], dtype=torch.float64) + mask,
    "cut": lambda mask: mask[:, :, -1:, :5],
    "summed": lambda mask: mask.sum(-1),
    "compared": lambda mask: mask == 0,
    "chosen by": lambda mask: torch.where(mask == 0, 2.0, 3.0),
    "as numbers": lambda mask: mask.to(torch.float32),
    "listed": lambda mask: torch.tensor(mask.tolist()),
    "as bytes": lambda mask: torch.from_numpy(mask.numpy()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", [NAME, FOR_EAGER])
@pytest.mark.parametrize("arguments", ASKED)
def test_whoever_computes_with_a_mask_gets_what_the_library_gives(
    arguments: dict[str, Any], name: str, use: str
) -> None:
    library = masking_utils.sdpa_mask if name == NAME else masking_utils.eager_mask
    expected, found = library(**arguments), mask_function(**arguments, config=config_of(name))
    assert (expected is None) == (found is None)
    if expected is not None:
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert torch.equal(USES[use](found), USES[use](expected))


def test_what_is_written_over_a_mask_stays_in_it() -> None:
    written: list[Callable[[Tensor], Any]] = [
        lambda mask: mask[:, :, 2].fill_(1),
        lambda mask: mask.masked_fill_(torch.ones(7, 7).tril().bool(), 1),
        lambda mask: mask.__setitem__((..., 3), 1),
    ]
    for write in written:
        for inside in (torch.inference_mode, torch.enable_grad):
            with inside():
                mask = mask_function(**asked(attention_mask=PADDING.bool()), config=config_of(NAME))
                copy, before = mask.clone(), mask & True
                expected = before.clone()
                write(mask)
                write(expected)
                assert isinstance(mask, LazyMask)
                assert mask.is_changed
                assert torch.equal(mask & True, expected)
                assert torch.equal(copy & True, before if before is not mask.whole() else copy.whole())
                query = torch.randn(2, 3, 7, 5)
                attend = pellucid_attention()
                found = attend(query, mask)
                torch.testing.assert_close(found, attend(query, expected))


def pellucid_attention() -> Callable[[Tensor, Tensor], Tensor]:
    from pellucid.capture.sources.transformers.functions import attention_forward

    return lambda query, mask: attention_forward(nn.Identity(), query, query, query, mask)[0]


def test_a_part_keeps_the_name_where_its_code_asks_for_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['if c._attn_implementation in ("eager", "sdpa"):', 'if c._attn_implementation != "flash":']
    (tmp_path / "asking.py").write_text(
        "".join(f"def f{n}(c):\n    {line}\n        pass\n" for n, line in enumerate(lines))
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = __import__("asking")
    assert questions(file) == (frozenset({"eager", "sdpa"}), frozenset({"flash"}))
    assert is_alike(file, "eager", "sdpa")
    assert not is_alike(file, "eager", FOR_EAGER)
    assert not is_alike(file, "sdpa", NAME)


def test_what_is_stood_in_for_is_known_by_name_and_class() -> None:
    assert origin_of(config_of(NAME)) == "sdpa"
    assert origin_of(config_of("sdpa")) == "sdpa"
    assert origin_of(config_of(FOR_EAGER)) == "eager"
    assert issubclass(transformers.AlignTextModel, nn.Module)  # which loads it
    assert origin_of(transformers.AlignTextConfig()) == "eager"
    assert origin_of(None) is None


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("way", [watched, accelerated])
def test_a_model_set_to_flex_attention_is_what_it_is_under_sdpa(way: Any, padded: bool) -> None:
    model, inputs = made(models.llama)
    inputs = inputs if padded else {"input_ids": inputs["input_ids"]}
    plain = model(**inputs)[0]
    model.set_attn_implementation("flex_attention")
    with way(model) as record:
        found = model(**inputs)[0]
    assert set(models.settings(model)) == {"flex_attention"}
    assert record is None or len(record) == 2
    rows = inputs["attention_mask"].bool() if padded else slice(None)
    assert (found - plain)[rows].abs().max() < TOLERANCE * plain.abs().max()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_steps_on_a_cache_that_counts_in_a_tensor(implementation: str) -> None:
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation=implementation).eval().double()
    ids = torch.randint(3, 64, (1, 11))

    def steps() -> torch.Tensor:
        cache = transformers.StaticCache(config=config, max_cache_len=19)
        parts = ((0, 8), (8, 9), (9, 11))
        return torch.cat([model(ids[:, a:b], **caches.given(cache)).logits for a, b in parts], 1)

    with torch.no_grad():
        expected = steps()
        with pellucid.watch(model):
            watched = steps()
    torch.testing.assert_close(watched, expected, rtol=0, atol=1e-9)
