"""Gradients of readouts from the backward kernel, against float64: each by itself and all in one loss."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, masks
from pellucid.engines.cpu.machine.target import host, lesser
from pellucid.readouts import (
    At,
    Entropy,
    Expect,
    LogSumExp,
    MaxScore,
    Pooled,
    Readout,
    Received,
    Renyi,
    TopK,
    mass_on_previous,
    mean_distance,
)
from pellucid.readouts.base import tensors_of
from tests.cases import normal
from tests.engines.cpu.backward.calls import assert_right
from tests.engines.cpu.emulated import compiling_for
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.protected import Guarded
from tests.engines.cpu.test_batch import threads
from tests.engines.cpu.test_protected_page import EDGES
from tests.thorough import in_turn, thorough

ALLOWED = torch.rand(61, 301, generator=torch.Generator().manual_seed(1)) > 0.2
ALLOWED[7] = False
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal, sinks": {"is_causal": True, "sinks": True},
    "window, softcap": {
        "mask_mod": masks.sliding_window(20, 3),
        "score_mod": lambda s, b, h, q, k: 2 * torch.tanh(s / 2) - 0.01 * h * (q - k),
    },
    "an empty row, sinks": {"attn_mask": ALLOWED, "sinks": True},
    "no key for many": {"mask_mod": lambda b, h, q, k: k < q - 30 + 20 * b},
    "negative scale": {"scale": -0.3},
}
HEADS = ((4, 2), (2, 2), (3, 1))


def keys(q_len: int = 61, k_len: int = 301) -> Tensor:
    """Five of each query, some of them twice, and -1 for none."""
    return torch.arange(q_len)[:, None] * torch.tensor([1, 0, 5, 0, 3]) % (k_len - 1) - 1


def named(name: str, readout: Readout) -> Readout:
    """A readout under another name, so that there may be two of a kind."""
    readout.name = name
    return readout


READOUTS: dict[str, Callable[[], Readout]] = {
    "lse": LogSumExp,
    "entropy": Entropy,
    "entropy of keys": lambda: named("of keys", Entropy(sink=False)),
    "max score": MaxScore,
    "distance": mean_distance,
    "previous": mass_on_previous,
    "anything where masked": lambda: Expect(lambda b, h, q, k: torch.log(301.0 * (k <= q + 4) - k), "logarithm"),
    "at": lambda: At(keys()),
    "at, of all heads": lambda: At(keys(1), sum_heads=True),
    "top-k": lambda: TopK(5),
    "received": Received,
    "received from some": lambda: Received(slice(3, -4, 5)),
    "pooled": lambda: Pooled(5, 7),
    "Renyi 0": lambda: named("Renyi 0", Renyi(0)),
    "Renyi 0.2": lambda: named("Renyi 0.2", Renyi(0.2)),
    "Renyi 0.7 of keys": lambda: named("Renyi 0.7", Renyi(0.7, sink=False)),
    "Renyi 1": lambda: named("Renyi 1", Renyi(1)),
    "Renyi 1.3": lambda: named("Renyi 1.3", Renyi(1.3)),
    "Renyi 3": lambda: named("Renyi 3", Renyi(3)),
    "Renyi 3 of keys": lambda: named("Renyi 3 of keys", Renyi(3, sink=False)),
}
TOGETHER = [
    name for name in READOUTS if name not in ("at, of all heads", "received from some", "anything where masked")
]
FEW = ("entropy", "max score", "previous", "top-k", "received", "pooled")
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
# By itself each is a case of its own among the stages of a kernel: what is nowhere else, and one of each way.
ALONE = ("at, of all heads", "received from some", "anything where masked")


def made_of(names: Sequence[str], q_len: int, k_len: int) -> list[Readout]:
    """Readouts of a call of these lengths."""
    return [At(keys(q_len, k_len)) if name == "at" else READOUTS[name]() for name in names]


def drawn(dtype: torch.dtype, heads: tuple[int, int] = (4, 2), q_len: int = 61, k_len: int = 301) -> list[Tensor]:
    """Query, key, value and sinks."""
    shapes = (2, heads[0], q_len, 19), (2, heads[1], k_len, 19), (2, heads[1], k_len, 11), (heads[0],)
    return [normal(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


def results(leaves: Sequence[Tensor], call: dict[str, Any], readouts: Sequence[Readout]) -> list[Tensor]:
    """The output and what is read that may be differentiated; what is infinite as 0."""
    query, key, value, sinks = leaves
    call = call | ({"sinks": sinks} if "sinks" in call else {})
    grouped = {"enable_gqa": query.shape[1] != key.shape[1], "readouts": readouts}
    assert engines.why(query, key, value, **grouped, **call).engine == engines.preferred()
    output, seen = pellucid.observe(query, key, value, **grouped, **call)
    found = [output, *(tensors_of(seen[readout.name])[0] for readout in readouts)]
    return [torch.where(result == -math.inf, 0.0, result) for result in found]


def gradients(
    engine: str, tensors: Sequence[Tensor], call: dict[str, Any], names: Sequence[str], of_output: float = 1.0
) -> list[Tensor]:
    """Of query, key, value, and sinks if the call has them."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with engines.using(engine):
        found = results(leaves, call, made_of(names, tensors[0].shape[-2], tensors[1].shape[-2]))
    upstream = [normal(*result.shape, seed=seed, dtype=torch.float64) for seed, result in enumerate(found, 9)]
    upstream = [rounded.to(tensors[0].dtype).to(one.dtype) for rounded, one in zip(upstream, found, strict=True)]
    upstream[0] = upstream[0] * of_output
    return list(torch.autograd.grad(found, leaves[: 4 if "sinks" in call else 3], upstream))


