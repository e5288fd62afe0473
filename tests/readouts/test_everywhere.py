"""Whatever can be done with a readout can be done with every readout: on each engine, in graphs, in watched models."""

from __future__ import annotations

import copy
import pathlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import pellucid
from pellucid import nn, readouts
from pellucid.capture.run.going_back import taken_back
from pellucid.capture.run.recent import Recent
from pellucid.readouts import At, ColumnReadout, Readout
from pellucid.readouts.base import tensors_of
from pellucid.record.disk.layer_file import write_layer
from pellucid.record.studies.beams import Path, _through
from tests.cases import normal, running
from tests.readouts.examples import EXAMPLES, each, exported
from tests.watch import caches, models

Example = Callable[[int], Readout]
BATCH, HEADS, KV_HEADS, Q_LEN, K_LEN, DIM = 2, 6, 3, 7, 11, 8
EMPTY_ROW = torch.arange(K_LEN) > torch.arange(Q_LEN)[:, None]  # the last query may look at the fewest keys
EMPTY_ROW[3] = False
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal with sinks": {"is_causal": True, "sinks": normal(HEADS, seed=5)},
    "masked": {"attn_mask": EMPTY_ROW},
    "masked with sinks": {"attn_mask": EMPTY_ROW, "sinks": normal(HEADS, seed=6)},
}
calls = pytest.mark.parametrize("call", CALLS)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def inputs(dtype: torch.dtype, q_len: int = Q_LEN, k_len: int = K_LEN, seed: int = 0) -> tuple[Tensor, ...]:
    query = normal(BATCH, HEADS, q_len, DIM, dtype=dtype, seed=seed)
    key, value = (normal(BATCH, KV_HEADS, k_len, DIM, dtype=dtype, seed=seed + n) for n in (1, 2))
    return query, key, value


def read(readout: Readout, tensors: tuple[Tensor, ...], **call: Any) -> tuple[Tensor, ...]:
    call = {name: value.to(tensors[0].dtype) if name == "sinks" else value for name, value in call.items()}
    _, seen = pellucid.observe(*tensors, enable_gqa=True, readouts=[readout], **call)
    return tensors_of(seen[readout.name])


def assert_same(found: Any, expected: Any, dtype: torch.dtype = torch.float64) -> None:
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    for mine, its in pairs:
        torch.testing.assert_close(mine, its, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=True)


