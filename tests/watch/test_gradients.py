"""Readings with gradients: a loss of them trains any model as the same loss of eager attention's matrices does."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import pellucid
from pellucid.readouts import At, Entropy, Expect, Pooled, PooledMax, Received, Renyi, TopK
from tests.thorough import thorough
from tests.watch import caches, models

pytestmark = pytest.mark.filterwarnings(  # the library's, of how it is told to checkpoint; torch's, of speed in vmap
    "ignore:.*gradient_checkpointing", "ignore:There is a performance drop"
)
PLACES = torch.tensor([[0, 3, -1]])
READOUTS = [
    Entropy(), Renyi(2), TopK(2), At(PLACES), Received(), Pooled(2, 2),
    Expect(lambda b, h, q, k: abs(q - k), "distance"),
]  # fmt: skip


# The same of a matrix of weights [batch, heads, q_len, k_len], and what is no padding of queries and keys.


def of_matrix(outcomes: Tensor, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """What `READOUTS` are of weights, of which rows of padding are nothing, and which a sink's may follow."""
    weights = outcomes[..., : keys.shape[1]]
    q_len, k_len = weights.shape[-2:]
    rows = queries[:, None, :, None].to(weights)
    distance = (torch.arange(q_len)[:, None] - torch.arange(k_len)).abs().to(weights)
    logs = torch.where(outcomes > 0, outcomes, 1.0).log()
    square = torch.where(queries[:, None], outcomes.square().sum(-1), 1.0)
    taken = weights[..., PLACES[0].clamp(min=0)] * (PLACES[0] >= 0)
    counted, halves = weights * rows, [[], []]
    for half, of_queries in enumerate(_halves(q_len)):
        for of_keys in _halves(k_len):
            tokens = rows[:, :, of_queries, 0].sum(-1)
            halves[half].append(counted[:, :, of_queries, of_keys].sum((-1, -2)) / tokens.clamp(min=1))
    return {
        "entropy": -(outcomes * logs).sum(-1)[..., None] * rows,
        "renyi": -square.log()[..., None] * rows,
        "topk": weights.topk(2).values * rows,
        "at": taken * rows,
        "received": counted.sum(-2) * keys[:, None],
        "pooled": torch.stack([torch.stack(row, -1) for row in halves], -2),
        "distance": (weights * distance).sum(-1)[..., None] * rows,
    }


def _halves(length: int) -> list[slice]:
    first = -(-length // 2)  # position i is in bin i * 2 // length
    return [slice(0, first), slice(first, length)]


def of_layer(layer: Any) -> dict[str, Tensor]:
    """The readings of a layer, 0 at padding."""
    found = layer.readings | {"topk": layer.topk.weights}
    return {readout.name: found[readout.name].nan_to_num() for readout in READOUTS}


def loss_of(found: list[dict[str, Tensor]], names: set[str] | None = None) -> Tensor:
    """Each number of each reading times some number."""
    total = torch.zeros(())
    for place, readings in enumerate(found):
        for name, reading in readings.items():
            if names is None or name in names:
                generator = torch.Generator().manual_seed(place + len(name))
                total = total + (torch.randn(reading.numel(), generator=generator) * reading.flatten()).sum()
    return total


class Matrices(TorchFunctionMode):
    """Keeps what softmax gives of attention's scores: weights before dropout."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (functional.softmax, torch.softmax, Tensor.softmax) and result.ndim == 4:
            self.found.append(result)
        return result


def loss_of_output(output: Any, given: dict[str, Tensor]) -> Tensor:
    """Of what is no padding."""
    found = output.logits if hasattr(output, "logits") else output.last_hidden_state
    mask = given.get("attention_mask")
    return (found[mask.bool()] if mask is not None and mask.shape == found.shape[:2] else found).square().mean()


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Those of a loss that was gone back through, and none any more."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each within 1e-5 of its size, or of what is little beside all of them."""
    assert found.keys() == expected.keys()
    whole = max(float(gradient.norm()) for gradient in expected.values())
    assert whole > 0
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * (float(gradient.norm()) + 0.1 * whole), name


def trained_by_matrices(model: Any, given: dict[str, Tensor], layers: list[Any]) -> dict[str, Tensor]:
    """The gradients of a loss of the eager matrices; `layers` say what is padding."""
    models.set_all(model, "eager")
    torch.manual_seed(5)
    with Matrices() as matrices:
        output = model(**given)
    assert len(matrices.found) == len(layers)
    found = []
    for weights, layer in zip(matrices.found, layers, strict=True):
        queries, keys = (
            torch.ones(layer.batch, length, dtype=torch.bool) if padded is None else ~padded
            for padded, length in zip(layer.padding, (layer.q_len, layer.k_len), strict=True)
        )
        found.append(of_matrix(weights, queries, keys))
    (loss_of_output(output, given) + loss_of(found)).backward()
    return gradients_of(model)


def trained_by_readings(model: Any, given: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Any]]:
    torch.manual_seed(5)
    with pellucid.watch(model, READOUTS, gradients=True) as record:
        output = model(**given)
        (loss_of_output(output, given) + loss_of([of_layer(layer) for layer in record.values()])).backward()
    assert not record.missed
    return gradients_of(model), list(record.values())


