import contextlib
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import masks, readouts
from pellucid.nn import KeyValueCache, Rotary, SelfAttention
from tests.cases import examples

ULP = torch.finfo(torch.float64).eps
EXACT = {"rtol": 0, "atol": 64 * ULP}  # float64 sums of some tens of numbers around 1, in another order
MODES = {"grad": contextlib.nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def decoded(layer, x, steps, **arguments):
    """The layer's outputs in steps of the given lengths, joined."""
    cache = KeyValueCache()
    return torch.cat([layer(part, cache=cache, **arguments) for part in x.split(steps, dim=-2)], dim=-2)


def float64_layer(seed, **options):
    """A layer with every parameter drawn, so that none hides behind its initial 0 or 1."""
    torch.manual_seed(seed)
    layer = SelfAttention(dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_notebook_is_one_constructor_call(dtype):
    torch.manual_seed(0)
    x = torch.rand(10, 4, dtype=dtype)
    layer = SelfAttention(4, 1, bias=False, output_projection=False, dtype=dtype)
    W_q, W_k, W_v = (p.weight.T for p in (layer.query_projection, layer.key_projection, layer.value_projection))
    Q, K, V = x @ W_q, x @ W_k, x @ W_v
    attended = torch.softmax(Q @ K.T / 4**0.5, dim=-1) @ V

    assert sum(p.numel() for p in layer.parameters()) == 3 * 4 * 4
    torch.testing.assert_close(layer(x), attended, rtol=0, atol=4 * torch.finfo(dtype).eps)


def possible(options):
    head_dim = options["head_dim"] or options["embed_dim"] // options["num_heads"]
    even_or_unturned = head_dim % 2 == 0 or options["rotary"] is None
    return options["num_heads"] % (options["kv_heads"] or 1) == 0 and even_or_unturned


layers = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "embed_dim": st.just(30),
        "num_heads": st.sampled_from([1, 2, 3, 6]),
        "kv_heads": st.sampled_from([None, 1, 2, 3]),
        "head_dim": st.sampled_from([None, 2, 14]),
        "bias": st.booleans(),
        "output_projection": st.booleans(),
        "qk_norm": st.booleans(),
        "rotary": st.sampled_from([None, 10_000.0, 7]),
        "is_causal": st.booleans(),
    }
).filter(possible)


@given(options=layers, batch=st.sampled_from([(), (1,), (3,)]), length=st.sampled_from([0, 1, 7, 17]))
def test_equals_the_formula(formula, options, batch, length):
    layer = float64_layer(**options)
    x = torch.randn(*batch, length, 30, dtype=torch.float64)
    allowed = torch.ones(length, length, dtype=torch.bool).tril() if layer.is_causal else None
    torch.testing.assert_close(layer(x), formula(layer, x, x, allowed), rtol=1e-13, atol=1e-12)


def test_gradients_equal_the_formula_s(formula):
    layer = float64_layer(5, embed_dim=12, num_heads=6, kv_heads=2, qk_norm=True, rotary=100.0)
    x = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    actual = torch.autograd.grad(layer(x).square().sum(), inputs)
    expected = torch.autograd.grad(formula(layer, x, x).square().sum(), inputs)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        assert theirs.abs().max() > 1e-3


def test_without_positions_order_carries_no_meaning_and_rotary_gives_it_one():
    x = torch.randn(7, 12, dtype=torch.float64)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    plain = float64_layer(1, embed_dim=12, num_heads=3)
    turned = float64_layer(1, embed_dim=12, num_heads=3, rotary=100.0)
    torch.testing.assert_close(plain(x[order]), plain(x)[order], **EXACT)
    assert (turned(x[order]) - turned(x)[order]).abs().max() > 1e-3


def test_a_causal_layer_does_not_look_ahead():
    layer = float64_layer(2, embed_dim=12, num_heads=3, is_causal=True)
    x = torch.randn(5, 7, 12, dtype=torch.float64)
    future = x.clone()
    future[:, 4:] = torch.randn(5, 3, 12, dtype=torch.float64)
    assert torch.equal(layer(x)[:, :4], layer(future)[:, :4])
    assert not torch.equal(layer(x)[:, 4:], layer(future)[:, 4:])


