import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import masks, readouts
from pellucid.nn import CrossAttention, KeyValueCache, SelfAttention

ULP = torch.finfo(torch.float64).eps
EXACT = {"rtol": 0, "atol": 64 * ULP}  # float64 sums of some tens of numbers around 1, in another order


def float64_layer(seed, **options):
    """A layer with every parameter drawn, so that none hides behind its initial 0 or 1."""
    torch.manual_seed(seed)
    layer = CrossAttention(dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


@given(
    seed=st.integers(0, 2**31),
    heads=st.sampled_from([(1, None), (2, 1), (6, 2), (6, None)]),
    head_dim=st.sampled_from([None, 7]),
    bias=st.booleans(),
    output_projection=st.booleans(),
    qk_norm=st.booleans(),
    batch=st.sampled_from([(), (1,), (3,)]),
    q_len=st.sampled_from([0, 1, 17]),
    k_len=st.sampled_from([1, 13]),
)
def test_equals_the_formula(formula, seed, heads, head_dim, bias, output_projection, qk_norm, batch, q_len, k_len):
    layer = float64_layer(
        seed, embed_dim=30, num_heads=heads[0], kv_heads=heads[1], context_dim=11,
        head_dim=head_dim, bias=bias, output_projection=output_projection, qk_norm=qk_norm,
    )  # fmt: skip
    x = torch.randn(*batch, q_len, 30, dtype=torch.float64)
    context = torch.randn(*batch, k_len, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(x, context), formula(layer, x, context), rtol=1e-13, atol=1e-12)


def test_the_notebook_s_second_system_is_one_constructor_call():
    torch.manual_seed(0)
    x, context = torch.rand(10, 4), torch.rand(6, 4)
    layer = CrossAttention(4, 1, bias=False, output_projection=False)
    W_q, W_k, W_v = (p.weight.T for p in (layer.query_projection, layer.key_projection, layer.value_projection))
    attended = torch.softmax(x @ W_q @ (context @ W_k).T / 4**0.5, dim=-1) @ (context @ W_v)
    torch.testing.assert_close(layer(x, context), attended, rtol=0, atol=4 * torch.finfo(torch.float32).eps)


def test_gradients_equal_the_formula_s(formula):
    layer = float64_layer(5, embed_dim=12, num_heads=6, kv_heads=2, context_dim=5, qk_norm=True)
    x = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    context = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, context, *layer.parameters()]
    actual = torch.autograd.grad(layer(x, context).square().sum(), inputs)
    expected = torch.autograd.grad(formula(layer, x, context).square().sum(), inputs)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        assert theirs.abs().max() > 1e-3


@torch.no_grad()
def test_self_attention_is_cross_attention_to_itself():
    cross = float64_layer(1, embed_dim=12, num_heads=6, kv_heads=2, qk_norm=True)
    alone = SelfAttention(12, 6, kv_heads=2, qk_norm=True, dtype=torch.float64)
    alone.load_state_dict(cross.state_dict())
    x = torch.randn(5, 7, 12, dtype=torch.float64)
    assert torch.equal(cross(x, x), alone(x))


@torch.no_grad()
def test_order_of_the_context_makes_no_difference():
    layer = float64_layer(2, embed_dim=12, num_heads=3)
    x, context = torch.randn(7, 12, dtype=torch.float64), torch.randn(11, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x, context.flip(0)), layer(x, context), **EXACT)


@torch.no_grad()
def test_a_context_of_one_batch_is_shared():
    layer = float64_layer(3, embed_dim=12, num_heads=3, context_dim=5)
    x, context = torch.randn(7, 2, 12, dtype=torch.float64), torch.randn(1, 11, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x, context), layer(x, context.expand(7, -1, -1)), **EXACT)


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_cache_projects_the_context_once(mode, batch):
    layer = float64_layer(4, embed_dim=12, num_heads=6, kv_heads=2, context_dim=5, qk_norm=True)
    x = torch.randn(*batch, 7, 12, dtype=torch.float64)
    context = torch.randn(*batch, 11, 5, dtype=torch.float64)
    calls = []
    for linear in (layer.key_projection, layer.value_projection):
        linear.register_forward_hook(lambda *_: calls.append(1))

    with mode():
        cache = KeyValueCache()
        steps = [layer(x[..., :2, :], context, cache=cache)]
        steps += [layer(x[..., 2:3, :], context, cache=cache), layer(x[..., 3:, :], cache=cache)]
        assert len(calls) == 2
        torch.testing.assert_close(torch.cat(steps, dim=-2), layer(x, context), **EXACT)
    assert cache.length == 11


