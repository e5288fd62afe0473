"""Every allocation says where, so that whatever torch's default device is changes nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid.engines import repeated
from pellucid.engines.cpu.call import plan
from pellucid.engines.cpu.machine import threads
from tests.cases import ENGINES, running

PACKAGE = Path(__file__).parents[1] / "pellucid"
ALLOCATIONS = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "frombuffer", "full", "hann_window"),
    *("linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "range", "scalar_tensor"),
    *("tensor", "tril_indices", "triu_indices", "zeros"),
}


def nameless(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
            and node.func.attr in ALLOCATIONS
            and not any(keyword.arg == "device" for keyword in node.keywords)
        ):
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}: torch.{node.func.attr} names no device"


def test_every_allocation_names_its_device() -> None:
    assert [found for path in sorted(PACKAGE.rglob("*.py")) for found in nameless(path)] == []


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets all that earlier calls left."""

    def forget() -> None:
        monkeypatch.setattr(plan, "_plans", {})
        monkeypatch.setattr(repeated, "_known", {})
        monkeypatch.setattr(threads, "_local", type(threads._local)())

    return forget


def everything() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 67, 16, generator=draw, device="cpu").unbind(0)
    ids, mask = torch.arange(67, device="cpu") // 7, torch.ones(67, 67, dtype=torch.bool, device="cpu").tril()
    read = [
        pellucid.LogSumExp(), pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), pellucid.Pooled(3, 5),
        pellucid.PooledMax(5, 3), pellucid.readouts.mean_distance(),
    ]  # fmt: skip
    beside = [pellucid.Renyi(2), pellucid.At(torch.tensor([[0, 3]], device="cpu"))]
    _, seen = pellucid.observe(query, key, value, is_causal=True, readouts=beside)
    found = [seen.renyi, seen.at]
    for _ in range(2):  # the second time the short way
        output, seen = pellucid.observe(query, key, value, is_causal=True, readouts=read)
        found += [output, seen.lse, seen.entropy, *seen.topk, seen.received, seen.pooled, seen.pooled_max]
        found += [seen.mean_distance, seen.weights(), seen.weights(queries=[1, 3], keys=5, heads=slice(0, 2))]
        found += [pellucid.attention(query, key, value, mask), pellucid.attention(query[:, :, :1], key, value)]
        found.append(pellucid.attention(query, key, value, mask_mod=pellucid.masks.documents(ids)))
    leaf = query.clone().requires_grad_()
    found += torch.autograd.grad(pellucid.attention(leaf, key, value).square().sum(), leaf)
    assert pellucid.attention(query, key, value, dropout_p=0.3).is_cpu
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_default_device_changes_nothing(engine: str, afresh: Callable[[], None]) -> None:
    with running(engine, (32, 32)):
        wanted = everything()
        afresh()
        with torch.device("meta"):
            found = everything()
    assert all(map(torch.equal, found, wanted))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.linear = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return self.linear(attended)


def test_watched_accelerated_and_kept_on_disk(tmp_path: Path) -> None:
    model, x = Model().eval().requires_grad_(False), torch.randn(2, 7, 8)
    wanted = model(x)
    with torch.device("meta"):
        with pellucid.watch(model, keep=True) as record:
            model(x)
        record.save(tmp_path / "run.attn")
        layer = pellucid.open_record(tmp_path / "run.attn")["attention"]
        assert layer.readings["lse"].is_cpu
        assert layer.weights().sum(-1).allclose(torch.ones((), device="cpu"))
        pellucid.accelerate(model)
        found: Any = [model(x), model(x[:1, :1])]
    assert torch.allclose(found[0], wanted, atol=1e-6)
    assert found[1].is_cpu