def test_normalised_heads_forget_the_size_of_queries_and_keys():
    layer = float64_layer(3, embed_dim=12, num_heads=3, bias=False, qk_norm=True)
    plain = float64_layer(3, embed_dim=12, num_heads=3, bias=False)
    x = torch.randn(7, 12, dtype=torch.float64)
    before, plain_before = layer(x), plain(x)
    with torch.no_grad():
        for grown in (layer, plain):
            grown.query_projection.weight *= 1000.0
            grown.key_projection.weight *= 1000.0
    # What is left of the difference is the norm's epsilon.
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-4)
    assert (plain(x) - plain_before).abs().max() > 1e-2


@examples(25)
@given(
    options=layers.map(lambda o: o | {"is_causal": True}),
    batch=st.sampled_from([(), (3,)]),
    steps=st.lists(st.sampled_from([1, 1, 2, 5]), min_size=1, max_size=5),
    mode=st.sampled_from(sorted(MODES)),
)
def test_decoding_step_by_step_equals_one_causal_pass(options, batch, steps, mode):
    layer = float64_layer(**options)
    x = torch.randn(*batch, sum(steps), 30, dtype=torch.float64)
    with MODES[mode]():
        torch.testing.assert_close(decoded(layer, x, steps), layer(x), rtol=1e-13, atol=1e-12)


def test_gradients_of_decoding_equal_those_of_one_pass():
    layer = float64_layer(4, embed_dim=12, num_heads=6, kv_heads=2, qk_norm=True, rotary=100.0, is_causal=True)
    x = torch.randn(3, 7, 12, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    stepwise = torch.autograd.grad(decoded(layer, x, [2, 1, 3, 1]).square().sum(), inputs)
    at_once = torch.autograd.grad(layer(x).square().sum(), inputs)
    for ours, theirs in zip(stepwise, at_once, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("is_causal", [True, False])
@torch.no_grad()
def test_functions_of_positions_mean_the_same_in_a_step_as_in_one_pass(is_causal):
    layer = float64_layer(6, embed_dim=12, num_heads=3, rotary=100.0, is_causal=is_causal)
    x = torch.randn(2, 11, 12, dtype=torch.float64)
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    table = torch.randn(3, 11, 11, dtype=torch.float64)
    arguments = {
        "mask_mod": masks.causal() & masks.documents(documents) & masks.sliding_window(2, 0),
        "score_mod": lambda score, b, h, q_idx, kv_idx: score + table[h, q_idx, kv_idx],
    }
    torch.testing.assert_close(decoded(layer, x, [4, 1, 1, 3, 2], **arguments), layer(x, **arguments), **EXACT)
    assert (layer(x, **arguments) - layer(x)).abs().max() > 1e-3


@torch.no_grad()
def test_a_plain_function_is_a_mask_while_decoding_too():
    layer = float64_layer(6, embed_dim=12, num_heads=3, is_causal=True)
    x = torch.randn(7, 12, dtype=torch.float64)

    def even_distance(b, h, q_idx, kv_idx):
        return (q_idx - kv_idx) % 2 == 0

    torch.testing.assert_close(
        decoded(layer, x, [3, 1, 3], mask_mod=even_distance), layer(x, mask_mod=even_distance), **EXACT
    )


@torch.no_grad()
def test_attn_mask_has_the_rows_of_this_call():
    layer = float64_layer(7, embed_dim=12, num_heads=3, is_causal=True)
    x = torch.randn(5, 7, 12, dtype=torch.float64)
    bias = torch.randn(3, 7, 7, dtype=torch.float64)
    cache = KeyValueCache()
    first = layer(x[:, :4], attn_mask=bias[:, :4, :4], cache=cache)
    second = layer(x[:, 4:], attn_mask=bias[:, 4:], cache=cache)
    torch.testing.assert_close(torch.cat((first, second), dim=1), layer(x, attn_mask=bias), **EXACT)


@torch.no_grad()
def test_padding_is_masked_by_its_keys():
    layer = float64_layer(8, embed_dim=12, num_heads=3)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    padded = layer(x, mask_mod=masks.key_lengths(torch.tensor([7, 3])))
    torch.testing.assert_close(padded[0], layer(x[0]), **EXACT)
    torch.testing.assert_close(padded[1, :3], layer(x[1, :3]), **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("batch", [(), (5,)])
def test_observing_tells_the_weights_and_changes_nothing(batch):
    layer = float64_layer(9, embed_dim=12, num_heads=6, kv_heads=2)
    x = torch.randn(*batch, 7, 12, dtype=torch.float64)
    output, seen = layer(x, observe=[readouts.Entropy(), readouts.TopK(1)])
    weights = seen.weights()
    value = layer.value_projection(x).unflatten(-1, (2, 2)).transpose(-3, -2).repeat_interleave(3, dim=-3)

    assert torch.equal(output, layer(x))
    assert weights.shape == (*batch, 6, 7, 7)
    assert seen.entropy.shape == (*batch, 6, 7)
    torch.testing.assert_close(seen.entropy, torch.special.entr(weights).sum(dim=-1), **EXACT)
    torch.testing.assert_close(seen.topk.weights[..., 0], weights.amax(dim=-1), **EXACT)
    joined = (weights @ value).transpose(-3, -2).flatten(-2)
    torch.testing.assert_close(layer.output_projection(joined), output, **EXACT)


@torch.no_grad()
def test_observations_of_steps_are_rows_of_one_pass():
    layer = float64_layer(10, embed_dim=12, num_heads=3, rotary=100.0, is_causal=True)
    x = torch.randn(5, 11, 12, dtype=torch.float64)
    chosen = [readouts.Entropy(), readouts.mean_distance(), readouts.mass_on_previous()]
    cache = KeyValueCache()
    steps = [layer(part, cache=cache, observe=chosen)[1] for part in x.split([4, 1, 1, 5], dim=1)]
    _, whole = layer(x, observe=chosen)
    for name in ("entropy", "mean_distance", "mass_on_previous"):
        joined = torch.cat([seen[name] for seen in steps], dim=-1)
        torch.testing.assert_close(joined, whole[name], **EXACT)
    torch.testing.assert_close(steps[0].weights(), whole.weights(queries=slice(0, 4), keys=slice(0, 4)), **EXACT)
    torch.testing.assert_close(steps[2].weights(), whole.weights(queries=5, keys=slice(0, 6)), **EXACT)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, dropout=0.5)
    x = torch.randn(7, 12)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    plain = SelfAttention(12, 3)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))


