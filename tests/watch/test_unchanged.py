"""What watching must leave as it is: losses and gradients with dropout, rows of padding, ensembles of torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
import transformers
from torch import Tensor, nn
from torch.nn import functional

import pellucid
from pellucid import restore

DROPPED = 0.3
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}


class OfFunction(nn.Module):
    """One layer of attention, by a function that is called as SDPA is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.qkv, self.function = nn.Linear(12, 36), function

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        found = self.function(query, key, value, dropout_p=DROPPED if self.training else 0.0)
        return found[0] if isinstance(found, tuple) else found


def written_out(query: Tensor, key: Tensor, value: Tensor, dropout_p: float) -> Tensor:
    return functional.dropout((query @ key.mT).softmax(-1), dropout_p) @ value


def bert(implementation: str) -> Any:
    config = transformers.BertConfig(**SIZES, vocab_size=53, attention_probs_dropout_prob=DROPPED)
    model = transformers.BertModel._from_config(config, attn_implementation=implementation)
    ids, mask = torch.randint(3, 53, (2, 7)), torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    return model, lambda: model(ids, attention_mask=mask)[0]


def of_torch(model: nn.Module) -> Any:
    x = torch.randn(2, 7, 12)
    return model, lambda: model(x)


TRAINED: dict[str, Callable[[], Any]] = {
    "sdpa": lambda: of_torch(OfFunction(functional.scaled_dot_product_attention)),
    "pellucid.attention": lambda: of_torch(OfFunction(pellucid.attention)),
    "pellucid.observe": lambda: of_torch(OfFunction(pellucid.observe)),
    "by hand": lambda: of_torch(OfFunction(written_out)),
    "encoder layer": lambda: of_torch(nn.TransformerEncoderLayer(12, 2, 17, DROPPED, batch_first=True)),
    "decoder layer": lambda: (lambda model: (model, lambda: model(torch.ones(2, 5, 12), torch.ones(2, 3, 12))))(
        nn.TransformerDecoderLayer(12, 2, 17, DROPPED, batch_first=True)
    ),
    "pellucid.nn": lambda: of_torch(pellucid.nn.SelfAttention(12, 2, dropout=DROPPED)),
    "bert": lambda: bert("sdpa"),
    "eager bert": lambda: bert("eager"),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_with_dropout_is_the_same_at_the_same_seed(name: str) -> None:
    torch.manual_seed(0)
    model, run = TRAINED[name]()
    model.train()

    def losses() -> list[Tensor]:
        torch.manual_seed(11)
        model.zero_grad()
        found = []
        for _ in range(2):
            loss = run().square().mean()
            loss.backward()
            found += [loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        return [*found, torch.rand(3)]  # and what is drawn next

    expected = losses()
    with pellucid.watch(model, keep=True) as record, pellucid.watch(model):
        found = losses()
    assert all(map(torch.equal, found, expected))
    weights = next(iter(record.values())).weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))  # before any is dropped


@pytest.mark.sampled
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("longest", [7, 5])
@pytest.mark.parametrize("how", ["watch", "accelerate"])
def test_rows_of_padding_are_what_torchs_encoder_makes_of_them(longest: int, how: str) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(12, 2, 17, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(12))

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=padding).mean(1)

    torch.manual_seed(0)
    model, x = Classifier().eval().requires_grad_(False), torch.randn(3, 7, 12)
    padding = torch.arange(7) >= torch.tensor([[longest], [3], [2]])
    expected = model(x, padding)
    if how == "accelerate":
        found = pellucid.accelerate(model)(x, padding)
        assert torch.equal(found, expected)
        restore(model)
    with pellucid.watch(model) as record:
        found = model(x, padding)
    assert torch.equal(found, expected)
    assert record.layers == ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]
    assert torch.equal(record[1].entropy.isnan()[:, 0], padding)
    assert [type(module) for module in (model.encoder, model.encoder.layers[0])] == [
        nn.TransformerEncoder,
        nn.TransformerEncoderLayer,
    ]


