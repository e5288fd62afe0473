"""`watch` itself: what is chosen and kept, what is reported, and that the model is as before whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import Progress, readouts
from tests.watch import models


def state(model: Any) -> tuple[Any, ...]:
    """What a watch may have changed and must restore; the library's own lasting hooks are installed before."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return models.settings(model), hooks, "generate" in vars(model), torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_leaves_the_model_as_it_was_and_the_record_open(error: type[BaseException]) -> None:
    model, inputs = models.made("llama")
    before, plain = state(model), model(**inputs).logits
    records = []

    def interrupted() -> None:
        with pellucid.watch(model) as record:
            records.append(record)
            model(**inputs)
            raise error

    with pytest.raises(error):
        interrupted()
    assert state(model) == before
    assert (len(records[0]), records[0].complete) == (2, False)
    assert torch.equal(model(**inputs).logits, plain)


def test_an_interrupt_inside_a_layer_keeps_the_layers_before_it() -> None:
    model, inputs = models.made("llama")
    before = state(model)

    def interrupt(module: nn.Module, args: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), pellucid.watch(model) as record:
        model(**inputs)
    hook.remove()
    assert state(model) == before
    assert record.layers == ["model.layers.0.self_attn"]
    assert record[0].entropy.shape == (2, 4, 13)


def test_watches_nest_and_each_sees_everything() -> None:
    for model, call in (
        (models.made("llama")[0], lambda model: model(**models.left_padded())),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), lambda model: model(torch.rand(1, 5, 8))),
    ):
        before = state(model) if hasattr(model, "config") else None
        with torch.no_grad(), pellucid.watch(model) as outer:
            call(model)
            with pellucid.watch(model, keep=True) as inner:
                call(model)
            call(model)
        assert before is None or state(model) == before
        layers = len(inner)
        assert layers
        assert len(outer) == 3 * layers
        for one, other in zip(list(outer.values())[layers : 2 * layers], inner.values(), strict=True):
            torch.testing.assert_close(one.entropy, other.entropy, equal_nan=True)


def test_layers_and_heads_are_chosen() -> None:
    model, inputs = models.made("llama")
    names = [f"model.layers.{i}.self_attn" for i in range(2)]
    with pellucid.watch(model, keep=True) as whole:
        model(**inputs)
    for chosen, expected in ((0, names[:1]), ([-1], names[1:]), ("*.1.*", names[1:]), ("model.layers.0", names[:1])):
        with pellucid.watch(model, layers=chosen, keep=chosen) as record:
            model(**inputs)
        assert record.layers == expected
    with pellucid.watch(model, keep=names[1]) as record:
        model(**inputs)
    assert [bool(layer.parts) for layer in record.values()] == [False, True]
    with pytest.raises(ValueError, match=r"watch the model with keep=\['model.layers.0.self_attn'\]"):
        record[0].weights()
    readouts = [pellucid.Entropy(), pellucid.TopK(20), pellucid.Received()]
    with pellucid.watch(model, readouts, heads=[3, 0], keep=True) as record:
        model(**inputs)
    layer = record[1]
    assert (layer.heads, layer.head_numbers) == (2, [3, 0])
    assert layer.topk.keys.shape == (2, 2, 13, 13)  # no more keys than there are
    torch.testing.assert_close(layer.entropy, whole[1].entropy[:, [3, 0]], equal_nan=True)
    torch.testing.assert_close(layer.weights(), whole[1].weights(heads=[3, 0]), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": "*.9.*"}, ValueError, r"layers: '\*.9.\*' matches no module; attention modules are model.layers.0"),
        ({"keep": [2]}, IndexError, "keep: 2 is beyond the 2 attention modules"),
        ({"layers": 1.5}, TypeError, "layers: names, patterns or numbers of layers are needed, got 1.5"),
        ({"keep": [True]}, TypeError, "keep: names, patterns or numbers"),
        ({"heads": [-1]}, ValueError, "heads: numbers of heads from 0 are needed"),
        ({"heads": []}, ValueError, "heads: numbers of heads from 0 are needed"),
        ({"readouts": ["entropy"]}, TypeError, "readouts: each must be a readout"),
        (
            {"readouts": [pellucid.Entropy(), pellucid.Entropy()]},
            ValueError,
            "readouts: more than one is named entropy",
        ),
        ({"resume": True}, ValueError, "resume: needs out, the record to go on with"),
    ],
)
def test_bad_choices_are_refused_before_the_model_runs(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    model, _ = models.made("llama")
    before = state(model)
    with pytest.raises(error, match=message), pellucid.watch(model, **arguments):
        raise AssertionError("the body must not run")
    assert state(model) == before


def test_a_head_beyond_the_models_is_an_error_and_no_model_is_too() -> None:
    model, inputs = models.made("llama")
    with (
        pytest.raises(IndexError, match=r"heads: 7 .* model.layers.0.self_attn has 4"),
        pellucid.watch(model, heads=[7]),
    ):
        model(**inputs)
    with pytest.raises(TypeError, match=r"model: a torch.nn.Module is needed, got str"), pellucid.watch("bert"):
        pass


class TiltedAttention(nn.Module):
    """Attention by hand, whose weights are no longer those of the softmax when they meet the values."""

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ x.mT).softmax(-1) * torch.linspace(0, 1, x.shape[-2])) @ x


