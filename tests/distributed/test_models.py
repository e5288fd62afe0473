"""Models that lie on several ranks: pellucid.nn and transformers under tensor parallelism, FSDP and DDP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import pellucid
from pellucid.nn import CrossAttention, KeyValueCache, SelfAttention
from tests.distributed.ranks import Ranks, mesh

READOUTS = (pellucid.Entropy(), pellucid.TopK(2), pellucid.Received(), pellucid.MaxScore(per_head=True))


def full(tensor: Any) -> Any:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def close(found: Any, expected: Any, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(full(found), expected, rtol=tolerance, atol=tolerance)


def sharded(layer: nn.Module, ranks: int, local: bool = True, kv: bool = True) -> Any:
    plan: dict[str, Any] = {"query_projection": ColwiseParallel(use_local_output=local)}
    if kv:
        plan |= {f"{name}_projection": ColwiseParallel(use_local_output=local) for name in ("key", "value")}
    plan["output_projection"] = RowwiseParallel()
    return parallelize_module(layer, mesh(ranks), plan)


def twins(kind: Any, ranks: int, local: bool = True, kv: bool = True, **options: Any) -> tuple[Any, Any]:
    """A layer, and the same with its heads on some ranks."""
    made = []
    for _ in range(2):
        torch.manual_seed(7)
        made.append(kind(12, 6, head_dim=4, **options))
    return made[0], sharded(made[1], ranks, local, kv)


def self_attention(ranks: int, local: bool, kv: bool, kv_heads: int) -> None:
    own, layer = twins(
        SelfAttention, ranks, local, kv, kv_heads=kv_heads, rotary=100.0, qk_norm=True, is_causal=True
    )  # fmt: skip
    x, slopes = torch.randn(3, 7, 12), torch.rand(6)
    arguments = {"score_mod": lambda s, b, h, i, j: s + slopes[h] * (j - i), "observe": READOUTS}
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, seen = own(mine, **arguments)
    found, found_seen = layer(theirs, **arguments)
    close(found, output)
    for name in ("lse", "entropy", "received", "head_max_scores"):
        close(found_seen[name], seen[name])
    assert torch.equal(full(found_seen.topk.keys), seen.topk.keys)
    close(found_seen.weights(heads=[1, 4]), seen.weights(heads=[1, 4]))
    step = torch.randn_like(output)
    (output * step).sum().backward()
    (full(found) * step).sum().backward()
    close(theirs.grad, mine.grad, 1e-5)
    for (name, parameter), other in zip(own.named_parameters(), layer.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(full(other.grad), parameter.grad, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("count", "local", "kv", "kv_heads"),
    [(2, True, True, 6), (2, False, True, 2), (3, True, False, 2), (3, True, True, 3)],
)
def test_heads_on_ranks_are_the_layer(ranks: Ranks, count: int, local: bool, kv: bool, kv_heads: int) -> None:
    ranks.run(self_attention, count, local, kv, kv_heads, ranks=count)


def steps(ranks: int, local: bool, graded: bool) -> None:
    own, layer = twins(SelfAttention, ranks, local, kv_heads=2, rotary=100.0, is_causal=True)
    x = torch.randn(2, 9, 12)
    cache, theirs = KeyValueCache(), KeyValueCache()
    with torch.set_grad_enabled(graded):
        for part in x.split([4, 1, 1, 3], 1):
            close(layer(part, cache=theirs), own(part, cache=cache))
        theirs.truncate(5)
        cache.truncate(5)
        close(layer(x[:, 5:], cache=theirs), own(x[:, 5:], cache=cache))
    close(theirs.key, cache.key)


@pytest.mark.parametrize("graded", [False, True])
def test_steps_through_a_cache_on_ranks(ranks: Ranks, graded: bool) -> None:
    ranks.run(steps, 2, graded, graded, ranks=2)


def cross_attention(ranks: int, kv: bool) -> None:
    own, layer = twins(CrossAttention, ranks, kv=kv, kv_heads=3, context_dim=5, bias=False)
    x, context, mask = torch.randn(2, 4, 12), torch.randn(1, 7, 5), torch.randn(2, 6, 4, 7)
    output, seen = own(x, context, attn_mask=mask, observe=READOUTS)
    found, found_seen = layer(x, context, attn_mask=mask, observe=READOUTS)
    close(found, output)
    close(found_seen.received, seen.received)
    cache = KeyValueCache()
    layer(x, context, cache=cache)
    close(layer(x, cache=cache, attn_mask=mask), output)


@pytest.mark.parametrize("kv", [True, False])
def test_cross_attention_on_ranks(ranks: Ranks, kv: bool) -> None:
    ranks.run(cross_attention, 3, kv, ranks=3)


def dropping(ranks: int) -> list[Any]:
    _, layer = twins(SelfAttention, ranks, dropout=0.5)
    layer.train()
    x = torch.randn(1, 5, 12)
    output, seen = layer(x, observe=[pellucid.Entropy()])
    dropped = seen.dropped()
    assert not torch.equal(dropped[:, 0], dropped[:, 3])  # the first heads of two ranks
    return [dropped, output.detach()]


def test_ranks_drop_other_weights(ranks: Ranks) -> None:
    (one, output), (two, other) = ranks.run(dropping, 2, ranks=2)
    assert torch.equal(one, two)
    assert torch.equal(output, other)


def replicated_and_by_batch(ranks: int) -> None:
    """DTensors of sequences, with weights that all ranks have."""
    from torch.distributed.tensor import distribute_module, distribute_tensor

    torch.manual_seed(7)
    own = SelfAttention(12, 6, rotary=100.0, qk_norm=True)
    x = torch.randn(4, 8, 12)
    output = own(x)
    layer = distribute_module(own, mesh(ranks))
    for place in (Shard(0), Shard(1), Replicate()):
        close(layer(distribute_tensor(x, mesh(ranks), [place])), output)


def test_layers_of_dtensors(ranks: Ranks) -> None:
    ranks.run(replicated_and_by_batch, 2, ranks=2)


def refused(which: str) -> None:
    torch.manual_seed(7)
    layer = SelfAttention(12, 3, head_dim=4)
    if which == "cut heads":
        sharded(layer, 2)
    else:
        parallelize_module(layer, mesh(2), {"query_projection": ColwiseParallel()})
    layer(torch.randn(2, 5, 12))


def test_what_cannot_be_is_said(ranks: Ranks) -> None:
    for outcome in ranks.outcomes(refused, "cut heads", ranks=2):
        assert outcome.kind == "ValueError"
        assert "query_projection: its 3 heads do not lie whole on 2 ranks" in outcome.text


def unprojected() -> None:
    torch.manual_seed(7)
    layer = SelfAttention(12, 6)
    parallelize_module(layer, mesh(2), {"query_projection": ColwiseParallel()})
    layer(torch.randn(2, 5, 12))


def test_an_output_projection_that_is_whole_is_refused(ranks: Ranks) -> None:
    for outcome in ranks.outcomes(unprojected, ranks=2):
        assert outcome.kind == "ValueError"
        assert "shard it by RowwiseParallel()" in outcome.text


# Models of transformers under their own plans.

KINDS = ("Llama", "Gemma2", "Phi3", "GptOss")
UNDIVIDED = ("Phi3", "GptOss")  # their plans leave every rank all heads


def of_kind(kind: str, **more: Any) -> Any:
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=29, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False, **more,
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def on_ranks(model: Any, ranks: int) -> Any:
    """A model as `from_pretrained(..., tp_plan="auto")` makes it, which needs a package more to load weights."""
    from transformers.distributed import DistributedConfig
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    plan, *_ = model._resolve_parallel_plans(DistributedConfig(tp_plan="auto", tp_size=ranks))
    return apply_tensor_parallelism(model, mesh(ranks), plan)


def of_transformers(kind: str) -> None:
    whole, model = of_kind(kind), on_ranks(of_kind(kind), 2)
    ids = torch.randint(3, 29, (2, 11))
    with torch.no_grad():
        with pellucid.watch(whole, keep=True) as expected:
            logits = whole(ids).logits
        close(model(ids).logits, logits, 1e-5)
        with pellucid.watch(model, keep=True, ranks={"heads": mesh(2)}) as record:
            close(model(ids).logits, logits, 1e-5)
        with pellucid.everywhere():
            close(model(ids).logits, logits, 1e-5)
        with pellucid.watch(whole) as longer:
            text = whole.generate(ids, max_new_tokens=3, do_sample=False)
        pellucid.accelerate(model)
        close(model(ids).logits, logits, 1e-5)
        close(model(ids[:1, :1]).logits, whole(ids[:1, :1]).logits, 1e-5)
        assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), text)
        pellucid.restore(model)
        with pellucid.watch(model, ranks={"heads": mesh(2)}) as generated:
            assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), text)
    own = list(range(8)) if kind in UNDIVIDED else list(range(8))[4 * torch.distributed.get_rank() :][:4]
    assert record.layers == expected.layers
    for name, layer in record.items():
        assert layer.head_numbers == own
        close(layer.entropy, expected[name].entropy[:, own], 1e-5)
    everything = record.gather()
    for name, layer in everything.items():
        other = expected[name]
        assert layer.head_numbers == other.head_numbers
        assert (layer.heads, layer.kv_heads) == (other.heads, other.kv_heads)
        assert layer.readings.keys() == other.readings.keys()
        close(layer.entropy, other.entropy, 1e-5)
        close(layer.weights(), other.weights(), 1e-5)
    for name, layer in generated.gather().items():
        close(layer.entropy, longer[name].entropy, 1e-5)
        assert layer.call_rows == longer[name].call_rows
    assert str(everything.summary()) == str(expected.summary())


@pytest.mark.parametrize("kind", ["Qwen2", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in KINDS)])
def test_models_of_transformers(ranks: Ranks, kind: str) -> None:
    pytest.importorskip("transformers.distributed.tensor_parallel")
    ranks.run(of_transformers, kind, ranks=2)