def test_every_file_of_a_readout_is_in_the_list() -> None:
    files = {file.stem for file in pathlib.Path(readouts.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert {kind.__module__.rpartition(".")[2] for kind in exported()} == files


def test_every_class_has_an_example() -> None:
    assert set(EXAMPLES) == set(exported())
    for kind, examples in EXAMPLES.items():
        assert examples
        assert {type(example(Q_LEN)) for example in examples} == {kind}


# Engines.


@pytest.mark.sampled
@each
@calls
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
def test_engines_agree(example: Example, call: str, dtype: torch.dtype) -> None:
    found = {}
    for engine in ("reference", "portable", "tiles", "cpu"):
        with running(engine, (2, 3)):
            found[engine] = read(example(Q_LEN), inputs(dtype), **CALLS[call])
    for engine in ("portable", "tiles", "cpu"):
        assert_same(found[engine], found["reference"], dtype)


@pytest.mark.sampled
@each
def test_one_query_over_many_keys(example: Example) -> None:
    for dtype in TOLERANCE:
        tensors = inputs(dtype, 1, 700)
        with running("reference"):
            expected = read(example(1), tensors)
        for engine in ("portable", "tiles", "cpu"):
            with running(engine, (1, 64)):
                assert_same(read(example(1), tensors), expected, dtype)


@pytest.mark.sampled
@each
def test_calls_like_an_earlier_one(example: Example) -> None:
    for seed in range(0, 9, 3):
        tensors = inputs(torch.float32, seed=seed)
        with running("reference"):
            expected = read(example(Q_LEN), tensors, is_causal=True)
        assert_same(read(example(Q_LEN), tensors, is_causal=True), expected, torch.float32)


@pytest.mark.sampled
@each
def test_a_call_without_heads(example: Example) -> None:
    for q_len in (1, Q_LEN):
        query, key, value = (tensor[0, 0] for tensor in inputs(torch.float64, q_len))
        readout = example(q_len)
        found = pellucid.observe(query, key, value, readouts=[readout])[1][readout.name]
        seen = pellucid.observe(query[None], key[None], value[None], readouts=[readout])[1][readout.name]
        assert_same(found, readout.map(seen, lambda tensor: tensor[0]) if readout.per_head else seen)


@pytest.mark.sampled
@each
def test_a_copy_reads_the_same(example: Example) -> None:
    readout, tensors = example(Q_LEN), inputs(torch.float64)
    for own in (copy.copy(readout), copy.deepcopy(readout), pickle.loads(pickle.dumps(readout))):
        assert_same(read(own, tensors, is_causal=True), read(readout, tensors, is_causal=True))


@pytest.mark.sampled
@each
def test_tensors_without_numbers_have_results_without(example: Example) -> None:
    readout, tensors = example(Q_LEN), inputs(torch.float32)
    wanted = read(readout, tensors)
    if isinstance(readout, At):
        readout = At(readout.expression.value.to("meta"), not readout.per_head)
    found = read(readout, tuple(tensor.to("meta") for tensor in tensors), is_causal=True)
    assert [(t.shape, t.dtype, t.device.type) for t in found] == [(t.shape, t.dtype, "meta") for t in wanted]


@pytest.mark.sampled
@each
def test_mapped_by_vmap(example: Example) -> None:
    readout = example(Q_LEN)

    def mapped(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tensors_of(pellucid.observe(*tensors, enable_gqa=True, readouts=[readout])[1][readout.name])

    assert_same(torch.vmap(mapped)(*inputs(torch.float64)), read(readout, inputs(torch.float64)))


@pytest.mark.sampled
@each
@calls
def test_gradients_are_those_of_the_definition(example: Example, call: str) -> None:
    readout, found = example(Q_LEN), []
    for engine in ("reference", "tiles"):
        leaves = [tensor.requires_grad_() for tensor in inputs(torch.float64)[:2]]
        arguments = dict(CALLS[call])
        if "sinks" in arguments:
            arguments["sinks"] = arguments["sinks"].clone().requires_grad_()
            leaves.append(arguments["sinks"])
        with running(engine, (2, 3)):
            results = read(readout, (*leaves[:2], inputs(torch.float64)[2]), **arguments)
            assert [t.requires_grad for t in results] == [
                readout.differentiable and t.is_floating_point() for t in results
            ]
            if not readout.differentiable:
                return
            result = results[0]
            upstream = normal(*result.shape, seed=7) * result.isfinite()
            loss = (result.masked_fill(~result.isfinite(), 0.0) * upstream).sum()
            found.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    for mine, its in zip(*found, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-11)


# Graphs.


@pytest.mark.sampled
@each
def test_in_a_graph(example: Example) -> None:
    def observed(*tensors: Tensor) -> tuple[Tensor, ...]:
        return read(example(Q_LEN), tensors, is_causal=True)

    torch._dynamo.reset()
    compiled = torch.compile(observed, fullgraph=True, backend="aot_eager")
    for seed in (0, 3):
        tensors = inputs(torch.float64, seed=seed)
        assert_same(compiled(*tensors), observed(*tensors))
    if example(Q_LEN).differentiable:
        gradients = []
        for function in (compiled, observed):
            query, key, value = inputs(torch.float64)
            query.requires_grad_()
            result = function(query, key, value)[0]
            gradients += torch.autograd.grad(result.square().sum(), query)
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


# Modules with a cache, and watched models.


@pytest.mark.sampled
@each
def test_steps_with_a_cache(example: Example) -> None:
    torch.manual_seed(0)
    layer, x = nn.SelfAttention(24, 6, kv_heads=3, is_causal=True), torch.randn(2, 9, 24)
    readout = example(9)
    if isinstance(readout, ColumnReadout):
        pytest.skip("sums over the queries of a call")
    whole = layer(x, observe=[readout])[1][readout.name]
    cache = nn.KeyValueCache()
    parts = [layer(x[:, part], cache=cache, observe=[readout])[1][readout.name] for part in (slice(6), slice(6, 9))]
    if readout.name == "topk":
        assert_same(parts[1].weights, whole.weights[..., 6:, :], torch.float32)
    else:
        assert_same(readout.joined(*parts, 9), whole, torch.float32)


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**models.GROUPED)
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def passed(model: Any, readout: Readout, given: dict[str, Tensor], ends: tuple[int, ...], **options: Any) -> Any:
    """The record of a text in calls that end at these tokens, which share a cache."""
    cache = transformers.DynamicCache(config=model.config) if len(ends) > 1 else None
    with pellucid.watch(model, readouts=[readout], keep=True, **options) as record:
        for start, end in zip((0, *ends), ends, strict=False):
            own = {"input_ids": given["input_ids"][:, start:end], "attention_mask": given["attention_mask"][:, :end]}
            model(**own, **(caches.given(cache) if cache is not None else {}))
    return record


PADDED = {
    "none": lambda: {"input_ids": models.ids(), "attention_mask": torch.ones(models.BATCH, models.LENGTH).long()},
    "left": models.left_padded,
    "right": models.right_padded,
}


@pytest.mark.sampled
@each
@pytest.mark.parametrize("padding", PADDED)
def test_a_watched_model(example: Example, padding: str) -> None:
    """A pass gives what `observe` gives of the layer's query and key; steps give what a pass gives."""
    model, given, readout = llama(), PADDED[padding](), example(models.LENGTH)
    record = passed(model, readout, given, (models.LENGTH,))
    steps = passed(model, readout, given, (7, 8, models.LENGTH))
    for layer, stepped in zip(record.values(), steps.values(), strict=True):
        whole = direct(readout, layer)
        if isinstance(readout, ColumnReadout) and not readout.adds_up and len(stepped.parts) > 1:
            assert readout.name not in stepped
            continue
        # A row of padding is blank in one pass and in steps, and the others are the same.
        assert_same(stepped.readings[readout.name], layer.readings[readout.name], torch.float32)
        if isinstance(readout, ColumnReadout) and padding != "none":
            continue
        for found, its in zip(tensors_of(layer.readings[readout.name]), tensors_of(whole), strict=True):
            real = ~(found.isnan() if found.is_floating_point() else found < 0)
            if padding == "none" or readout.is_lse:
                assert real.all() or readout.name == "topk"
            torch.testing.assert_close(found[real], its[real], rtol=2e-5, atol=2e-5)


def direct(readout: Readout, layer: Any) -> Any:
    """What `observe` reads of a causal layer's own query and key, padding as the layer has it."""
    padded = layer.padding.keys
    masked = None if padded is None else lambda b, h, q, k: ~padded[b, k]
    return pellucid.observe(
        layer.query, layer.key, layer.key, is_causal=True, enable_gqa=True, scale=layer.scale, readouts=[readout],
        mask_mod=masked,
    )[1][readout.name]  # fmt: skip


@pytest.mark.sampled
@each
def test_some_heads_of_a_watched_model(example: Example) -> None:
    model, readout = llama(), example(models.LENGTH)
    every, some = (
        passed(model, readout, PADDED["none"](), (models.LENGTH,), **options) for options in ({}, {"heads": [2, 0]})
    )
    for layer, chosen in zip(every.values(), some.values(), strict=True):
        expected = readout.of_heads(layer.readings[readout.name], torch.tensor([2, 0]))
        assert_same(chosen.readings[readout.name], expected, torch.float32)


@pytest.mark.sampled
@each
def test_rows_taken_back_and_rows_of_beams(example: Example) -> None:
    readout = example(models.LENGTH)
    if isinstance(readout, ColumnReadout):
        pytest.skip("a sum over queries has no rows")
    layer = passed(llama(), readout, PADDED["none"](), (models.LENGTH,))[0]
    cut, followed = taken_back(layer, 9, Recent(), {}), _through(layer, Path(torch.tensor([[1] * 9, [0] * 9]), 0))
    rows = 2 if readout.per_head else 1
    for whole, mine, its in zip(
        *(tensors_of(one.readings[readout.name]) for one in (layer, cut, followed)), strict=True
    ):
        assert_same(mine, whole.narrow(rows, 0, 9))
        assert_same(its, whole.narrow(rows, 0, 9).flip(0))


@pytest.mark.sampled
@each
def test_a_record_on_disk(example: Example, tmp_path: Any) -> None:
    readout = example(models.LENGTH)
    record = passed(llama(), readout, PADDED["left"](), (models.LENGTH,))
    opened = pellucid.open_record(record.save(tmp_path / "run.attn"), verify=True)
    for name, layer in record.items():
        found, expected = opened[name].readings[readout.name], layer.readings[readout.name]
        assert_same(found, expected, torch.float32)
        assert opened[name].over_heads == layer.over_heads == ([] if readout.per_head else [readout.name])
        if readout.name == "at" and not readout.per_head:
            assert_a_wrong_size_is_seen(layer, readout.name, tmp_path)
        cut = taken_back(opened[name], 9, Recent(), {readout.name: readout} if readout.name in layer.sums else {})
        assert cut.q_len == 9
    assert opened.readouts == record.readouts == [record.readouts[0]]
    assert record.readouts[0].split(" ")[0] == readout.name


def assert_a_wrong_size_is_seen(layer: Any, name: str, folder: Any) -> None:
    wrong = replace(layer, readings=layer.readings | {name: layer.readings[name][:, :5]})
    with pytest.raises(ValueError, match=rf"reading/{name}: a tensor is \[2, 5, 4\] where"):
        write_layer(folder, "wrong.safetensors", wrong)


@pytest.mark.sampled
@each
def test_a_record_for_others(example: Example, tmp_path: Any) -> None:
    """The summary has a row a head, and NaN for what it would need other readouts for; tables have the same."""
    parquet = pytest.importorskip("pyarrow.parquet")
    readout = example(models.LENGTH)
    record = passed(llama(), readout, PADDED["right"](), (models.LENGTH,))
    rows = list(record.summary())
    assert len(rows) == 2 * 4
    files = record.to_parquet(tmp_path / "heads.parquet")
    assert len(files) == 1 + (readout.name == "topk")
    assert parquet.read_table(files[0]).num_rows == len(rows)
    more = list(summarised(readout).summary())
    plain = list(summarised().summary())
    for row, expected in zip(more, plain, strict=True):
        assert row.kind == expected.kind
        assert row.entropy == pytest.approx(expected.entropy, abs=1e-6)


def summarised(*more: Readout) -> Any:
    """The record of what the summary needs, and of readouts beside that where they do not read the same otherwise."""
    own = {"lse", "entropy", "received"}
    model = llama()
    with pellucid.watch(model, more=[readout for readout in more if readout.name not in own]) as record:
        model(**PADDED["right"]())
    return record