def large_llama(**more: Any) -> models.Model:
    config = transformers.LlamaConfig(**(models.GROUPED | {"num_hidden_layers": 4} | more))
    return transformers.LlamaForCausalLM(config), models.left_padded()


KINDS: dict[str, Callable[[], models.Model]] = {
    "llama": large_llama,
    **{name: models.MODELS[name] for name in ("bert", "t5", "gpt2", "gemma2", "gpt_oss", "vit", "gptj", "bart")},
}


CASES = list(itertools.product(KINDS, ("sdpa", "eager")))
# Each of them asks for kernels of its own; these have a mask and shapes as others have.
SELDOM = list(itertools.product(("bart", "vit"), ("sdpa", "eager")))


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kind", "implementation"), thorough(CASES, [case for case in CASES if case not in SELDOM], share=5)
)
def test_a_model_is_trained_as_by_eager_attention(kind: str, implementation: str) -> None:
    torch.manual_seed(0)
    model, given = KINDS[kind]()
    if implementation == "sdpa" and not model._supports_sdpa:
        pytest.skip("it has no sdpa")
    model.eval()  # dropout is for others
    models.set_all(model, implementation)
    found, layers = trained_by_readings(model, given)
    assert_same(found, trained_by_matrices(model, given, layers))


# Dropout, checkpoints, LoRA, accelerate, torch.compile.


@pytest.mark.parametrize("reentrant", [None, False])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_with_dropout_readings_are_of_the_weights_before_it(implementation: str, reentrant: bool | None) -> None:
    """The loss at a seed is the one that the model has unwatched, and gradients those of eager's softmax at it."""
    torch.manual_seed(0)
    model, given = large_llama(attention_dropout=0.3)
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    models.set_all(model, implementation)
    torch.manual_seed(5)
    plain = loss_of_output(model(**given), given)
    torch.manual_seed(5)
    with pellucid.watch(model, READOUTS, gradients=True):
        watched = loss_of_output(model(**given), given)
    assert torch.equal(plain, watched)
    if implementation == "eager":  # sdpa drops others at a seed
        found, layers = trained_by_readings(model, given)
        model.gradient_checkpointing_disable()
        assert_same(found, trained_by_matrices(model, given, layers))


