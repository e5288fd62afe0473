"""Watching a model that lies on several ranks: what each has, and the record of all in memory and on disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import pellucid
from pellucid.nn import SelfAttention
from pellucid.record.disk.manifest import RecordError
from pellucid.record.sharing import saving
from pellucid.record.sharing.ranks import Ranks
from tests.distributed.ranks import Ranks as SomeRanks
from tests.distributed.ranks import group, mesh, some
from tests.distributed.test_models import close, sharded

MORE = (pellucid.TopK(2), pellucid.Pooled(3, 3), pellucid.MaxScore(per_head=True))
SUMMED = pellucid.At(torch.arange(7)[:, None], sum_heads=True)  # of all heads together


class Model(nn.Module):
    """Some layers of attention, one after another, as those of a language model."""

    def __init__(self, layers: int = 3, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        options = {"kv_heads": 2, "head_dim": 4, "rotary": 100.0, "is_causal": True} | options
        self.layers = nn.ModuleList(SelfAttention(12, 4, **options) for _ in range(layers))
        self.slopes = torch.rand(4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, score_mod=lambda s, b, h, i, j: s + self.slopes[h] * (j - i))
        return x


def tokens(batch: int = 3, length: int = 7) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, length, 12)


def by_heads(count: int) -> Any:
    model = Model()
    for layer in model.layers:
        sharded(layer, count, kv=count <= 2)  # of two key heads
    return model


def same(found: Any, expected: Any) -> None:
    """That two records say the same, but for what is not of all ranks."""
    assert found.layers == expected.layers
    for name, layer in found.items():
        other = expected[name]
        for size in ("role", "batch", "heads", "head_numbers", "q_len", "k_len", "calls", "call_rows"):
            assert getattr(layer, size) == getattr(other, size), size
        assert layer.readings.keys() == other.readings.keys()
        for reading, value in layer.readings.items():
            parts = [(value, other.readings[reading])]
            if not isinstance(value, Tensor):
                parts = list(zip(value, other.readings[reading], strict=True))
            for one, two in parts:
                torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5, equal_nan=True, msg=f"{name} {reading}")
        assert layer.has_weights == other.has_weights
        if layer.has_weights:
            close(layer.weights(), other.weights(), 1e-5)


def watched(model: nn.Module, x: Tensor, **options: Any) -> Any:
    options = {"more": MORE} | options
    with torch.no_grad(), pellucid.watch(model, keep=True, **options) as record:
        model(x)
    return record


def heads(count: int) -> None:
    x = tokens()
    more = (*MORE, SUMMED)
    expected = watched(Model(), x, more=more)
    record = watched(by_heads(count), x, more=more, ranks={"heads": mesh(count)})
    rank = dist.get_rank()
    own = list(range(4))[rank * 4 // count : (rank + 1) * 4 // count]
    assert all(layer.head_numbers == own for layer in record.values())
    close(record[1].entropy, expected[1].entropy[:, own])
    same(record.gather(), expected)
    to_one = record.gather(to=1)
    assert (to_one is not None) == (rank == 1)
    if to_one is not None:
        same(to_one, expected)
    chosen = watched(by_heads(count), x, ranks={"heads": mesh(count)}, heads=[0, 1])
    assert chosen.layers == (expected.layers if own[0] < 2 else [])
    same(chosen.gather(), watched(Model(), x, heads=[0, 1]))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_heads_of_ranks_are_the_record(ranks: SomeRanks, count: int) -> None:
    ranks.run(heads, count, ranks=count)


def sequences(count: int) -> None:
    x = tokens(5)
    rank = dist.get_rank()
    own = x.chunk(count)[rank]
    words = [[f"{number}.{place}" for place in range(7)] for number in range(5)]
    mine = words[rank * 2 :][: len(own)]
    options: dict[str, Any] = {"segments": {"first": slice(0, 2)}}
    expected = watched(Model(), x, tokens=words, **options)
    for model in (DistributedDataParallel(Model(), process_group=group(count)), fully_shard(Model(), mesh=mesh(count))):
        record = watched(model, own, tokens=mine, ranks={"sequences": group(count)}, **options).gather()
        assert record.tokens == words
        assert record.segments == expected.segments
        assert [name.removeprefix("module.") for name in record.layers] == expected.layers
        for name, layer in record.items():
            other = expected[name.removeprefix("module.")]
            assert layer.batch == 5
            close(layer.received, other.received)
            close(layer.head_max_scores, other.head_max_scores)
            close(layer.weights(), other.weights(), 1e-5)


def test_sequences_of_ranks_are_the_record(ranks: SomeRanks) -> None:
    ranks.run(sequences, 3, ranks=3)


def lengths(count: int) -> None:
    """Ranks whose sequences are of other lengths: what a shorter one lacks is padding."""
    rank = dist.get_rank()
    texts = [tokens(2, length) for length in (5, 8, 3)]
    record = watched(Model(), texts[rank], ranks={"sequences": group(count)}).gather()
    for number, text in enumerate(texts):
        length = text.shape[1]
        for name, expected in watched(Model(), text).items():
            layer = record[name]
            rows = slice(2 * number, 2 * number + 2)
            assert layer.padding.queries is not None
            assert layer.padding.queries[rows].sum(1).tolist() == [8 - length] * 2
            close(layer.entropy[rows, :, :length], expected.entropy)
            assert bool(layer.entropy[rows, :, length:].isnan().all())
            assert torch.equal(layer.topk.keys[rows, :, :length], expected.topk.keys)
            close(layer.weights()[rows, :, :length, :length], expected.weights())
            assert not bool(layer.weights()[rows, :, length:].any())
            assert "pooled" not in layer
    assert any("pooled" in note for note in record.notes)


def test_sequences_of_other_lengths(ranks: SomeRanks) -> None:
    ranks.run(lengths, 3, ranks=3)


def in_two_ways(folder: Path) -> None:
    """Heads and sequences on a mesh of two dimensions, written by all and opened again."""
    x = tokens(4)
    across = mesh(2, 2)
    rows, columns = across.get_group(0), across.get_group(1)
    model = Model()
    for layer in model.layers:
        plan = _plan(layer, columns)
        assert plan is layer
    own = x.chunk(2)[dist.get_rank(rows)]
    record = watched(model, own, ranks={"heads": columns, "sequences": rows})
    expected = watched(Model(), x)
    same(record.gather(), expected)
    path = record.save(folder / "run.attn")
    opened = pellucid.open_record(path, verify=True)
    same(opened, expected)
    assert opened.complete


def _plan(layer: Any, columns: Any) -> Any:
    names = ("query", "key", "value")
    plan: Any = {f"{name}_projection": ColwiseParallel() for name in names} | {"output_projection": RowwiseParallel()}
    return parallelize_module(layer, DeviceMesh.from_group(columns, "cpu"), plan)


def test_heads_and_sequences_in_one_record(ranks: SomeRanks, tmp_path: Path) -> None:
    ranks.run(in_two_ways, tmp_path)


class Stage(nn.Module):
    """Some layers of a model, under their numbers in it."""

    def __init__(self, model: Model, numbers: range) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): model.layers[number] for number in numbers})
        self.slopes = model.slopes

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = x + layer(x, score_mod=lambda s, b, h, i, j: s + self.slopes[h] * (j - i))
        return x


def stages(folder: Path) -> None:
    x, rank = tokens(), dist.get_rank()
    model = Model()
    own = Stage(model, range(2) if not rank else range(2, 3))
    if rank:
        x = Stage(model, range(2))(x).detach()
    record = watched(own, x, ranks={"layers": group(2)})
    expected = watched(Model(), tokens())
    same(record.gather(), expected)
    same(pellucid.open_record(record.save(folder / "run.attn")), expected)


def test_layers_of_ranks_are_the_record(ranks: SomeRanks, tmp_path: Path) -> None:
    ranks.run(stages, tmp_path, ranks=2)


def again(folder: Path) -> None:
    record = watched(by_heads(2), tokens(), ranks={"heads": mesh(2)})
    record.save(folder / "run.attn")
    with pytest.raises(RecordError, match="holds a record already"):
        record.save(folder / "run.attn")
    record.save(folder / "run.attn", overwrite=True)
    record.save(folder / "run.attn", resume=True)
    other = watched(by_heads(2), tokens(2), ranks={"heads": mesh(2)})
    with pytest.raises(RecordError, match="of another run"):
        other.save(folder / "run.attn", resume=True)
    same(pellucid.open_record(folder / "run.attn", verify=True), watched(Model(), tokens()))


def test_no_rank_overwrites_another(ranks: SomeRanks, tmp_path: Path) -> None:
    ranks.run(again, tmp_path, ranks=2)


def full_disk(folder: Path) -> None:
    record = watched(by_heads(2), tokens(), ranks={"heads": mesh(2)})
    with pytest.MonkeyPatch.context() as patched:
        if dist.get_rank() == 1:
            patched.setattr(saving, "write_layer", _no_space)
        record.save(folder / "run.attn")


def _no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_on_every_rank(ranks: SomeRanks, tmp_path: Path) -> None:
    for outcome in ranks.outcomes(full_disk, tmp_path, ranks=2):
        assert outcome.kind == "RecordError"
        assert "no space left on device while writing layer layers.1" in outcome.text
    assert pellucid.open_record(tmp_path / "run.attn").layers == []


def test_a_rank_that_dies_leaves_a_record_that_is_gone_on_with(ranks: SomeRanks, tmp_path: Path) -> None:
    with some(2, patience=20) as mortal:
        alive, dead = mortal.outcomes(dying_of_five, tmp_path)
    assert alive.kind == "LostRankError"
    assert dead.kind == "Died"
    record = pellucid.open_record(tmp_path / "run.attn", verify=True)
    assert record.layers == ["layers.0", "layers.1"]
    assert not record.complete
    ranks.run(gone_on_with, tmp_path, ranks=2)
    record = pellucid.open_record(tmp_path / "run.attn", verify=True)
    assert record.complete
    same(record, watched(Model(layers=5), tokens()))


def of_five() -> Any:
    model = Model(layers=5)
    for layer in model.layers:
        sharded(layer, 2)
    return watched(model, tokens(), ranks={"heads": mesh(2)})


def dying_of_five(folder: Path) -> None:
    record = of_five()
    if dist.get_rank() == 1:
        before, written = saving.write_layer, []

        def write(*arguments: Any) -> Any:
            written.append(arguments[1])
            return before(*arguments) if len(written) == 1 else os._exit(1)

        saving.write_layer = write
    record.save(folder / "run.attn")


def gone_on_with(folder: Path) -> None:
    of_five().save(folder / "run.attn", resume=True)


class Declared(nn.Module):
    """Attention by torch's function of fewer heads than it declares."""

    def __init__(self, declared: int | None) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_attention_heads=declared)

    def forward(self, query: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, query, query)


