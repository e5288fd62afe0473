"""The largest score of each head: of a call, of watched models with padding, in steps, and packed for an all-reduce."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import pellucid
from pellucid.readouts import Entropy, MaxScore
from tests.cases import normal, running
from tests.watch import caches, models

MASK = torch.ones(7, 11, dtype=torch.bool).tril(3)
MASK[2] = False


@pytest.mark.parametrize("engine", ["reference", "portable", "tiles", "cpu"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_of_a_call(engine: str, batch: tuple[int, ...]) -> None:
    """Of query heads where they are grouped, over all rows of all sequences that have a key."""
    query, key = normal(*batch, 6, 7, 8, seed=1), normal(*batch, 3, 11, 8, seed=2)
    with running(engine, (2, 3)):
        for _ in range(2):  # the second is a call like an earlier one
            _, seen = pellucid.observe(query, key, key, MASK, enable_gqa=True, readouts=[MaxScore(per_head=True)])
            _, rows = pellucid.observe(query, key, key, MASK, enable_gqa=True, readouts=[MaxScore()])
    scores = query @ key.repeat_interleave(2, -3).mT * 8**-0.5
    exact = scores.masked_fill(~MASK, -torch.inf).movedim(-3, 0).flatten(1).amax(1)
    assert seen.head_max_scores.shape == (6,)
    torch.testing.assert_close(seen.head_max_scores, exact)
    torch.testing.assert_close(seen.head_max_scores, rows.max_scores.movedim(-2, 0).flatten(1).amax(1))


def test_without_heads_and_without_rows() -> None:
    x = normal(5, 4)
    _, seen = pellucid.observe(x, x, x, readouts=[MaxScore(per_head=True)])
    torch.testing.assert_close(seen.head_max_scores, (x @ x.mT / 2).max()[None])
    for shape in ((3, 0, 4), (0, 3, 5, 4)):
        empty = normal(*shape)
        _, seen = pellucid.observe(empty, empty, empty, readouts=[MaxScore(per_head=True)])
        assert seen.head_max_scores.tolist() == [-torch.inf] * 3


def test_beside_that_of_each_row_and_in_words() -> None:
    x = normal(2, 5, 4)
    _, seen = pellucid.observe(x, x, x, readouts=[MaxScore(), MaxScore(per_head=True)])
    torch.testing.assert_close(seen.head_max_scores, seen.max_scores.amax(-1))
    assert MaxScore.again(MaxScore(True).numbers, iter(()), "").joins_rows
    assert not MaxScore.again(MaxScore().numbers, iter(()), "").joins_rows
    with pytest.raises(TypeError, match=r"^per_head: MaxScore takes True or False, got 3"):
        MaxScore(per_head=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["reference", "portable"])
def test_its_gradient_goes_to_one_pair(engine: str) -> None:
    query, key = normal(2, 3, 7, 4).requires_grad_(), normal(2, 3, 7, 4, seed=1)
    with running(engine):
        _, seen = pellucid.observe(query, key, key, is_causal=True, readouts=[MaxScore(per_head=True)])
    (found,) = torch.autograd.grad(seen.head_max_scores.sum(), query)
    scores = (query @ key.mT / 2).masked_fill(~torch.ones(7, 7, dtype=torch.bool).tril(), -torch.inf)
    (expected,) = torch.autograd.grad(scores.transpose(0, 1).flatten(1).amax(1).sum(), query)
    torch.testing.assert_close(found, expected)
    assert int(found.abs().sum(-1).count_nonzero()) == 3


def test_in_a_graph_and_in_vmap() -> None:
    def read(x: torch.Tensor) -> Any:
        return pellucid.observe(x, x, x, is_causal=True, readouts=[MaxScore(per_head=True)])[1].head_max_scores

    x = normal(2, 3, 5, 4)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(read, fullgraph=True, backend="aot_eager")(x), read(x))
    torch.testing.assert_close(torch.vmap(read)(x), torch.stack([read(one) for one in x]))


# Watched models.


def llama() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**models.GROUPED)).eval()


def test_padding_is_no_row(tmp_path: Any) -> None:
    model, given = llama(), models.left_padded()
    with pellucid.watch(model, [MaxScore(per_head=True)], keep=True) as record:
        model(**given)
    with pellucid.watch(model, [MaxScore()]) as rows:
        model(**given)
    real = given["attention_mask"].bool()
    for layer in record.values():
        key = layer.key.repeat_interleave(2, 1)
        scores = (layer.query @ key.mT * layer.scale).masked_fill(~torch.ones(13, 13).tril().bool(), -torch.inf)
        scores = scores.masked_fill(~real[:, None, None], -torch.inf).masked_fill(~real[:, None, :, None], -torch.inf)
        torch.testing.assert_close(layer.head_max_scores, scores.transpose(0, 1).flatten(1).amax(1))
    packed = record.max_scores()
    assert packed.shape == (2, 4)
    torch.testing.assert_close(packed, rows.max_scores())
    opened = pellucid.open_record(record.save(tmp_path / "run.attn"), verify=True)
    torch.testing.assert_close(opened.max_scores(), packed)
    assert opened.readouts == ["head_max_scores True"]
    assert len(list(record.summary())) == 8


def test_steps_some_heads_and_gradients() -> None:
    model, ids = llama(), models.ids()
    with pellucid.watch(model, [MaxScore(per_head=True)], gradients=True) as record:
        model(ids)
        record.max_scores().sum().backward()
    whole = record.max_scores().detach()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.any()
    cache = transformers.DynamicCache(config=model.config)
    with pellucid.watch(model, [MaxScore(per_head=True)], heads=[3, 1]) as steps:
        for part in (slice(7), slice(7, 8), slice(8, 13)):
            model(ids[:, part], **caches.given(cache))
    torch.testing.assert_close(steps.max_scores(), whole[:, [3, 1]])


def test_calls_of_a_module_are_one_row_and_fewer_heads_are_filled_up() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.MultiheadAttention(12, 2, batch_first=True)
            self.second = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.second(*(self.first(x, x, x)[0],) * 3)[0]

    model = Model()
    with pellucid.watch(model, [MaxScore()]) as record:
        for batch in (2, 3):
            model(torch.randn(batch, 5, 12))
    assert len(record) == 4
    packed = record.max_scores()
    assert packed.shape == (2, 3)
    assert packed[0, 2] == -torch.inf
    torch.testing.assert_close(
        packed[1], torch.cat([record["second"].max_scores, record["second#2"].max_scores]).amax((0, 2))
    )
    with pellucid.watch(model, [Entropy()]) as other:
        model(torch.randn(2, 5, 12))
    with pytest.raises(ValueError, match=r"^max_scores: first has not read them; watch the model with MaxScore"):
        other.max_scores()
