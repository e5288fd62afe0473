"""Models that call torch's functions themselves, nn.MultiheadAttention, nn.Transformer, pellucid.nn, FlexAttention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import pellucid

TOLERANCE = 1e-5


def matrix(query: Tensor, key: Tensor, allowed: Tensor | bool = True) -> Tensor:
    """The five-line formula's weights."""
    scores = (query @ key.mT) * query.shape[-1] ** -0.5
    return scores.masked_fill(~torch.as_tensor(allowed), -torch.inf).softmax(-1)


class Block(nn.Module):
    """Attention by a direct call of torch's function; what went in is kept to be compared."""

    def __init__(self, width: int = 24, heads: int = 3, **options: Any) -> None:
        super().__init__()
        self.project, self.heads, self.options = nn.Linear(width, 3 * width), heads, options
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for t in self.project(x).chunk(3, -1))
        self.seen = query, key
        return functional.scaled_dot_product_attention(query, key, value, **self.options).transpose(-3, -2).flatten(-2)


class Reader(nn.Module):
    """Embedding and two blocks."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.h = nn.ModuleList([Block(**options), Block(**options)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.h:
            x = x + block(x)
        return x


@pytest.fixture(autouse=True)
def _seed() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def test_a_model_that_calls_sdpa_itself() -> None:
    model, ids = Reader(is_causal=True).eval(), torch.randint(0, 50, (2, 11))
    plain = model(ids)
    with pellucid.watch(model, keep=True) as record:
        output = model(ids)
    assert (output - plain).abs().max() < TOLERANCE
    assert {layer.name: layer.role for layer in record.values()} == {"h.0": "causal self", "h.1": "causal self"}
    assert torch.equal(record.token_ids, ids)
    for block, layer in zip(model.h, record.values(), strict=True):
        expected = matrix(*block.seen, torch.ones(11, 11, dtype=torch.bool).tril())
        torch.testing.assert_close(layer.weights(), expected, atol=TOLERANCE, rtol=0)
        assert "beyond_first_induction" in layer


@pytest.mark.parametrize("warm", [True, False])
def test_a_compiled_model_is_watched_as_it_is_written(warm: bool) -> None:
    model, x = Block(is_causal=True).eval(), torch.randn(2, 11, 24)
    expected = model(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    if warm:
        compiled(x)
    with pellucid.watch(compiled, keep=True) as record:
        output = compiled(x)
    assert (output - expected).abs().max() < TOLERANCE
    weights = matrix(*model.seen, torch.ones(11, 11, dtype=torch.bool).tril())
    torch.testing.assert_close(record[0].weights(), weights, atol=TOLERANCE, rtol=0)
    assert (compiled(x) - expected).abs().max() < TOLERANCE


def test_keys_that_a_mask_shows_to_nobody_are_padding() -> None:
    keys = torch.ones(2, 1, 1, 11, dtype=torch.bool)
    keys[0, ..., :4] = False
    for mask in (keys, torch.zeros(keys.shape).masked_fill(~keys, -1e9)):
        model = Reader(attn_mask=mask.expand(2, 1, 11, 11)).eval()
        with pellucid.watch(model) as record:
            model(torch.randint(0, 50, (2, 11)))
        assert torch.equal(record[0].padding.keys, ~keys[:, 0, 0])
        assert torch.equal(record[0].entropy.isnan(), (~keys[:, 0]).expand(2, 3, 11))


def test_tensors_without_batch_and_with_several() -> None:
    model = Block().eval()
    for shape in ((11, 24), (2, 5, 11, 24)):
        x = torch.randn(shape)
        plain = model(x)
        with pellucid.watch(model, keep=True) as record:
            output = model(x)
        assert output.shape == plain.shape
        assert (output - plain).abs().max() < TOLERANCE
        expected = matrix(*model.seen).reshape(-1, 3, 11, 11)
        torch.testing.assert_close(record["Block"].weights(), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # which torch's own fast path makes
def test_the_whole_transformer_of_torch() -> None:
    model = nn.Transformer(24, 2, 2, 2, 32, batch_first=True).eval()
    source, target = torch.randn(2, 9, 24), torch.randn(2, 7, 24)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[0, 6:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    options = {"tgt_mask": causal, "src_key_padding_mask": padding, "memory_key_padding_mask": padding}
    plain = model(source, target, **options, tgt_is_causal=True)
    fast = torch.backends.mha.get_fastpath_enabled()
    with pellucid.watch(model, keep=True) as record:
        assert torch.backends.mha.get_fastpath_enabled() is fast  # other threads may be on it
        output = model(source, target, **options, tgt_is_causal=True)
    assert (output - plain).abs().max() < TOLERANCE
    assert {layer.name: layer.role for layer in record.values()} == {
        "encoder.layers.0.self_attn": "self",
        "encoder.layers.1.self_attn": "self",
        "decoder.layers.0.self_attn": "causal self",
        "decoder.layers.0.multihead_attn": "cross",
        "decoder.layers.1.self_attn": "causal self",
        "decoder.layers.1.multihead_attn": "cross",
    }
    for name in ("encoder.layers.1.self_attn", "decoder.layers.1.multihead_attn"):
        layer = record[name]
        assert torch.equal(layer.padding.keys, padding)
        assert layer.weights()[0, ..., 6:].abs().max() == 0
    assert torch.equal(record[0].entropy.isnan(), padding[:, None].expand(2, 2, 9))


@pytest.mark.sampled
@pytest.mark.parametrize("extra", [{}, {"add_zero_attn": True}, {"add_bias_kv": True}, {"kdim": 20, "vdim": 16}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_gives_what_torch_gives(extra: dict[str, Any], batch_first: bool) -> None:
    module = nn.MultiheadAttention(24, 3, batch_first=batch_first, **extra).eval()
    inputs = [torch.randn(2, 5, 24), torch.randn(2, 6, extra.get("kdim", 24)), torch.randn(2, 6, extra.get("vdim", 24))]
    if not batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    added = torch.zeros(2, 6).masked_fill(padding, -torch.inf)
    for masks in (
        {"attn_mask": torch.randn(6, 5, 6), "key_padding_mask": added},
        {"attn_mask": torch.rand(5, 6) > 0.8, "key_padding_mask": padding},
        {},
    ):
        for averaged in (True, False):
            options = masks | {"average_attn_weights": averaged}
            expected, weights = module(*inputs, **options)
            with pellucid.watch(module, keep=True) as record:
                output, its_weights = module(*inputs, **options)
            torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(its_weights, weights, atol=TOLERANCE, rtol=0)
            layer = record["MultiheadAttention"]
            assert layer.role == "cross"
            if not averaged:
                torch.testing.assert_close(layer.weights(), weights, atol=TOLERANCE, rtol=0)


def test_multihead_attention_without_batch_or_weights() -> None:
    module, x = nn.MultiheadAttention(24, 3).eval(), torch.randn(5, 24)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, weights = module(x, x, x)
    hinted = module(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)
    with pellucid.watch(module) as record:
        output, its_weights = module(x, x, x)
        its_hinted = module(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)
    torch.testing.assert_close((output, its_weights), (expected, weights), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(its_hinted[0], hinted[0], atol=TOLERANCE, rtol=0)
    assert its_hinted[1] is None
    assert [layer.role for layer in record.values()] == ["self", "self"]  # of one module, as of its first call


class Own(nn.Module):
    """Both layers of pellucid.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.own = pellucid.nn.SelfAttention(24, 6, kv_heads=2, is_causal=True, rotary=10_000.0)
        self.other = pellucid.nn.CrossAttention(24, 6)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.other(self.own(x), context)