@pytest.mark.sampled
@pytest.mark.parametrize("backward", ["inside", "outside"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "pellucid"])
@pytest.mark.parametrize("kind", ["llama", "gptj", "bert"])
def test_checkpoints(kind: str, implementation: str, backward: str) -> None:
    """What is run again is not read again, whether somebody watches then or not."""
    torch.manual_seed(0)
    model, given = KINDS[kind]()
    model.eval()
    if implementation == "pellucid":
        pellucid.register()
        model.set_attn_implementation("pellucid")
    else:
        models.set_all(model, implementation)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.train()  # where alone the library checkpoints; nothing drops
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            model.config.attention_probs_dropout_prob = 0.0
            for module in model.modules():
                if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
                    module.attention_dropout = 0.0
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with contextlib.ExitStack() as stack:
            record = stack.enter_context(pellucid.watch(model, READOUTS, gradients=True))
            output = model(**given)
            loss = loss_of_output(output, given) + loss_of([of_layer(layer) for layer in record.values()])
            if backward == "outside":
                stack.close()
            before = {name: layer.readings["lse"] for name, layer in record.items()}
            loss.backward()
        assert not record.missed
        assert all(record[name].readings["lse"] is lse for name, lse in before.items())
        assert len(record) == len(before)
        found.append(gradients_of(model))
    assert_same(found[1], found[0])


