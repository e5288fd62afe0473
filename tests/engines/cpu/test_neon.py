"""The same source for 64-bit ARM: read as assembly everywhere, and run where there is an emulator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid
from pellucid import engines, masks, readouts
from pellucid.engines import rounded
from pellucid.engines.cpu.machine.target import describe
from tests.engines.cpu.direct import observe
from tests.engines.cpu.emulated import ARM, COMPILER, EMULATOR, Listed, emulated, exchanged

needs_emulator = pytest.mark.skipif(
    not (COMPILER and EMULATOR),
    reason="needs aarch64-linux-gnu-gcc and qemu-aarch64 (gcc-aarch64-linux-gnu, qemu-user)",
)

SHAPES = {  # heads, kv_heads, q_len, k_len, head_dim, value_dim
    "ragged": (2, 2, 37, 53, 13, 21),
    "several tiles": (2, 1, 61, 301, 32, 17),
    "decode": (6, 3, 2, 1153, 17, 29),
}


def calls() -> dict[str, dict[str, Any]]:
    ids = torch.arange(400) // 11
    return {
        "plain": {},
        "causal, tanh": {"is_causal": True, "score_mod": lambda s, b, h, q, k: torch.tanh(s) * 3 + (q - k) % 5},
        "documents, sinks": {"mask_mod": masks.documents(ids) | masks.prefix(3), "sinks": torch.randn(6)},
    }


CASES = [(s, c, torch.float32) for s in ("ragged", "several tiles") for c in ("plain", "causal, tanh")]
CASES += [("several tiles", "documents, sinks", torch.float32), ("decode", "plain", torch.float32)]
CASES += [("ragged", "causal, tanh", dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)]
CASES += [("decode", "causal, tanh", torch.bfloat16)]


@pytest.mark.sampled
@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "name", "dtype"), CASES, ids=lambda x: str(x).removeprefix("torch."))
def test_an_emulated_processor_computes_the_same(shape: str, name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    heads, kv_heads, q_len, k_len, head_dim, value_dim = SHAPES[shape]
    part = {"queries": slice(0, None, 2), "keys": [k_len - 1, 0, 5, 5], "heads": heads - 1}
    pooled = [] if shape == "decode" else [pellucid.Pooled(2, 5), pellucid.PooledMax(3, 2)]  # with which none is decode

    def observed(tensors: list[torch.Tensor], call: dict[str, Any]) -> list[torch.Tensor]:
        every = [pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), readouts.mean_distance(), *pooled]
        call = call | {"sinks": call["sinks"][:heads].to(tensors[0].dtype)} if "sinks" in call else call
        with torch.no_grad():
            output, seen = observe(*tensors, readouts=every, **call)
        names = ("lse", "entropy", "received", "mean_distance", *(readout.name for readout in pooled))
        return [output, seen.topk.weights, *(seen[name] for name in names), seen.weights(**part)]

    with emulated(tmp_path) as machine, engines.using("cpu"):
        made = [(heads, q_len, head_dim), (kv_heads, k_len, head_dim), (kv_heads, k_len, value_dim)]
        tensors = [torch.randn(2, *dims).to(dtype) for dims in made]
        call = calls()[name]
        found = observed(tensors, call)
    assert machine.ran == ["decode" if shape == "decode" else "forward", "columns", "weights"]
    with engines.using("reference"):
        exact = observed([t.double() for t in tensors], call)
    for a, b in zip(found, exact, strict=True):
        # The output is rounded to its dtype; what is read is of inputs as they are.
        limit = 4 * torch.finfo(a.dtype).eps if a.dtype in (torch.bfloat16, torch.float16) else 1e-4
        torch.testing.assert_close(a.double(), b, rtol=limit, atol=limit)


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_emulated_processor_computes_the_same_gradients(dtype: torch.dtype, tmp_path: Path) -> None:
    heads, kv_heads, q_len, k_len, head_dim, value_dim = SHAPES["several tiles"]
    call = calls()["causal, tanh"]
    made = [(heads, q_len, head_dim), (kv_heads, k_len, head_dim), (kv_heads, k_len, value_dim)]

    def gradients(tensors: list[torch.Tensor], upstream: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output, seen = observe(*leaves, readouts=[pellucid.LogSumExp(), pellucid.Entropy()], **call)
        return torch.autograd.grad([output, seen.lse, seen.entropy], leaves, [upstream, seen.lse, seen.entropy])

    with emulated(tmp_path) as machine, engines.using("cpu"):
        tensors = [torch.randn(2, *dims).to(dtype) for dims in made]
        upstream = torch.randn(2, heads, q_len, value_dim).to(dtype)
        found = gradients(tensors, upstream)
    assert machine.ran == ["forward", "backward"]
    with engines.using("reference"):
        exact = gradients([tensor.double() for tensor in tensors], upstream.double())
    for own, true in zip(found, exact, strict=True):
        assert (own.double() - true).norm() / true.norm() < 4 * torch.finfo(dtype).eps


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("triple", "cpu"),
    [
        (ARM, "generic"),
        ("arm64-apple-macosx14.0.0", "apple-m1"),
        ("x86_64-unknown-linux-gnu", "haswell"),
    ],
)
def test_the_code_calls_nothing_but_what_every_c_library_has(triple: str, cpu: str) -> None:
    """No helper for atomics, which only some compilers' libraries bring, and no mathematics but C's exact remainder."""
    listed, most = Listed(), [pellucid.Entropy(), pellucid.TopK(3), pellucid.Received()]
    everything = [*most, pellucid.Pooled(2, 5), pellucid.PooledMax(3, 2)]
    x = torch.randn(1, 2, 70, 24)
    call = {"score_mod": lambda s, b, h, q, k: torch.tanh(s) + torch.exp(s * 0.1) + torch.sigmoid(s) + s // 3 + q % 5}
    with exchanged(describe(triple, cpu, ""), listed), engines.using("cpu"), torch.no_grad():
        for dtype in (torch.float32, torch.float16):
            tensor = x.to(dtype)
            odd = tensor[..., :23]
            pellucid.observe(tensor, tensor, odd, is_causal=True, readouts=everything, **call)[1].weights()
            pellucid.observe(tensor[:, :, :2], tensor, tensor, readouts=most, **call)
            pellucid.attention(tensor, tensor, tensor[..., :16], **call)
            assert set(listed.assembly) == {"forward", "onetile", "columns", "weights", "decode"}
            called = set(re.findall(CALLED, "\n".join(listed.assembly.values()), re.MULTILINE))
            assert {name.strip("_").removesuffix("@PLT") for name in called} <= {
                "memset",
                "fmod",
                "fmodf",
                "memcpy",
                "bzero",
                "memset_pattern16",
            }
            assert ("ldadd" in listed.assembly["forward"]) == (cpu == "apple-m1")


@pytest.mark.parametrize("triple", [ARM, "arm64-apple-macosx14.0.0", "x86_64-unknown-linux-gnu"])
def test_backward_calls_nothing_else_but_to_let_others_run(triple: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounded, "has_any", lambda lse: False)  # which no kernel has written
    listed, x = Listed(), torch.randn(1, 2, 70, 24).requires_grad_()
    cpu = {"arm64-apple-macosx14.0.0": "apple-m1", "x86_64-unknown-linux-gnu": "haswell"}.get(triple, "generic")
    with exchanged(describe(triple, cpu, ""), listed), engines.using("cpu"):
        pellucid.attention(x, x, x, is_causal=True, dropout_p=0.1).sum().backward()
    called = set(re.findall(CALLED, listed.assembly["backward"], re.MULTILINE))
    assert {name.strip("_").removesuffix("@PLT") for name in called} <= {"memset", "memcpy", "bzero", "sched_yield"}


CALLED = r"^\s+(?:bl|b|callq|jmp)\s+(?!L?BB|LBB)([A-Za-z_][\w@]*)"
