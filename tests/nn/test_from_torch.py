import pytest
import torch
from torch import nn

from pellucid import masks
from pellucid.nn import CrossAttention, SelfAttention

ULP = torch.finfo(torch.float64).eps
EXACT = {"rtol": 0, "atol": 64 * ULP}  # float64 sums of some tens of numbers around 1, in another order


def multihead(seed=0, **options):
    """A MultiheadAttention of width 12 with every parameter drawn; torch's own start leaves the biases 0."""
    torch.manual_seed(seed)
    source = nn.MultiheadAttention(12, 3, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_(std=0.5)
    return source


def torch_answer(source, x, context, **arguments):
    """Outputs and weights of `source` for batch-first tensors, whatever it expects."""
    if not source.batch_first and x.ndim == 3:
        x, context = x.transpose(0, 1), context.transpose(0, 1)
    output, weights = source(x, context, context, average_attn_weights=False, **arguments)
    return (output.transpose(0, 1) if not source.batch_first and x.ndim == 3 else output), weights


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (5,)])
def test_self_attention_gives_the_same_numbers(batch_first, bias, batch):
    source = multihead(batch_first=batch_first, bias=bias)
    layer = SelfAttention.from_torch(source)
    x = torch.randn(*batch, 7, 12, dtype=torch.float64)
    expected, weights = torch_answer(source, x, x)
    output, seen = layer(x, observe=[])
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    torch.testing.assert_close(seen.weights(), weights, **EXACT)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("context_dim", [12, 5])
@pytest.mark.parametrize("batch", [(), (5,)])
def test_cross_attention_gives_the_same_numbers(batch_first, bias, context_dim, batch):
    source = multihead(batch_first=batch_first, bias=bias, kdim=context_dim, vdim=context_dim)
    layer = CrossAttention.from_torch(source)
    x = torch.randn(*batch, 7, 12, dtype=torch.float64)
    context = torch.randn(*batch, 11, context_dim, dtype=torch.float64)
    expected, weights = torch_answer(source, x, context)
    output, seen = layer(x, context, observe=[])
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(seen.weights(), weights, **EXACT)


def test_a_causal_layer_is_torch_s_with_a_causal_mask():
    source = multihead(batch_first=True)
    x = torch.randn(5, 7, 12, dtype=torch.float64)
    forbidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected, _ = torch_answer(source, x, x, attn_mask=forbidden)
    torch.testing.assert_close(SelfAttention.from_torch(source, is_causal=True)(x), expected, **EXACT)
    torch.testing.assert_close(SelfAttention.from_torch(source)(x, attn_mask=~forbidden), expected, **EXACT)


@pytest.mark.parametrize("role", [SelfAttention, CrossAttention])
def test_padding_is_written_as_documented(role):
    source = multihead(batch_first=True)
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    lengths = torch.tensor([7, 3])
    key_padding_mask = torch.arange(7) >= lengths[:, None]
    expected, _ = torch_answer(source, x, x, key_padding_mask=key_padding_mask)
    layer = role.from_torch(source)
    tokens = (x,) if role is SelfAttention else (x, x)
    torch.testing.assert_close(layer(*tokens, attn_mask=~key_padding_mask[:, None, None]), expected, **EXACT)
    torch.testing.assert_close(layer(*tokens, mask_mod=masks.key_lengths(lengths)), expected, **EXACT)


@pytest.mark.parametrize("role", [SelfAttention, CrossAttention])
def test_weights_are_copies_that_train(role):
    source = multihead().requires_grad_(False)
    layer = role.from_torch(source)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in layer.parameters())


@pytest.mark.parametrize("role", [SelfAttention, CrossAttention])
def test_dropout_mode_and_random_numbers_are_kept(role):
    source = multihead(dropout=0.25).eval()
    state = torch.get_rng_state()
    layer = role.from_torch(source)
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.dropout == 0.25
    assert not layer.training
    assert role.from_torch(source.train()).training


def test_dtype_is_kept():
    layer = SelfAttention.from_torch(nn.MultiheadAttention(12, 3, dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("role", [SelfAttention, CrossAttention])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_bias_kv": True}, "source: add_bias_kv=True is not supported"),
        ({"add_zero_attn": True}, "source: add_zero_attn=True is not supported"),
        ({"kdim": 5, "vdim": 7}, "source: kdim 5 and vdim 7 differ"),
    ],
)
def test_refuses_what_it_cannot_do(role, options, message):
    with pytest.raises(ValueError, match=message):
        role.from_torch(multihead(**options))


def test_refuses_self_attention_to_another_width():
    with pytest.raises(ValueError, match=r"source: its keys are 5 wide and its queries 12.*CrossAttention.from_torch"):
        SelfAttention.from_torch(multihead(kdim=5, vdim=5))


@pytest.mark.parametrize("role", [SelfAttention, CrossAttention])
def test_refuses_other_modules(role):
    with pytest.raises(TypeError, match=r"source: must be a torch.nn.MultiheadAttention, got Linear"):
        role.from_torch(nn.Linear(12, 12))