def undeclared() -> None:
    torch.manual_seed(0)
    rank = dist.get_rank()
    every = torch.randn(1, 5, 7, 4)
    own = every[:, :3] if not rank else every[:, 3:]
    with pytest.raises(RuntimeError, match=r"has \d of 5 heads on this rank; say which ranks have its other heads"):
        watched(Declared(5), own)
    assert watched(Declared(5), own, ranks={})[0].head_numbers == list(range(own.shape[1]))
    for heads in (None, 3):  # who divides heads by hand sets a module's own number
        model = torch.nn.Sequential(Declared(None))
        model[0].num_heads = heads
        record = watched(model, own, ranks={"heads": group(2)})
        assert record[0].head_numbers == ([0, 1, 2] if not rank else [3, 4])
    expected = watched(Declared(5), every)
    for model in (Declared(5), Declared(None)):
        record = watched(model, own, ranks={"heads": group(2)})
        assert record[0].head_numbers == ([0, 1, 2] if not rank else [3, 4])
        same(record.gather(), expected)
    same(watched(Declared(None), every, ranks={"heads": group(2)}).gather(), expected)  # each has computed them all
    with pytest.raises(RuntimeError, match=r"of the 5 heads of Declared rank \d of 2 has \d, and the call has 1"):
        watched(Declared(5), every[:, :1], ranks={"heads": group(2)})
    with pytest.raises(ValueError, match="gather: the ranks are not known"):
        watched(Declared(5), every).gather()