def test_pellucids_own_layers_and_their_cache() -> None:
    model, x, context = Own().eval(), torch.randn(2, 7, 24), torch.randn(2, 9, 24)
    plain = model(x, context)
    with pellucid.watch(model, keep=True) as record:
        output = model(x, context)
    assert torch.equal(output, plain)
    assert {layer.name: layer.role for layer in record.values()} == {"own": "causal self", "other": "cross"}
    assert (record["own"].heads, record["own"].kv_heads) == (6, 2)
    cache = pellucid.nn.KeyValueCache()
    with pellucid.watch(model.own, keep=True) as steps:
        model.own(x[:, :3], cache=cache)
        for token in range(3, 7):
            model.own(x[:, token : token + 1], cache=cache)
    layer = steps["SelfAttention"]
    assert (layer.calls, layer.q_len, layer.k_len, len(layer.parts)) == (5, 7, 7, 1)
    torch.testing.assert_close(layer.weights(), record["own"].weights(), atol=1e-6, rtol=0)
    for name in ("lse", "entropy", "received", "beyond_first_distance"):
        torch.testing.assert_close(layer.readings[name], record["own"].readings[name], atol=1e-5, rtol=0)


def test_an_observation_of_the_models_own_stays_its_own() -> None:
    class Observing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            output, self.seen = pellucid.observe(x, x, x, readouts=[pellucid.TopK(2)])
            return output + pellucid.attention(x, x, x, is_causal=True)

    model, x = Observing(), torch.randn(1, 2, 5, 4)
    plain = model(x)
    with pellucid.watch(model, [pellucid.Entropy()]) as record:
        assert torch.equal(model(x), plain)
    assert model.seen.topk.keys.shape == (1, 2, 5, 2)
    assert record.layers == ["Observing", "Observing#2"]
    assert set(record[0].readings) >= {"lse", "entropy"}


