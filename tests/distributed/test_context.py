"""Models inside `context_parallel`, plain, accelerated and watched: the numbers and the record of one process."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import pellucid
from pellucid.distributed import context_parallel, cut, join
from pellucid.nn import CrossAttention, KeyValueCache, SelfAttention
from tests.distributed.ranks import Ranks, group, mesh
from tests.distributed.test_models import close, of_kind
from tests.distributed.test_records import MORE, same

LENGTH = 13
SOME = pellucid.Received(slice(2, 9, 3))  # of some queries
SOME.name = "some"
AT = pellucid.At(torch.arange(LENGTH)[:, None], sum_heads=True)
MORE_READOUTS = (*MORE, pellucid.PooledMax(3, 2), pellucid.Renyi(2), SOME, AT)


class Words(nn.Module):
    """A small language model of Pellucid's layers."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(19, 12)
        self.layers = nn.ModuleList(
            SelfAttention(12, 4, kv_heads=2, head_dim=4, rotary=100.0, is_causal=True) for _ in range(layers)
        )
        self.slopes = torch.rand(4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = x + layer(x, score_mod=lambda s, b, h, i, j: s + self.slopes[h] * (j - i))
        return x


def words(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(19, (batch, length), generator=torch.Generator().manual_seed(3))


def watched(model: nn.Module, ids: Tensor, **options: Any) -> tuple[Tensor, Any]:
    with torch.no_grad(), pellucid.watch(model, keep=True, **({"more": MORE_READOUTS} | options)) as record:
        output = model(ids)
    return output, record


def of_ranks(ranks: int, layout: Any, folder: Path) -> None:
    ids, model = words(), Words()
    output, expected = watched(model, ids)
    own = ids.clone()
    with context_parallel(mesh(ranks), buffers=[own], buffer_seq_dims=[1], layout=layout):
        found, record = watched(model, own, ranks={"positions": mesh(ranks)})
    close(join(found, 1, layout, group(ranks)), output, 1e-5)
    size = -(-LENGTH // ranks)
    rows = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    for name, layer in record.items():
        assert layer.start == rows.start
        close(layer.entropy, expected[name].entropy[:, :, rows], 1e-5)
        close(layer.received, expected[name].received, 1e-5)
        close(layer.weights(), expected[name].weights()[:, :, rows], 1e-5)
    assert torch.equal(record.token_ids, ids)
    whole = record.gather()
    same(whole, expected)
    assert str(whole.summary()) == str(expected.summary())
    assert [len(layer.parts) for layer in whole.values()] == [1, 1]
    path = record.save(folder / "run.attn")
    same(pellucid.open_record(path, verify=True), expected)


@pytest.mark.parametrize("layout", ["head_tail", "contiguous"])
def test_a_watched_model_is_recorded(ranks: Ranks, layout: str, tmp_path: Path) -> None:
    ranks.run(of_ranks, 3 if layout == "head_tail" else 2, layout, tmp_path, ranks=3 if layout == "head_tail" else 2)


class Padded(nn.Module):
    """Attention by torch's function with a mask of all positions, of which the second sequence has padding."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(layers))
        mask = torch.ones(2, 1, 1, LENGTH, dtype=torch.bool)
        mask[1, :, :, 9:] = False
        self.mask = mask

    def forward(self, query: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, query, query, self.mask)


def padded(ranks: int) -> None:
    """Rows and keys of padding, also in maps over bins; a second pass is a layer of its own; a rank without rows."""
    every, model = torch.randn(2, 4, LENGTH, 4), Padded()
    short = torch.randn(2, 4, 2, 4)
    with torch.no_grad(), pellucid.watch(model, more=MORE_READOUTS, keep=True) as expected:
        outputs = [model(every), model(every * 2)]
    options: Any = {"keep": True, "ranks": {"positions": mesh(ranks)}}
    with torch.no_grad(), pellucid.watch(model, more=MORE_READOUTS, **options) as record, context_parallel(mesh(ranks)):
        found = [model(cut(x, 2, "head_tail", group(ranks))) for x in (every, every * 2)]
    for one, two in zip(found, outputs, strict=True):
        close(join(one, 2, "head_tail", group(ranks)), two, 1e-5)
    assert record.layers == expected.layers
    whole = record.gather()
    same(whole, expected)
    for name, layer in whole.items():
        assert torch.equal(layer.padding.queries, expected[name].padding.queries)
        assert torch.equal(layer.padding.keys, expected[name].padding.keys)
    model.mask = None
    in_order = context_parallel(mesh(ranks), layout="contiguous")
    with torch.no_grad(), pellucid.watch(model, **options) as record, in_order:
        model(cut(short, 2, "contiguous", group(ranks)))
    same(record.gather(), watched(model, short, more=())[1])


def test_padding_and_passes(ranks: Ranks) -> None:
    ranks.run(padded, 3, ranks=3)


def of_transformers(kind: str, ranks: int) -> None:
    """With caches or without, of positions that jump; packed texts and windows shorter than a text but not a part."""
    model, ids = of_kind(kind), torch.randint(3, 29, (2, 14))
    packed = torch.cat([torch.arange(5), torch.arange(9)]).expand(2, -1)
    for places in (torch.arange(14).expand(2, -1), packed):
        output, expected = _of(model, ids, places)
        for accelerated in (False, True):
            if accelerated:
                pellucid.accelerate(model)
            buffers = [ids.clone(), places.clone()]
            with context_parallel(mesh(ranks), buffers=buffers, buffer_seq_dims=[1, 1]):
                if accelerated:
                    with torch.no_grad():
                        found = model(buffers[0], position_ids=buffers[1], use_cache=False).logits
                else:
                    found, record = _of(model, *buffers, ranks={"positions": mesh(ranks)})
            close(join(found, 1, "head_tail", group(ranks)), output, 1e-5)
        pellucid.restore(model)
        same(record.gather(), expected)


def _of(model: Any, ids: Tensor, places: Tensor, **options: Any) -> tuple[Tensor, Any]:
    with torch.no_grad(), pellucid.watch(model, keep=True, **options) as record:
        output = model(ids, position_ids=places, use_cache=False).logits
    return output, record


@pytest.mark.parametrize("kind", ["Qwen2"])
def test_models_of_transformers(ranks: Ranks, kind: str) -> None:
    pytest.importorskip("transformers")
    ranks.run(of_transformers, kind, 2, ranks=2)


class Translating(nn.Module):
    """Attention to itself, and then to another sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.own, self.cross = SelfAttention(12, 4, is_causal=True), CrossAttention(12, 4, context_dim=6)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        output: Tensor = self.cross(x + self.own(x), context)
        return output


def translating(ranks: int) -> None:
    model, x, context = Translating(), torch.randn(2, LENGTH, 12), torch.randn(2, 17, 6)
    with torch.no_grad(), pellucid.watch(model, keep=True, heads=[1, 3]) as expected:
        output = model(x, context)
    own = [x.clone(), context.clone()]
    options: Any = {"keep": True, "heads": [1, 3], "ranks": {"positions": mesh(ranks)}}
    with torch.no_grad(), context_parallel(mesh(ranks), buffers=own, buffer_seq_dims=[1, 1]):
        with pellucid.watch(model, **options) as record:
            found = model(*own)
        close(join(found, 1, "head_tail", group(ranks)), output, 1e-5)
        cache = KeyValueCache()
        close(model.own(own[0], cache=cache), model.own(own[0]))
        with pytest.raises(ValueError, match="cache: inside context_parallel"):
            model.own(own[0], cache=cache)
    same(record.gather(), expected)


def test_cross_attention(ranks: Ranks) -> None:
    ranks.run(translating, 3, ranks=3)


def windowed(ranks: int) -> None:
    """A window shorter than the text, longer than a rank's part of it; and a mask of a rank's own positions."""
    model, ids = of_kind("Mistral", sliding_window=9), torch.randint(3, 29, (2, 14))
    places = torch.arange(14).expand(2, -1)
    output, expected = _of(model, ids, places)
    own = [ids.clone(), places.clone()]
    with torch.no_grad(), context_parallel(mesh(ranks), buffers=own, buffer_seq_dims=[1, 1]):
        with pytest.raises(ValueError, match="attn_mask: must broadcast"):
            model(own[0], position_ids=own[1], use_cache=False)
        found, record = _of(model, *own, ranks={"positions": mesh(ranks)})
        with pytest.raises(ValueError, match="a rank has a single position"):
            model(own[0][:, :1], position_ids=own[1][:, :1], use_cache=False)
        for watching in (nullcontext(), pellucid.watch(model)):
            model.set_attn_implementation("eager")
            with pytest.raises(ValueError, match="attn_implementation 'eager' would see this rank's"), watching:
                model(own[0], position_ids=own[1], use_cache=False)
        pellucid.accelerate(model)
        with pellucid.watch(model, keep=True, ranks={"positions": mesh(ranks)}) as both:
            model(own[0], position_ids=own[1], use_cache=False)
        close(
            join(model(own[0], position_ids=own[1], use_cache=False).logits, 1, "head_tail", group(ranks)), output, 1e-5
        )
        with pytest.raises(ValueError, match=r"tensor \[2, 7\] is indexed by kv_idx"):
            model(own[0], attention_mask=(own[1] > 2 + dist.get_rank()).long(), use_cache=False)
        cache = model(own[0], position_ids=own[1]).past_key_values
        refused = pytest.raises(ValueError, match="a filled cache cannot be gone on with")
        with warnings.catch_warnings(action="ignore"), refused:  # of the name of a cache, which changes
            model(own[0][:, :2], position_ids=own[1][:, :2] + 14, past_key_values=cache)
    close(join(found, 1, "head_tail", group(ranks)), output, 1e-5)
    for own_record in (record, both):
        same(own_record.gather(), expected)


def test_a_window(ranks: Ranks) -> None:
    pytest.importorskip("transformers")
    ranks.run(windowed, 2, ranks=2)


def differing(ranks: int) -> str:
    """What ranks are told of which one watches, or watches by other readouts."""
    model, own, rank = Words(), words()[:, :6], dist.get_rank()
    texts = []
    for more in ((), (pellucid.TopK(1 + rank),)):
        with torch.no_grad(), context_parallel(mesh(ranks)):
            try:
                if rank or more:
                    with pellucid.watch(model, more=more):
                        model(own)
                else:
                    model(own)
                texts.append("nothing")
            except ValueError as error:
                texts.append(str(error))
    return "\n".join(texts)


class ByHand(nn.Module):
    """Attention that is written out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.mT, -1) @ x


def by_hand(ranks: int) -> None:
    model = nn.Sequential(ByHand())
    own = cut(torch.randn(2, 3, 12, 4), 2, "head_tail", group(ranks))
    with (
        torch.no_grad(),
        context_parallel(mesh(ranks)),
        pytest.raises(ValueError, match="is indexed by q_idx, of which"),
    ):
        watched(model, own)


def test_attention_by_hand_is_refused(ranks: Ranks) -> None:
    ranks.run(by_hand, 2, ranks=2)


def test_ranks_watch_alike(ranks: Ranks) -> None:
    for text in ranks.run(differing, 2, ranks=2):
        for line in text.split("\n"):
            assert line.startswith("watch: the ranks of a sharded call must give the same; rank 0 has")


def graded(ranks: int) -> None:
    """Readings with gradients, and those of the model, where the loss is of the output too."""
    ids, model, other = words(), Words(), Words()
    with pellucid.watch(model, gradients=True) as record:
        output = model(ids)
    (output.sin().sum() + torch.stack([layer.entropy.sum() for layer in record.values()]).sum()).backward()
    own = ids.clone()
    with context_parallel(mesh(ranks), buffers=[own], buffer_seq_dims=[1]):
        with pellucid.watch(other, gradients=True, ranks={"positions": mesh(ranks)}) as record:
            output = other(own)
        (output.sin().sum() + torch.stack([layer.entropy.sum() for layer in record.values()]).sum()).backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        dist.all_reduce(theirs.grad, group=group(ranks))
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=1e-4, atol=1e-5, msg=name)
    assert any("received" in note for note in record.notes)


def test_gradients_of_readings(ranks: Ranks) -> None:
    ranks.run(graded, 2, ranks=2)


def streamed(ranks: int, folder: Path) -> None:
    ids, model = words(), Words()
    expected = watched(model, ids)[1]
    for resume in (False, True):
        own = ids.clone()
        with context_parallel(mesh(ranks), buffers=[own], buffer_seq_dims=[1]):
            record = watched(model, own, ranks={"positions": mesh(ranks)}, out=folder / "run.attn", resume=resume)[1]
        same(record, expected)
    same(pellucid.open_record(folder / "run.attn", verify=True), expected)


def test_written_as_it_goes(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(streamed, 3, tmp_path, ranks=3)