def check(dtype: torch.dtype, heads: tuple[int, int], call: dict[str, Any], names: Sequence[str]) -> None:
    """The compiled engine's gradients are as near to float64 as torch's operations."""
    tensors = drawn(dtype, heads)
    exact = gradients("reference", [tensor.double() for tensor in tensors], call, names)
    peer = gradients("reference", tensors, call, names)
    made = [*tensors[:3], torch.full((1, 1), 10.0, dtype=dtype)]
    assert_right(gradients("cpu", tensors, call, names), exact, made, peer)


@pytest.mark.parametrize(
    ("name", "dtype"), thorough(itertools.product(READOUTS, DTYPES), in_turn(ALONE, DTYPES), share=27), ids=str
)
def test_each_by_itself(name: str, dtype: torch.dtype) -> None:
    place = list(READOUTS).index(name) + (dtype == torch.float32) + 3 * (dtype == torch.bfloat16)
    call = "causal, sinks" if name == "anything where masked" else list(CALLS)[place % len(CALLS)]
    check(dtype, HEADS[place % 3], CALLS[call], [name])


@pytest.mark.parametrize(
    ("call", "dtype"),
    thorough(
        [*itertools.product(CALLS, DTYPES), ("causal, sinks", torch.float16)],
        in_turn(("window, softcap", "an empty row, sinks"), DTYPES, 1),
        share=11,
    ),
    ids=str,
)
def test_all_in_one_loss(call: str, dtype: torch.dtype) -> None:
    check(dtype, (4, 2), CALLS[call], TOGETHER)


def weighted(found: Sequence[Tensor]) -> Tensor:
    """One loss, so that one kernel has all of them; of each number times some number."""
    return torch.stack([(one * normal(*one.shape, seed=seed)).sum() for seed, one in enumerate(found)]).sum()


def test_finite_differences_of_all() -> None:
    tensors = [tensor.requires_grad_() for tensor in drawn(torch.float64, (4, 2), 5, 23)]

    def loss(*leaves: Tensor) -> Tensor:
        return weighted(results(leaves, CALLS["causal, sinks"], made_of(TOGETHER, 5, 23)))

    with engines.using("cpu"):
        assert torch.autograd.gradcheck(loss, tensors, atol=1e-6, fast_mode=True)