def stacked(makers: int) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor], list[nn.Module]]:
    torch.manual_seed(0)
    members = [OfFunction(functional.scaled_dot_product_attention).eval() for _ in range(makers)]
    return (members[0], *torch.func.stack_module_state(members), members)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:`torch.jit")  # torch's own, of SDPA
@pytest.mark.parametrize("transform", ["plain", "grad"])
def test_each_member_of_a_vmapped_ensemble_has_its_readings(transform: str) -> None:
    base, parameters, buffers, members = stacked(3)
    x = torch.randn(2, 7, 12)

    def output(own: Any, state: Any) -> Tensor:
        return torch.func.functional_call(base, (own, state), (x,))

    def loss(own: Any, state: Any) -> Tensor:
        return output(own, state).square().mean()

    run = torch.func.vmap(output if transform == "plain" else torch.func.grad(loss))
    expected = run(parameters, buffers)
    with pellucid.watch(base) as record:
        found = run(parameters, buffers)
    assert torch.utils._pytree.tree_all(lambda pair: pair, torch.utils._pytree.tree_map(torch.equal, found, expected))
    assert len(record) == 3
    for layer, member in zip(record.values(), members, strict=True):
        with pellucid.watch(member) as alone:
            member(x)
        (own,) = alone.values()
        torch.testing.assert_close(layer.entropy, own.entropy, atol=1e-6, rtol=1e-6)
        assert layer.entropy.isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:`torch.jit")  # torch's own, of SDPA
def test_gradients_and_tangents_of_functions_leave_plain_readings() -> None:
    base, x = OfFunction(pellucid.attention).eval(), torch.randn(2, 7, 12)

    def loss(x: Tensor) -> Tensor:
        return base(x).square().mean()

    for transform in (torch.func.grad(loss), lambda x: torch.func.jvp(loss, (x,), (torch.ones_like(x),))[1]):
        expected = transform(x)
        with pellucid.watch(base) as record, pellucid.watch(base, keep=True) as kept:
            found = transform(x)
        torch.testing.assert_close(found, expected)
        with pellucid.watch(base) as plain:
            base(x)
        torch.testing.assert_close(record[0].entropy, plain[0].entropy)
        assert kept[0].weights().shape == (2, 2, 7, 7)


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:`torch.jit")  # torch's own, of SDPA
def test_vmaps_in_a_vmap_are_listed() -> None:
    base = nn.Sequential(OfFunction(functional.scaled_dot_product_attention)).eval().requires_grad_(False)
    x = torch.randn(2, 3, 2, 5, 12)
    expected = torch.func.vmap(torch.func.vmap(base))(x)

    def watched() -> tuple[pellucid.Record, Tensor]:
        with pellucid.watch(base) as record:
            base(x[0, 0])
            return record, torch.func.vmap(torch.func.vmap(base))(x)

    with pytest.warns(UserWarning, match="0: it runs in torch.func.vmap inside another"):
        record, found = watched()
    assert torch.equal(found, expected)
    assert record.layers == ["0"]


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = OfFunction(functional.scaled_dot_product_attention)

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)


def checkpointed_llama() -> Any:
    own = {"num_key_value_heads": 2, "vocab_size": 53, "use_cache": False}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **own)).train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    ids = torch.randint(3, 53, (2, 7))
    return model, lambda: model(ids).logits


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_checkpointed_forward_may_be_run_again_once_the_watch_is_over(name: str) -> None:
    torch.manual_seed(0)
    model, run = of_torch(Checkpointed().eval()) if name == "torch" else checkpointed_llama()
    expected = torch.autograd.grad(run().square().mean(), [*model.parameters()])
    with pellucid.watch(model) as record:
        loss = run().square().mean()
    found = torch.autograd.grad(loss, [*model.parameters()])
    torch.testing.assert_close(found, expected)
    assert len(record) == (1 if name == "torch" else 2)
