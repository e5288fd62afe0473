"""The code of any call's kernels can be read, with the face's own arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pellucid
from pellucid import masks
from pellucid.engines.cpu import assembly_of, ir_of
from pellucid.engines.cpu.machine.target import describe

X = torch.randn(1, 4, 300, 64)
FEW = torch.randn(1, 4, 1, 64)
ARM = describe("aarch64-unknown-linux-gnu", "generic", "")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("query", "kernel", "call", "name"),
    [
        (X, None, {}, "forward"),
        (X, "forward", {"is_causal": True, "score_mod": lambda s, b, h, q, k: torch.tanh(s)}, "forward"),
        (FEW, None, {}, "decode"),
        (FEW, "decode", {"attn_mask": torch.ones(1, 300, dtype=torch.bool)}, "decode"),
        (X, "columns", {"readouts": [pellucid.Received()]}, "columns"),
        (X, "weights", {"sinks": torch.zeros(4)}, "weights"),
    ],
)
def test_every_kernel_of_a_call(query: torch.Tensor, kernel: str | None, call: dict[str, Any], name: str) -> None:
    written = ir_of(query, X, X, kernel=kernel, **call)
    assert f'define void @"{name}"' in written
    assert "llvm.fmuladd" in written
    assert f"{name}:" in assembly_of(query, X, X, kernel=kernel, **call)


def test_for_another_processor() -> None:
    assert "fmla\tv" in assembly_of(X, X, X, target=ARM)
    assert 'target triple = "aarch64-unknown-linux-gnu"' in ir_of(X, X, X, target=ARM)


@pytest.mark.parametrize(
    ("cpu", "one_query", "many"),
    [("haswell", False, False), ("sapphirerapids", False, False), ("znver4", True, True), ("znver5", False, True)],
)
def test_where_pairs_of_bfloat16_are_multiplied(cpu: str, one_query: bool, many: bool) -> None:
    target = describe("x86_64-unknown-linux-gnu", cpu, "")
    keys = X.bfloat16()
    assert ("dpbf16ps" in ir_of(keys[:, :, :1], keys, keys, target=target)) is one_query
    assert ("dpbf16ps" in ir_of(keys, keys, keys, target=target)) is many


def test_what_is_not_asked_for_is_not_in_the_code() -> None:
    plain, causal = (ir_of(X, X, X, is_causal=flag) for flag in (False, True))
    assert "icmp sge" in causal
    assert len(plain) < len(causal)


@pytest.mark.parametrize("kernel", ["decode", "backward"])
def test_a_kernel_that_does_not_serve_the_call(kernel: str) -> None:
    message = f"kernel: one that serves this call is needed, forward or weights; got '{kernel}'"
    with pytest.raises(ValueError, match=f"^{message}$"):
        ir_of(X, X, X, kernel=kernel)


def test_a_call_that_no_kernel_covers() -> None:
    wide = torch.randn(2, 7, 300)
    with pytest.raises(ValueError, match=r"^query, key, value: this engine has no kernel for this call"):
        assembly_of(wide, wide, wide)


def test_mistakes_are_named_as_by_the_face() -> None:
    with pytest.raises(ValueError, match=r"^key: its head_dim must be query's"):
        ir_of(X, FEW[..., :7], X)
    with pytest.raises(TypeError, match="casual"):
        ir_of(X, X, X, is_casual=True)


ROWS = torch.randn(300, 300)
IDS = torch.arange(300) // 7


@pytest.mark.parametrize(
    "call",
    [
        {"attn_mask": ROWS},
        {"attn_mask": torch.ones(1, 4, 300, 300, dtype=torch.bool)},
        {"attn_mask": ROWS[:1].expand(300, 300)},
        {"score_mod": lambda s, b, h, q, k: s + ROWS[IDS[q], k]},
    ],
)
def test_rows_of_captured_tensors_are_fetched_before_they_are_read(call: dict[str, Any]) -> None:
    for kernel in ("forward", "columns"):
        written = ir_of(X, X, X, kernel=kernel, readouts=[pellucid.Received()], **call)
        assert 'call void @"llvm.prefetch.p0"' in written
    assert "prefetch" in assembly_of(X, X, X, **call)


@pytest.mark.parametrize(
    "call",
    [
        {"is_causal": True},
        {"attn_mask": ROWS[:1]},
        {"attn_mask": ROWS[:, :1]},
        {"attn_mask": ROWS.T},
        {"mask_mod": masks.documents(IDS)},
        {"score_mod": lambda s, b, h, q, k: s + ROWS[q - k, k]},
    ],
)
def test_nothing_else_is_fetched(call: dict[str, Any]) -> None:
    assert "llvm.prefetch" not in ir_of(X, X, X, **call)