def test_layers_may_share_one_rotary():
    rotary = Rotary(4, base=100.0)
    first, second = SelfAttention(12, 3, rotary=rotary), SelfAttention(12, 3, rotary=rotary)
    assert first.rotary is second.rotary is rotary
    own = SelfAttention(12, 3, rotary=100.0)
    own.load_state_dict(first.state_dict())
    x = torch.randn(7, 12)
    assert torch.equal(own(x), first(x))


def test_parameters_are_those_of_the_options():
    def names(**options):
        return set(SelfAttention(12, 6, **options).state_dict())

    weights = {f"{part}_projection.weight" for part in ("query", "key", "value", "output")}
    biases = {f"{part}_projection.bias" for part in ("query", "key", "value", "output")}
    norms = {"query_norm.weight", "key_norm.weight"}
    assert names(rotary=100.0) == weights | biases
    assert names(bias=False, qk_norm=True) == weights | norms
    assert names(bias=False, output_projection=False) == weights - {"output_projection.weight"}


def test_widths_follow_the_heads():
    layer = SelfAttention(12, 6, kv_heads=2, head_dim=5)
    assert layer.query_projection.weight.shape == (30, 12)
    assert layer.key_projection.weight.shape == layer.value_projection.weight.shape == (10, 12)
    assert layer.output_projection.weight.shape == (12, 30)
    bare = SelfAttention(12, 6, head_dim=5, output_projection=False)
    assert bare(torch.ones(3, 7, 12)).shape == (3, 7, 30)


def test_weights_start_from_xavier_and_biases_from_0():
    layer = SelfAttention(36, 6, kv_heads=2)
    for linear in (layer.query_projection, layer.key_projection, layer.value_projection, layer.output_projection):
        bound = (6 / sum(linear.weight.shape)) ** 0.5
        assert 0.95 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()