def test_gradients_flow_through_a_cache():
    layer = float64_layer(4, embed_dim=12, num_heads=3, context_dim=5)
    x = torch.randn(7, 12, dtype=torch.float64)
    context = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    cache = KeyValueCache()
    steps = torch.cat([layer(part, context, cache=cache) for part in x.split([3, 4])])
    torch.testing.assert_close(
        torch.autograd.grad(steps.square().sum(), context),
        torch.autograd.grad(layer(x, context).square().sum(), context),
    )


@torch.no_grad()
def test_masks_and_score_functions_reach_the_attention():
    layer = float64_layer(6, embed_dim=12, num_heads=3, context_dim=5)
    x, context = torch.randn(2, 7, 12, dtype=torch.float64), torch.randn(2, 11, 5, dtype=torch.float64)
    table = torch.randn(3, 7, 11, dtype=torch.float64)
    lengths = torch.tensor([11, 4])
    short = layer(x, context, mask_mod=masks.key_lengths(lengths))
    torch.testing.assert_close(short[0], layer(x[0], context[0]), **EXACT)
    torch.testing.assert_close(short[1], layer(x[1], context[1, :4]), **EXACT)
    allowed = (torch.arange(11) < lengths[:, None])[:, None, None]
    torch.testing.assert_close(layer(x, context, attn_mask=allowed), short, **EXACT)
    biased = layer(x, context, score_mod=lambda score, b, h, q_idx, kv_idx: score + table[h, q_idx, kv_idx])
    torch.testing.assert_close(biased, layer(x, context, attn_mask=table), **EXACT)
    assert (biased - layer(x, context)).abs().max() > 1e-3


@torch.no_grad()
def test_observing_tells_the_weights_and_changes_nothing():
    layer = float64_layer(7, embed_dim=12, num_heads=3, context_dim=5, output_projection=False)
    x, context = torch.randn(7, 12, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    output, seen = layer(x, context, observe=[readouts.Received()])
    value = layer.value_projection(context).unflatten(-1, (3, 4)).transpose(0, 1)
    assert torch.equal(output, layer(x, context))
    torch.testing.assert_close((seen.weights() @ value).transpose(0, 1).flatten(1), output, **EXACT)
    torch.testing.assert_close(seen.received, seen.weights().sum(dim=-2), **EXACT)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    layer = CrossAttention(12, 3, dropout=0.5)
    x, context = torch.randn(7, 12), torch.randn(11, 12)
    assert not torch.equal(layer(x, context), layer(x, context))
    layer.eval()
    assert torch.equal(layer(x, context), layer(x, context))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_dim": 0}, "context_dim: must be positive, got 0"),
        ({"kv_heads": 4}, "kv_heads: must divide the 6 heads of num_heads, got 4"),
        ({"num_heads": 5}, "embed_dim: 12 does not split into 5 equal heads"),
    ],
)
def test_refuses_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        CrossAttention(**{"embed_dim": 12, "num_heads": 6} | options)


X = torch.ones(3, 7, 12)


@pytest.mark.parametrize(
    ("x", "context", "error", "message"),
    [
        (torch.ones(7, 11), torch.ones(7, 5), ValueError, r"x: must be .*12.* got \[7, 11\]"),
        (X, torch.ones(3, 7, 12), ValueError, r"context: must be \[batch, length, 5\] or .* got \[3, 7, 12\]"),
        (X, torch.ones(3, 7, 5).long(), TypeError, r"context: must have a floating dtype, got torch.int64"),
        (
            X,
            torch.ones(7, 5),
            ValueError,
            r"context: its batch \[\] must be that of x, \[3\], or \[1\].*context\[None\]",
        ),
        (X, torch.ones(2, 7, 5), ValueError, r"context: its batch \[2\] must be that of x, \[3\]"),
        (X[0], torch.ones(3, 7, 5), ValueError, r"context: its batch \[3\] must be that of x, \[\]"),
        (X, None, ValueError, "context: missing. Give it, or a cache"),
    ],
)
def test_refuses_tokens_that_do_not_fit(x, context, error, message):
    with pytest.raises(error, match=message):
        CrossAttention(12, 6, context_dim=5)(x, context)


def test_refuses_an_empty_cache_without_context():
    with pytest.raises(ValueError, match="context: missing"):
        CrossAttention(12, 6)(X, cache=KeyValueCache())


def test_refuses_the_cache_of_another_context():
    layer, cache = CrossAttention(12, 6), KeyValueCache()
    layer(X, torch.ones(3, 11, 12), cache=cache)
    with pytest.raises(ValueError, match="context: it has 13 tokens and the cache was filled from 11"):
        layer(X, torch.ones(3, 13, 12), cache=cache)
    with pytest.raises(ValueError, match=r"context: its batch \[3\] must be that of x, \[2\]"):
        layer(X[:2], cache=cache)