@pytest.mark.thorough
@pytest.mark.parametrize("call", ["causal, sinks", "window, softcap"])
def test_finite_differences(call: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in drawn(torch.float64, (2, 1), 5, 7)]
    readouts = [
        Entropy(), named("of keys", Entropy(sink=False)), MaxScore(), mean_distance(), TopK(3),
        At(torch.tensor([[1, 3, -1, 3]]), sum_heads=True), Received(slice(1, None, 2)), Pooled(2, 3),
        Renyi(2), named("near", Renyi(0.7)),
    ]  # fmt: skip

    def loss(*leaves: Tensor) -> Tensor:
        return weighted(results(leaves, CALLS[call], readouts))

    with engines.using("cpu"):
        assert torch.autograd.gradcheck(loss, tensors, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(
    ("call", "dtype"),
    thorough(
        itertools.product(["plain", "window, softcap"], [torch.float32, torch.bfloat16]),
        [("window, softcap", torch.float32)],
        share=3,
    ),
    ids=str,
)
def test_the_same_bits_for_any_number_of_threads(call: str, dtype: torch.dtype) -> None:
    tensors, found = drawn(dtype, (4, 2), 401, 530), []
    for number in (1, 2, 3, 2):
        with threads(number):
            found.append(gradients("cpu", tensors, CALLS[call], TOGETHER))
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again, strict=True))


@pytest.mark.parametrize(
    ("dtype", "dropout_p", "names"),
    thorough(
        [(torch.float32, 0.3, FEW[-3:]), *((dtype, p, TOGETHER) for dtype in DTYPES for p in (0.0, 0.3))],
        [(torch.float32, 0.3, FEW[-3:])],
        share=7,
    ),
    ids=str,
)
def test_what_functions_captured(dtype: torch.dtype, dropout_p: float, names: Sequence[str]) -> None:
    """By Expect alone, by score_mod alone, and by both; one that is in no loss has a gradient of 0."""

    def found(engine: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in drawn(torch.bfloat16)]
        shared, read, scored = (
            normal(*shape, seed=seed, dtype=torch.bfloat16).to(dtype).requires_grad_()
            for seed, shape in enumerate(((361,), (4, 301), (61, 301)))
        )
        call = {"is_causal": True, "sinks": True, "dropout_p": dropout_p} | {
            "score_mod": lambda s, b, h, q, k: s + shared[q - k + 300] * scored[q, k]
        }
        readouts = [
            *(READOUTS[name]() for name in names),
            Expect(lambda b, h, q, k: shared[q - k + 300] * read[h, k] + k, "learned"),
            Expect(lambda b, h, q, k: torch.exp(read[h, k]) * scored[q, 3], "learned too"),
        ]
        with engines.using(engine):
            torch.manual_seed(3)
            made = results(leaves, call, readouts)
        upstream = [normal(*result.shape, seed=seed, dtype=torch.bfloat16) for seed, result in enumerate(made, 9)]
        wanted = [*leaves, shared, read, scored]
        return list(torch.autograd.grad(made, wanted, [u.to(m.dtype) for u, m in zip(upstream, made, strict=True)]))

    exact, own = found("reference", torch.float64), found("cpu", dtype)
    limit = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for mine, true in zip(own, exact, strict=True):
        assert (mine.double() - true).norm() <= limit * true.norm(), mine.shape


def test_a_sink_that_takes_all_but_nothing_leaves_the_keys_entropy_its_gradient() -> None:
    """Their weights are no numbers of float32, their shares are."""
    tensors = drawn(torch.float32)
    tensors[3] = tensors[3] + 130.0
    names = ["entropy of keys", "Renyi 0.7 of keys", "Renyi 3 of keys"]
    exact = gradients("reference", [t.double() for t in tensors], CALLS["causal, sinks"], names, of_output=0.0)
    found = gradients("cpu", tensors, CALLS["causal, sinks"], names, of_output=0.0)
    for own, true in zip(found[:2], exact, strict=False):
        assert true.norm() > 1
        torch.testing.assert_close(own.double(), true, rtol=1e-4, atol=1e-4)