def test_weights_can_start_afresh():
    layer = float64_layer(0, embed_dim=12, num_heads=6, qk_norm=True)
    torch.manual_seed(7)
    layer.reset_parameters()
    torch.manual_seed(7)
    fresh = SelfAttention(12, 6, qk_norm=True, dtype=torch.float64)
    torch.manual_seed(7)
    fresh.reset_parameters()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(layer.state_dict()[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_stays_lower_precision(dtype):
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, qk_norm=True, rotary=100.0, is_causal=True, dtype=dtype)
    exact = copy.deepcopy(layer).double()
    x = torch.randn(7, 12, dtype=dtype)
    output = decoded(layer, x, [3, 1, 3])
    assert output.dtype == dtype
    # Some ten roundings lie between x and the output.
    torch.testing.assert_close(output.double(), exact(x.double()), rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_works_under_autocast():
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, qk_norm=True, rotary=100.0)
    x = torch.randn(7, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    torch.testing.assert_close(output.float(), layer(x), rtol=0, atol=10 * torch.finfo(torch.bfloat16).eps)


def test_can_be_built_and_run_without_memory():
    layer = SelfAttention(12, 3, rotary=100.0, qk_norm=True, device="meta")
    assert layer.query_projection.weight.is_meta


def test_its_picture_says_its_sizes():
    assert "num_heads=6, kv_heads=2, head_dim=2, is_causal=True" in repr(
        SelfAttention(12, 6, kv_heads=2, is_causal=True)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 0}, "embed_dim: must be positive, got 0"),
        ({"num_heads": 0}, "num_heads: must be positive, got 0"),
        ({"num_heads": 5}, "embed_dim: 12 does not split into 5 equal heads.*head_dim"),
        ({"kv_heads": 4}, "kv_heads: must divide the 6 heads of num_heads, got 4"),
        ({"kv_heads": 0}, "kv_heads: must be positive, got 0"),
        ({"kv_heads": 12}, "kv_heads: must divide the 6 heads of num_heads, got 12"),
        ({"head_dim": 0}, "head_dim: must be positive, got 0"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and less than 1, got 1.0"),
        ({"head_dim": 5, "rotary": 100.0}, "head_dim: .*even.*got 5"),
        ({"rotary": Rotary(4)}, "rotary: its head_dim 4 must be the layer's 2"),
        ({"rotary": -1.0}, "base: must be positive, got -1.0"),
    ],
)
def test_refuses_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        SelfAttention(**{"embed_dim": 12, "num_heads": 6} | options)


def test_refuses_a_rotary_that_is_a_switch():
    with pytest.raises(TypeError, match=r"rotary: must be a Rotary or the base of one.*got a bool"):
        SelfAttention(12, 6, rotary=True)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0] * 12], TypeError, "x: must be a tensor, got list"),
        (torch.ones(12), ValueError, r"x: must be \[batch, length, 12\] or \[length, 12\].*got \[12\]"),
        (torch.ones(2, 3, 5, 12), ValueError, r"x: .*got \[2, 3, 5, 12\]"),
        (torch.ones(3, 7, 11), ValueError, r"x: .*got \[3, 7, 11\]"),
        (torch.ones(3, 7, 12, dtype=torch.int64), TypeError, r"x: must have a floating dtype, got torch.int64"),
    ],
)
def test_refuses_tokens_that_do_not_fit(x, error, message):
    with pytest.raises(error, match=message):
        SelfAttention(12, 6)(x)


def test_refuses_the_cache_of_another_batch():
    layer, cache = SelfAttention(12, 6), KeyValueCache()
    layer(torch.ones(2, 3, 12), cache=cache)
    with pytest.raises(ValueError, match=r"cache: it holds keys of shape .* was given \[5, 6, 1, 2\]"):
        layer(torch.ones(5, 1, 12), cache=cache)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_refused_step_leaves_the_cache_as_it_was(mode):
    layer = float64_layer(11, embed_dim=12, num_heads=3, rotary=100.0, is_causal=True)
    x = torch.randn(5, 7, 12, dtype=torch.float64)
    cache = KeyValueCache()
    with MODES[mode]():
        first = layer(x[:, :3], cache=cache)
        with pytest.raises(ValueError, match=r"attn_mask: must broadcast"):
            layer(x[:, 3:], cache=cache, attn_mask=torch.ones(4, 13))
        assert cache.length == 3
        second = layer(x[:, 3:], cache=cache)
        torch.testing.assert_close(torch.cat((first, second), dim=1), layer(x), **EXACT)