def test_which_heads_a_rank_has_is_known_or_asked(ranks: SomeRanks) -> None:
    ranks.run(undeclared, ranks=2)


class Along(nn.Module):
    """Causal attention of DTensors, of which the second sequence has padding."""

    def forward(self, query: Any) -> Any:
        mask = torch.ones(4, 1, 1, 9, dtype=torch.bool)
        mask[1, :, :, 7:] = False
        return pellucid.attention(query, query, query, mask, is_causal=True)


def along(dim: int) -> None:
    """Calls of DTensors are read as the rank's part of them: sequences, heads or queries."""
    every = torch.randn(4, 6, 9, 4)
    expected = watched(Along(), every, more=())[0]
    model = Along()
    with torch.no_grad(), pellucid.watch(model, keep=True) as record:
        output = model(distribute_tensor(every, mesh(2), [Shard(dim)]))
    close(output, Along()(every))
    own = [slice(None)] * 3
    half = -(-every.shape[dim] // 2)
    own[dim] = slice(0, half) if not dist.get_rank() else slice(half, None)
    layer = record[0]
    assert layer.role == expected.role
    assert layer.start == (5 if dim == 2 and dist.get_rank() else 0)
    assert layer.head_numbers == list(range(6))[own[1]]
    for name in ("entropy", "beyond_first_distance"):
        reading, other = getattr(layer, name), getattr(expected, name)[tuple(own)]
        assert torch.equal(reading.isnan(), other.isnan())
        close(reading.nan_to_num(), other.nan_to_num(), 1e-5)
    close(layer.weights(), expected.weights()[tuple(own)])
    if dim == 2:
        record.ranks = Ranks({"heads": group(2)})
        with pytest.raises(ValueError, match=r"has \w+ \d on one rank and \d on another, which divide heads"):
            record.gather()
        record.ranks = Ranks({"positions": mesh(2)})
        same(record.gather(), watched(Along(), every, more=()))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_calls_of_dtensors_are_read_in_part(ranks: SomeRanks, dim: int) -> None:
    ranks.run(along, dim, ranks=2)


def across() -> None:
    """Heads of some ranks and positions of others, sums over queries too, in one record."""
    every, lies = torch.randn(4, 6, 9, 4), mesh(2, 2)
    model, more = Along(), (pellucid.Pooled(3, 3), pellucid.PooledMax(2, 4))
    expected = watched(model, every, more=more)
    ranks = {"heads": lies.get_group(0), "positions": lies.get_group(1)}
    record = watched(model, distribute_tensor(every, lies, [Shard(1), Shard(2)]), more=more, ranks=ranks)
    assert record[0].q_len < 9
    assert record[0].heads == 3
    close(record[0].received.nan_to_num(), expected[0].received[:, record[0].head_numbers].nan_to_num(), 1e-5)
    same(record.gather(), expected)


def test_heads_and_positions_in_one_record(ranks: SomeRanks) -> None:
    ranks.run(across)


class Fused(nn.Module):
    """Attention whose query, key and value one projection makes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_qkv = nn.Linear(12, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.to_qkv(x).unflatten(-1, (-1, 3, 4)).movedim(-2, 0).transpose(-3, -2)
        return nn.functional.scaled_dot_product_attention(query, key, value)


def fused() -> None:
    """Of weights that do not say which heads they make, the ranks are asked for; also where all heads are gathered."""
    x, rank = tokens(), dist.get_rank()
    expected = watched(Fused(), x)
    for layout, own in ((None, [[0, 1], [2, 3]][rank]), (Replicate(), [0, 1, 2, 3])):
        plan = {"to_qkv": ColwiseParallel(output_layouts=layout)}
        model = parallelize_module(Fused(), mesh(2), plan)
        with pytest.raises(RuntimeError, match="the weights of Fused lie on several ranks; say which ranks have"):
            watched(model, x)
        record = watched(model, x, ranks={"heads": group(2)})
        assert record[0].head_numbers == own
        same(record.gather(), expected)


def test_heads_of_fused_projections_are_asked_for(ranks: SomeRanks) -> None:
    ranks.run(fused, ranks=2)


def faulty(folder: Path) -> None:
    every = torch.randn(1, 4, 7, 4)
    rank = dist.get_rank()
    with pytest.raises(ValueError, match="each another lse, so they do not divide heads"):
        watched(Declared(4), every + rank * torch.randn(1, 4, 7, 4), ranks={"heads": group(2)}).gather()
    record = watched(Declared(4), every, ranks={"sequences": group(2)})
    record[0].scale = 1.0 + rank
    for asked in (record.gather, lambda: record.gather(to=0), lambda: record.save(folder / "run.attn")):
        with pytest.raises(ValueError, match=r"has scale 1\.0 on one rank and 2\.0 on another"):
            asked()
    with pytest.raises(ValueError, match="to: rank 7 is none of those"):
        record.gather(to=7)
    with pytest.raises(ValueError, match="one of positions, heads, sequences, layers, got 'head'"):
        watched(Declared(4), every, ranks={"head": group(2)})
    with pytest.raises(TypeError, match="heads needs a mesh of one dimension"):
        watched(Declared(4), every, ranks={"heads": mesh(2, 2)})


def test_parts_that_do_not_fit_are_refused_on_every_rank(ranks: SomeRanks, tmp_path: Path) -> None:
    ranks.run(faulty, tmp_path, ranks=2)


def streamed(folder: Path, resume: bool) -> None:
    x, rank = tokens(4), dist.get_rank()
    for axis, path in (("heads", folder / "heads.attn"), ("sequences", folder / "sequences.attn")):
        model, own = (by_heads(2), x) if axis == "heads" else (Model(), x.chunk(2)[rank])
        record = watched(model, own, ranks={axis: group(2)}, out=path, resume=resume)
        expected = watched(Model(), x)
        same(record, expected)
        same(record.gather(), expected)
        opened = pellucid.open_record(path, verify=True)
        same(opened, expected)
        assert opened.complete


def interrupted(folder: Path) -> None:
    """One rank stops after two layers; the other waits for it in vain, or in the model."""
    model = by_heads(2)
    if dist.get_rank() == 1:
        model.layers[2].register_forward_pre_hook(lambda *_: os._exit(1))
    watched(model, tokens(4), ranks={"heads": group(2)}, out=folder / "heads.attn")


def test_written_as_it_goes(ranks: SomeRanks, tmp_path: Path) -> None:
    ranks.run(streamed, tmp_path, False, ranks=2)


@pytest.mark.thorough
def test_a_rank_that_dies_leaves_what_was_written_as_it_went(ranks: SomeRanks, tmp_path: Path) -> None:
    with some(2, patience=20) as mortal:
        alive, dead = mortal.outcomes(interrupted, tmp_path)
    assert alive.kind
    assert dead.kind == "Died"
    record = pellucid.open_record(tmp_path / "heads.attn", verify=True)
    assert record.layers == ["layers.0", "layers.1"]
    assert not record.complete
    ranks.run(streamed, tmp_path, True, ranks=2)
