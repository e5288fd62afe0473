"""Which engine runs a call, why the others do not, and that large calls that fall back say so once."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import pellucid
from pellucid import engines
from pellucid.readouts import Expect, Readout, TopK

X = torch.rand(1, 2, 5, 8)
WIDE = torch.rand(1, 1, 3, 300)


class Own(pellucid.Entropy):
    """A readout of a user's own."""

    name = "own"


def named(readout: Readout, name: str) -> Readout:
    """A readout under another name."""
    readout.name = name
    return readout


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "wide": ((WIDE, WIDE, WIDE), {}, "head_dim is from 1 to 256, not 300"),
    "no keys": ((X, X[:, :, :0], X[:, :, :0]), {}, "there are no queries, or no keys"),
    "device": ((X.to("meta"),) * 3, {}, "a tensor is not simply numbers"),
    "many top keys": ((X, torch.rand(1, 2, 200, 8), torch.rand(1, 2, 200, 8)), {"readouts": [TopK(129)]}, "TopK keeps"),
    "own readout": ((X, X, X), {"readouts": [Own()]}, "the readout 'own' is unknown"),
    "two of a kind": (
        (X, X, X),
        {"readouts": [TopK(2), named(TopK(3), "top_3")]},
        "it reads one 'topk' a call, under that name, not 'top_3'",
    ),
    "captured": (
        (X, X, X),
        {"readouts": [Expect(lambda b, h, q, k: torch.ones(1, 1, 1, 1, 5)[0, 0, 0, 0, k], "far")]},
        r"a captured tensor or attn_mask has up to 4 dimensions, not \[1, 1, 1, 1, 5\]",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_reason_is_told(name: str) -> None:
    arguments, named, words = CALLS[name]
    why = engines.why(*arguments, **named)
    assert why.engine == "portable"
    with pytest.raises(ValueError, match=words):
        raise ValueError(why.declined["cpu"])
    assert str(why) == f"portable; not cpu: {why.declined['cpu']}"


def test_the_first_that_runs_it() -> None:
    assert engines.why(X, X, X, is_causal=True, readouts=[pellucid.Entropy()]) == ("cpu", {}, None)
    with engines.using("portable"):
        assert engines.why(X, X, X) == ("portable", {}, None)
    dual: list[engines.Why] = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        dual.append(engines.why(x, X, X))
        return pellucid.attention(x, X, X).sum()

    torch.func.grad(loss)(X)
    assert dual[0].engine == "reference"
    assert list(dual[0].declined) == ["cpu", "portable"]


def test_wrong_arguments_are_told_as_by_observe() -> None:
    with pytest.raises(ValueError, match=r"^key: its head_dim must be query's"):
        engines.why(X, WIDE, WIDE)
    with pytest.raises(TypeError, match=r"^readouts: each must be a readout"):
        engines.why(X, X, X, readouts=["entropy"])


def test_a_large_call_that_falls_back_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LARGE", 40)
    monkeypatch.setattr(engines, "_told", set())
    wide = torch.rand(1, 2, 5, 300)
    with pytest.warns(UserWarning, match=r"attention of 5.0e\+01 scores is left to .* head_dim is from 1 to") as told:
        pellucid.attention(wide, wide, X)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pellucid.attention(wide, wide, X)  # it was said
        pellucid.attention(wide[:, :1], wide[:, :1], X[:, :1])  # not large
        pellucid.attention(X, X[:, :, :0], X[:, :, :0])  # nobody can change that


def test_not_of_a_models_own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LARGE", 1)
    monkeypatch.setattr(engines, "_told", set())

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pellucid.accelerate(Model())(X)
        with pellucid.everywhere():
            Model()(X)