class LinearAttention(nn.Module):
    """Attention in name: its softmaxes are over features and over positions, none is over keys."""

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1) @ (x.softmax(-2).mT @ x)


def test_nothing_found_is_an_error_and_never_an_empty_map() -> None:
    for model, reason in (
        (nn.Linear(4, 4), "watch: no softmax attention found in Linear$"),
        (TiltedAttention(), r"found in TiltedAttention \(TiltedAttention: TiltedAttention computes its weights itself"),
        (nn.Sequential(LinearAttention()), "LinearAttention is not softmax attention: it has no matrix of weights"),
    ):
        with pytest.raises(ValueError, match=reason), pellucid.watch(model):
            model(torch.rand(1, 3, 4))
    with (
        pytest.raises(ValueError, match="watch: Linear was not called inside the `with`"),
        pellucid.watch(nn.Linear(4, 4)),
    ):
        pass


def test_what_ran_and_was_not_seen_is_listed_and_warned_of() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, batch_first=True), TiltedAttention()).eval()
    with pytest.warns(UserWarning, match="watch: 1 attention modules were not observed. 1: TiltedAttention computes"):  # noqa: SIM117
        with torch.no_grad(), pellucid.watch(model) as record:
            model(torch.rand(1, 5, 8))
    assert record.layers == ["0.self_attn"]
    assert [missed.name for missed in record.missed] == ["1"]
    with pytest.raises(KeyError, match="'1' was not observed: TiltedAttention computes its weights itself"):
        record["1"]


def test_a_module_that_attends_in_some_of_its_calls_alone_is_listed_too() -> None:
    class SometimesAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x) if len(x) > 1 else (x @ x.mT / 2).relu() @ x

    model = nn.Sequential(SometimesAttention())
    with pytest.warns(UserWarning, match="0: 1 of its 3 calls were not seen to attend"):  # noqa: SIM117
        with pellucid.watch(model) as record:
            [model(torch.rand(batch, 4, 8)) for batch in (2, 1, 3)]
    assert record.layers == ["0", "0#2"]


def test_the_memory_that_will_be_kept_is_known_at_the_first_layer() -> None:
    model, inputs = models.made("llama")
    events: list[Progress] = []
    with pellucid.watch(model, [pellucid.Entropy()], keep=True, progress=events.append) as record:
        model(**inputs)
    assert [(event.layer, event.done, event.expected) for event in events] == [
        (n, i + 1, 2) for i, n in enumerate(record)
    ]
    kept = sum(tensor.numel() * 4 for layer in record.values() for tensor in (layer.query, layer.key))
    readings = 2 * 2 * record[0].lse.numel() * 4  # lse and entropy of two layers
    assert events[0].planned_bytes == events[1].planned_bytes == record.planned_bytes == kept + readings


def test_the_bar_says_what_is_kept_and_leaves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = models.made("llama")
    with pellucid.watch(model, keep=True, progress=True):
        model(**inputs)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Watching keeps about" in said.err
    assert "2/2" in said.err