class Flexible(nn.Module):
    """FlexAttention, called by the name that this file imported."""

    def forward(self, x: Tensor) -> Tensor:
        block_mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 128, 128, device="cpu")
        return flex_attention(x, x, x, score_mod=lambda score, b, h, q, k: score + 0.1 * h, block_mask=block_mask)


def test_flex_attention_is_seen_where_the_models_file_calls_it() -> None:
    original = flex_attention
    model, x = Flexible(), torch.randn(1, 2, 128, 16)
    with pellucid.watch(model, keep=True) as record:
        output = model(x)
    assert flex_attention is original
    expected = matrix(x, x, torch.ones(128, 128, dtype=torch.bool).tril())
    torch.testing.assert_close(record["Flexible"].weights(), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output, expected @ x, atol=TOLERANCE, rtol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_call_that_pellucid_does_not_know_is_left_to_torch_and_listed() -> None:
    class Odd(Block):
        def forward(self, x: Tensor) -> Tensor:
            nested = torch.nested.nested_tensor([x[0, :3], x[0, :5]], layout=torch.jagged)
            heads = nested.unflatten(-1, [3, 8]).transpose(1, 2)
            return functional.scaled_dot_product_attention(heads, heads, heads)

    model = nn.Sequential(Block(), Odd())
    with pytest.warns(UserWarning, match="1: its call is not one that Pellucid computes.*nested"):  # noqa: SIM117
        with pellucid.watch(model) as record:
            output = model(torch.randn(1, 6, 24))
    assert output.is_nested
    assert (record.layers, [missed.name for missed in record.missed]) == (["0"], ["1"])


def test_a_call_that_torch_refuses_is_refused_by_torch() -> None:
    """Pellucid's own arguments, sinks among them, are not torch's."""

    class Attends(nn.Module):
        def forward(self, x: Tensor, **more: Any) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, **more)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attends = Attends()

        def forward(self, x: Tensor, **more: Any) -> Tensor:
            seen: Tensor = self.attends(x, **more)
            return seen

    model, x = Whole(), torch.rand(1, 2, 5, 4)
    with pellucid.watch(model):
        with pytest.raises(TypeError, match="scaled_dot_product_attention"):
            model(x, sinks=torch.rand(2))
        model(x)
    with pellucid.everywhere(), pytest.raises(TypeError, match="scaled_dot_product_attention"):
        model(x, mask_mod=pellucid.masks.causal())