def test_only_what_is_in_the_loss_is_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.engines.cpu.call import gradients as call

    compiled = []
    usual = call.for_gradients
    monkeypatch.setattr(call, "for_gradients", lambda *a, **more: compiled.append(more["stages"]) or usual(*a, **more))
    query, key, value, _ = (tensor.requires_grad_() for tensor in drawn(torch.float32, (2, 2)))
    with engines.using("cpu"):
        _, seen = pellucid.observe(query, key, value)
    seen.entropy.sum().backward()
    assert [[stage.name for stage in stages] for stages in compiled] == [["readout0"]]
    assert len(compiled[0]) == 1


def test_the_keys_of_topk_have_no_gradient() -> None:
    query, key, value, _ = (tensor.requires_grad_() for tensor in drawn(torch.float32, (2, 2)))
    with engines.using("cpu"):
        _, seen = pellucid.observe(query, key, value, readouts=[TopK(2)])
    assert seen.topk.weights.requires_grad
    assert not seen.topk.keys.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        seen.topk.keys.sum().backward()


def test_what_has_no_stage_is_differentiated_by_another_engine() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    why = engines.why(x, x, x, readouts=[Entropy(), Renyi(math.inf)])
    assert str(why) == "portable; not cpu: it carries no gradient back from the readout 'renyi'"


@pytest.mark.parametrize("name", thorough([name for name in READOUTS if name != "Renyi 0"], ["received"], share=17))
def test_a_nan_is_where_the_reference_has_it(name: str) -> None:
    tensors = drawn(torch.float32, (2, 2))
    tensors[0][0, 0, 7] = math.nan
    exact, found = (gradients(engine, tensors, CALLS["plain"], [name], 0.0) for engine in ("reference", "cpu"))
    for own, true in zip(found[:2], exact, strict=False):
        assert torch.equal(own.isnan(), true.isnan())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    ("call", "dtype", "more"),
    thorough(
        [
            ("window, softcap", torch.float32, ()),
            *(("causal, sinks", dtype, ("at, of all heads",)) for dtype in (torch.float32, torch.bfloat16)),
        ],
        [("window, softcap", torch.float32, ())],
        share=3,
    ),
    ids=str,
)
def test_nothing_is_read_or_written_outside(call: str, dtype: torch.dtype, more: tuple[str, ...], edge: str) -> None:
    names = [name for name in TOGETHER if not more or name != "at"] + [*more]

    def stays_inside() -> bool:
        for q_len, k_len in ((17, 33), (49, 307)):
            with Guarded(EDGES[edge]):
                tensors = [EDGES[edge](tensor) for tensor in drawn(dtype, (4, 2), q_len, k_len)]
                found = gradients("cpu", tensors, CALLS[call], names)
            assert all(gradient.isfinite().all() for gradient in found)
        return True

    assert exit_code(forked(stays_inside), 200) == 0


LESSER = [("haswell", "causal, sinks", torch.bfloat16, FEW), ("x86-64", "window, softcap", torch.float32, FEW)]
LESSER_CASES = [
    *LESSER,
    *itertools.product(("haswell", "x86-64"), ("causal, sinks", "window, softcap"), DTYPES[1:], (TOGETHER,)),
]


@pytest.mark.parametrize(("processor", "call", "dtype", "names"), thorough(LESSER_CASES, LESSER, share=9), ids=str)
def test_lesser_processors(processor: str, call: str, dtype: torch.dtype, names: Sequence[str]) -> None:
    if host().triple.split("-")[0] != "x86_64":
        pytest.skip("another architecture")
    with compiling_for(lesser(host(), processor)):
        check(dtype, (4, 2), CALLS[call], names)