def test_layers_are_handed_over_as_they_are_complete() -> None:
    model, inputs = models.made("llama")
    handed: list[tuple[str, int]] = []

    def take(layer: pellucid.Layer) -> pellucid.Layer:
        handed.append((layer.name, layer.calls))
        return pellucid.Layer(**{**vars(layer), "readings": {"lse": layer.lse}, "parts": []})

    with pellucid.watch(model, keep=True, on_layer=take) as record:
        model(**inputs)
        assert [name for name, _ in handed] == record.layers  # while the model runs, not at the end
    assert [set(layer.readings) for layer in record.values()] == [{"lse"}] * 2
    handed.clear()
    with pellucid.watch(model, on_layer=take) as record:
        model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, pad_token_id=0)
        assert handed == []  # a generation is complete when it ends
    assert handed == [(name, 4) for name in record.layers]


def test_pooled_maps_of_a_generation_are_read_from_what_was_kept() -> None:
    model, inputs = models.made("llama")
    readouts = [pellucid.Pooled(4, 4), pellucid.PooledMax(4, 4), pellucid.Received(), pellucid.TopK(3)]
    with pellucid.watch(model, readouts, keep=[0]) as record:
        generated = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
    mask = torch.cat((inputs["attention_mask"], torch.ones(2, 4, dtype=torch.long)), 1)
    with pellucid.watch(model, readouts) as whole:
        model(input_ids=generated[:, :-1], attention_mask=mask)
    for name in ("pooled", "pooled_max", "received"):
        mine, expected = record[0].readings[name], whole[0].readings[name]
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert torch.equal(record[0].topk.keys, whole[0].topk.keys)
    assert "pooled" not in record[1]
    assert "pooled_max" not in record[1]


def test_tokens_and_segments_go_with_the_record() -> None:
    model, inputs = models.made("t5")
    tokens, source = [["a"] * 7] * 2, [["b"] * 13] * 2
    segments = {"answer": slice(2, 7)}
    with pellucid.watch(model, tokens=tokens, source_tokens=source, segments=segments) as record:
        model(**inputs)
    assert (record.tokens, record.source_tokens, record.segments) == (tokens, source, segments)
    assert torch.equal(record.token_ids, inputs["decoder_input_ids"])
    assert record.model.startswith("T5ForConditionalGeneration")


def test_an_interrupted_generation_is_on_disk_as_far_as_it_came(tmp_path: Any) -> None:
    model, inputs = models.made("llama")
    steps: list[int] = []

    def interrupt(module: nn.Module, args: Any) -> None:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), pellucid.watch(model, out=tmp_path / "run.attn"):
        model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, pad_token_id=0)
    hook.remove()
    record = pellucid.open_record(tmp_path / "run.attn")
    assert not record.complete
    assert [(layer.calls, layer.q_len) for layer in record.values()] == [(4, 16), (3, 15)]


def test_a_receiver_that_fails_ends_the_run_with_its_own_error() -> None:
    model, inputs = models.made("llama")
    before = state(model)

    def full(layer: pellucid.Layer) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), pellucid.watch(model, on_layer=full):
        model(**inputs)
    assert state(model) == before


def test_more_beside_the_summary() -> None:
    model = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x, more = torch.randn(1, 8, 16), [readouts.Received(), readouts.TopK(3)]
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pellucid.watch(model, more=more) as record:
            model(x, x, x, need_weights=False)
        assert record[0].received.sum().item() == pytest.approx(16)
        assert record[0].topk.keys.shape == (1, 2, 8, 3)
    other = [readouts.Received(queries=slice(0, 4))]
    with pytest.raises(ValueError, match="summary reads 'received' in another way"), pellucid.watch(model, more=other):
        pass


def test_what_is_named_after_an_attention_is_none():
    class AttentionOutput(nn.Module):
        def forward(self, x):
            return x + 1

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = AttentionOutput()

        def forward(self, x):
            return self.output(nn.functional.scaled_dot_product_attention(x, x, x))

    model = nn.Sequential(Attention())
    with pellucid.watch(model) as record:
        model(torch.rand(1, 2, 5, 4))
    assert not record.missed
    assert record.layers == ["0"]