class Direct(nn.Module):
    """Calls torch's function in a checkpoint of its own, which stops early when it has what it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def attend(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = checkpoint(self.attend, x, use_reentrant=False)
        return found


def test_a_checkpoint_that_stops_early() -> None:
    torch.manual_seed(0)
    model, x = Direct(), torch.randn(2, 7, 8)
    with pellucid.watch(model, [Entropy()], gradients=True) as record:
        output = model(x)
        (output.square().sum() + record[0].entropy.sum()).backward()
        assert record.layers == ["Direct"]
    found = gradients_of(model)
    output, seen = pellucid.observe(
        *model.project(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4), is_causal=True, readouts=[Entropy()]
    )
    (output.square().sum() + seen.entropy.sum()).backward()
    assert_same(found, gradients_of(model))


class LoRA(nn.Module):
    """A linear layer whose own weights stay, and a product of two small ones beside it."""

    def __init__(self, own: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.own = own.requires_grad_(False)
        self.down = nn.Linear(own.in_features, rank, bias=False)
        self.up = nn.Linear(rank, own.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        own: Tensor = self.own(x)
        return own + self.up(self.down(x))


def with_lora(model: Any) -> Any:
    model.requires_grad_(False)
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, LoRA(getattr(layer.self_attn, name)))
    return model


@pytest.mark.parametrize("way", ["watch", "accelerate", "compile"])
def test_lora(way: str) -> None:
    torch.manual_seed(0)
    model, given = large_llama()
    with_lora(model).eval()
    run = model
    if way == "accelerate":
        pellucid.accelerate(model)
    if way == "compile":
        torch._dynamo.reset()
        run = torch.compile(model, backend="eager")
    torch.manual_seed(5)
    with pellucid.watch(model, READOUTS, gradients=True) as record:
        output = run(**given)
        (loss_of_output(output, given) + loss_of([of_layer(layer) for layer in record.values()])).backward()
    found = gradients_of(model)
    assert len(found) == 4 * 2 * 2
    pellucid.restore(model)
    assert_same(found, trained_by_matrices(model, given, list(record.values())))


def test_accumulated_gradients() -> None:
    """Parts of a batch one after the other give the gradients of the whole; the record is of the last."""
    torch.manual_seed(0)
    model, _ = large_llama()
    model.eval()
    ids = models.ids(batch=4)
    with pellucid.watch(model, [Entropy()], gradients=True) as record:
        for part in ids.split(2):
            model(part)
            loss = sum(layer.entropy.sum() for layer in record.values())
            loss.backward()
            assert len(record) == 4
        found = gradients_of(model)
        model(ids)
        sum(layer.entropy.sum() for layer in record.values()).backward()
    assert_same(found, gradients_of(model))


# torch's own modules.


def of_heads(attention: nn.MultiheadAttention, x: Tensor, source: Tensor) -> Tensor:
    """The weights of a module of torch, by its definition."""
    dim, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = functional.linear(x, weight[:dim], bias[:dim]).unflatten(-1, (heads, -1)).transpose(1, 2)
    key = (
        functional.linear(source, weight[dim : 2 * dim], bias[dim : 2 * dim]).unflatten(-1, (heads, -1)).transpose(1, 2)
    )
    return query @ key.mT * (dim // heads) ** -0.5


@pytest.mark.sampled
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_multi_head_attention_of_torch(need_weights: bool, dropout: float) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, dropout=dropout, batch_first=True)
    x, source = torch.randn(2, 7, 16), torch.randn(2, 11, 16)
    padding = torch.zeros(2, 11, dtype=torch.bool)
    padding[1, 8:] = True
    with pellucid.watch(attention, READOUTS, gradients=True) as record:
        attention(x, source, source, key_padding_mask=padding, need_weights=need_weights)
    loss_of([of_layer(record[0])]).backward()
    found = gradients_of(attention)
    weights = of_heads(attention, x, source).masked_fill(padding[:, None, None], -torch.inf).softmax(-1)
    loss_of([of_matrix(weights, torch.ones(2, 7, dtype=torch.bool), ~padding)]).backward()
    expected = gradients_of(attention)
    assert_same({name: found[name] for name in expected}, expected)


def test_the_encoder_of_torch() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x, padding = torch.randn(2, 9, 16), torch.zeros(2, 9, dtype=torch.bool)
    padding[0, 6:] = True
    real, causal = ~padding, nn.Transformer.generate_square_subsequent_mask(9)
    options = {"mask": causal, "src_key_padding_mask": padding.float().masked_fill(padding, -torch.inf)}
    with pellucid.watch(model, READOUTS, gradients=True) as record:
        output = model(x, **options)
        (output[real].square().mean() + loss_of([of_layer(layer) for layer in record.values()])).backward()
    found, inputs = gradients_of(model), []
    for one in model.layers:
        one.self_attn.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    output, matrices = model(x, **options), []
    for one, given in zip(model.layers, inputs, strict=True):
        scores = of_heads(one.self_attn, given, given).masked_fill(padding[:, None, None], -torch.inf) + causal
        matrices.append(of_matrix(scores.softmax(-1), real, real))
    (output[real].square().mean() + loss_of(matrices)).backward()
    assert_same(found, gradients_of(model))


# What the record is.


def test_without_being_asked_nothing_carries_a_gradient() -> None:
    model, given = large_llama()
    with pellucid.watch(model) as record:
        model(**given)
        model(**given)
    assert not any(layer.requires_grad for layer in record.values())
    assert len(record) == 8
    assert record.graph_bytes == 0


def test_the_record_is_of_the_last_call() -> None:
    model, given = large_llama()
    with pellucid.watch(model, [Entropy()], gradients=True, keep=True) as record:
        model(**given)
        first = record[0].entropy
        model.model.layers[1].forward = lambda hidden_states, **options: hidden_states  # its attention does not run
        model(**given)
        assert record.layers == [f"model.layers.{number}.self_attn" for number in (0, 2, 3)]
        assert record[0].entropy is not first
        model.model(**given)  # a part of the model: its modules' layers are replaced, and no others
        assert len(record) == 3
        sum(layer.entropy.nansum() for layer in record.values()).backward()
    assert record[0].calls == 1
    assert record[0].weights().requires_grad is False


def test_encoder_and_decoder_called_one_after_the_other() -> None:
    model, given = models.MODELS["t5"]()
    encoder, target = model.get_encoder(), given.pop("decoder_input_ids")
    with pellucid.watch(model, [Entropy()], gradients=True) as record:
        for _ in range(3):
            model(**given, decoder_input_ids=target, encoder_outputs=encoder(**given))
            assert len(record) == 6
            sum(layer.entropy.nansum() for layer in record.values()).backward()


def test_steps_with_a_cache_are_one_call() -> None:
    torch.manual_seed(0)
    model, given = large_llama()
    model.eval()
    expected, _ = trained_by_readings(model, {"input_ids": given["input_ids"]})
    names = {"entropy", "at", "topk", "received"}
    found = []
    for ends in ((13,), (7, 8, 13)):
        cache = transformers.DynamicCache(config=model.config)
        with pellucid.watch(model, READOUTS, gradients=True, keep=True) as record:
            for start, end in zip((0, *ends), ends, strict=False):
                model(given["input_ids"][:, start:end], **(caches.given(cache) if len(ends) > 1 else {}))
            assert len(record) == 4
            readings = [
                {name: reading for name, reading in of_layer_if_there(layer).items() if name in names}
                for layer in record.values()
            ]
            loss_of(readings).backward()
        found.append(gradients_of(model))
        if len(ends) > 1:
            assert not record[0].pooled.requires_grad
            assert "gradients: pooled of model.layers.0.self_attn, read from all its calls together" in record.notes[0]
    assert_same(found[1], found[0])
    assert expected


def of_layer_if_there(layer: Any) -> dict[str, Tensor]:
    found = layer.readings | {"topk": layer.topk.weights}
    return {readout.name: found[readout.name].nan_to_num() for readout in READOUTS if readout.name in found}


def test_memory_is_said_before_it_is_spent(capsys: pytest.CaptureFixture[str]) -> None:
    model, given = large_llama()
    events = []
    with pellucid.watch(model, [Entropy()], gradients=True, progress=events.append) as record:
        model(**given)
        model(**given)
    assert [(event.done, event.expected) for event in events] == [(n, 4) for n in (1, 2, 3, 4)] * 2
    rows = 2 * 4 * 13
    numbers = 2 * 13 * (4 + 2 + 2) * 8 + rows * 8  # query, key and value; the output
    assert events[0].graph_bytes == record.graph_bytes == 4 * (numbers * 4 + rows * 4 * 3)
    assert record.planned_bytes == 4 * rows * 4 * 2
    with pellucid.watch(model, [Entropy()], gradients=True, progress=True):
        model(**given)
    words = " ".join(capsys.readouterr().err.split())
    assert "Watching keeps about 3.3 kB, and 44.9 kB for gradients until backward." in words


def test_copies_and_files_are_without_gradients(tmp_path: Any) -> None:
    model, given = large_llama()
    with pellucid.watch(model, more=[TopK(3), Pooled(2, 2)], gradients=True, keep=True) as record:
        model(**given)
    assert all(layer.requires_grad for layer in record.values())
    opened = pellucid.open_record(record.save(tmp_path / "run.attn"), verify=True)
    for other in (copy.deepcopy(record), pickle.loads(pickle.dumps(record)), record.detached(), opened):
        for name, layer in record.items():
            assert not other[name].requires_grad
            torch.testing.assert_close(other[name].entropy, layer.entropy.detach(), equal_nan=True)
    rows = list(record.summary())
    assert rows == list(record.detached().summary())
    record.segments = {"start": slice(0, 3)}
    assert record.segment_mass(0) is not None
    record.to_headvis(tmp_path / "data")
    assert record[0].entropy.requires_grad


# What carries none.


def test_what_carries_no_gradient_is_refused(tmp_path: Any) -> None:
    model, given = large_llama()

    def watched(*readouts: Any, **options: Any) -> Any:
        return pellucid.watch(model, readouts or None, gradients=True, **options)

    for options in ({}, {"more": [PooledMax(2, 2)]}):
        readouts = () if options else (PooledMax(2, 2),)
        with pytest.raises(ValueError, match=r"^gradients: PooledMax \('pooled_max'\) is not differentiable"):
            watched(*readouts, **options).__enter__()
    with pytest.raises(ValueError, match=r"^gradients: a layer written to out leaves memory"):
        watched(out=tmp_path / "run.attn").__enter__()
    with pytest.raises(TypeError, match=r"^gradients: True or False is needed, got 1"):
        pellucid.watch(model, gradients=1).__enter__()  # type: ignore[arg-type]
    for mode in (torch.no_grad, torch.inference_mode):
        told = r"^gradients: model.layers.0.self_attn runs where torch computes none"
        with pytest.raises(RuntimeError, match=told), watched(), mode():
            model(**given)
    with pytest.raises(RuntimeError, match=r"^gradients: .* `generate`"), watched():
        model.generate(**given, max_new_tokens=2)
    model.train().gradient_checkpointing_enable({"use_reentrant": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match=r"^gradients: .* use_reentrant=True"), watched():
            model(**given)


def test_top_keys_have_no_gradient() -> None:
    model, given = large_llama()
    with pellucid.watch(model, [TopK(2)], gradients=True) as record:
        model(**given)
    assert record[0].topk.weights.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        record[0].topk.keys.float().sum().backward()


def test_frozen_models_are_told() -> None:
    model, given = large_llama()
    model.eval().requires_grad_(False)
    told = r"gradients: readings of model.layers.0.self_attn, .* carry none: nothing"
    with pytest.warns(UserWarning, match=told), pellucid.watch(model, [Entropy()], gradients=True):
        model(**given)
    model.model.layers[2].self_attn.q_proj.weight.requires_grad_()
    with pellucid.watch(model, [Entropy()], gradients=True) as record:
        model(**given)
    assert [layer.requires_grad for layer in record.values()] == [False, False, True, True]
    assert record.notes == [
        "gradients: readings of model.layers.0.self_attn, model.layers.1.self_attn carry none: nothing that their "
        "queries and keys are computed from needs one (requires_grad)"
    ]


def test_transforms_are_told() -> None:
    model, x = Direct(), torch.randn(3, 2, 7, 8)
    model.forward = model.attend  # type: ignore[method-assign]
    watched = pellucid.watch(model, [Entropy()], gradients=True)
    with pytest.raises(ValueError, match=r"gradients: it runs inside a transform of torch\.func"), watched:
        torch.func.vmap(model)(x)


def test_one_watch_with_and_one_without() -> None:
    model, given = large_llama()
    model.eval()
    for outer, inner in ((True, False), (False, True)):
        watched = (pellucid.watch(model, [Entropy()], gradients=own) for own in (outer, inner))
        with next(watched) as first, next(watched) as second:
            loss_of_output(model(**given), given).backward()
        assert first[0].requires_grad is outer
        assert second[0].requires_grad is inner
        assert gradients_of(model)


# Memory.


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@contextlib.contextmanager
def watched_outside(model: Any, outside: bool) -> Iterator[Any]:
    if not outside:
        yield lambda: pellucid.watch(model, [Entropy(), Received()], gradients=True)
        return
    with pellucid.watch(model, [Entropy(), Received()], gradients=True) as record:
        yield lambda: contextlib.nullcontext(record)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outside", "dropout"),
    thorough([(False, 0.0), (True, 0.2), (True, 0.0), (False, 0.2)], [(False, 0.0)], share=5),
)
def test_memory_stays_as_it_is(outside: bool, dropout: float) -> None:
    """Over 200 steps; the readings' graph of a step takes more than 150 kB."""
    torch.manual_seed(0)
    config = models.GROUPED | {"attention_dropout": dropout}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    sizes = []
    with watched_outside(model, outside) as watched:
        for step in range(200):
            with watched() as record:
                output = model(models.ids(48, 4))
                loss = output.logits.square().mean() + sum(layer.entropy.mean() for layer in record.values())
                (loss + record[0].received.square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 50 == 49:
                sizes.append(resident())
    assert record.graph_bytes > 150_000  # of which 100 steps would hold 15 MB
    assert sizes[-1] - sizes[1] < 10_000_000, sizes
