"""The processor as LLVM describes it, and lesser ones by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.engines.cpu.machine import target
from pellucid.engines.cpu.machine.target import abilities, describe, host, lesser

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

# One call of every kind that is compiled differently, on each dtype that the processor has, against float64.
CALL = """
import torch, pellucid
from pellucid import engines
from pellucid.engines.cpu.machine.target import host
torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16, *([torch.float16] if host().half else [])):
    query, key, value = (torch.randn(2, 3, 71, 24, dtype=torch.float64).to(dtype) for _ in range(3))
    call = dict(is_causal=True, score_mod=lambda s, b, h, q, k: torch.tanh(s) + (q - k) % 5)
    every = lambda: [pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), pellucid.Pooled(4, 4),
                     pellucid.PooledMax(3, 17)]
    found = pellucid.observe(query, key, value, readouts=every(), **call)
    with engines.using("reference"):
        exact = pellucid.observe(query.double(), key.double(), value.double(), readouts=every(), **call)
    limit = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].double(), exact[0], rtol=limit, atol=limit)
    for name in ("entropy", "received", "pooled", "pooled_max"):
        torch.testing.assert_close(found[1][name].double(), exact[1][name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1].weights().double(), exact[1].weights(), rtol=1e-4, atol=1e-6)
    one = pellucid.attention(query[:, :, :1], key, value)
    wide = pellucid.attention(query[:, :, :1].double(), key.double(), value.double())
    torch.testing.assert_close(one, wide.to(dtype), rtol=limit, atol=limit)
print("same", host().cpu, host().vector_bytes)
"""


@pytest.mark.sampled
@pytest.mark.skipif(not host().triple.startswith("x86_64"), reason="the names are of x86-64 processors")
@pytest.mark.parametrize(("processor", "vector_bytes"), [("haswell", 32), ("x86-64", 16)])
def test_lesser_processors(processor: str, vector_bytes: int, tmp_path: Path) -> None:
    if vector_bytes > host().vector_bytes:
        pytest.skip(f"this processor is lesser than {processor}")
    environment = os.environ | {"PELLUCID_CPU": processor, "PELLUCID_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.strip() == f"same {processor} {vector_bytes}", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("triple", "cpu", "able"),
    [
        (X86, "x86-64", set()),
        (X86, "bdver2", {"AVX", "FMA", "F16C"}),
        (X86, "haswell", {"AVX", "AVX2", "FMA", "F16C"}),
        (X86, "skylake-avx512", {"AVX", "AVX2", "FMA", "F16C", "AVX-512", "AVX512-DQ"}),
        (X86, "znver4", {"AVX", "AVX2", "FMA", "F16C", "AVX-512", "AVX512-BF16", "AVX512-DQ"}),
        (X86, "sapphirerapids", {"AVX", "AVX2", "FMA", "F16C", "AVX-512", "AVX512-BF16", "AVX512-DQ", "AVX512-FP16"}),
        (ARM, "cortex-a72", {"NEON"}),
        (ARM, "neoverse-n1", {"NEON", "LSE", "FP16"}),
        (ARM, "neoverse-v1", {"NEON", "LSE", "FP16", "BF16", "SVE"}),
    ],
)
def test_what_processors_can_do(triple: str, cpu: str, able: set[str]) -> None:
    assert abilities(triple, cpu, "") == able


@pytest.mark.parametrize(
    ("triple", "cpu", "vector_bytes", "registers", "half", "bf16_dot"),
    [
        (X86, "x86-64", 16, 16, False, False),
        (X86, "bdver2", 16, 16, True, False),
        (X86, "haswell", 32, 16, True, False),
        (X86, "knl", 32, 16, True, False),  # has AVX-512 without its later parts
        (X86, "skylake-avx512", 64, 32, True, False),
        (X86, "znver4", 64, 32, True, True),
        (ARM, "generic", 16, 32, True, False),
    ],
)
def test_what_kernels_are_told(
    triple: str, cpu: str, vector_bytes: int, registers: int, half: bool, bf16_dot: bool
) -> None:
    made = describe(triple, cpu, "")
    found = (made.vector_bytes, made.registers, made.half, made.bf16_dot)
    assert found == (vector_bytes, registers, half, bf16_dot)


def test_the_dot_product_of_pairs_is_used_where_it_is_fast() -> None:
    assert {cpu: describe(X86, cpu, "").dot_pays for cpu in ("haswell", "znver4", "cooperlake", "sapphirerapids")} == {
        "haswell": False,
        "znver4": True,
        "cooperlake": True,
        "sapphirerapids": False,
    }


def test_features_that_a_processor_lacks_are_not_used() -> None:
    assert describe(X86, "znver4", "-avx512bf16").bf16_dot is False
    assert describe(X86, "znver4", "-avx512f").vector_bytes == 32


def test_a_greater_processor_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^PELLUCID_CPU: .* \(haswell\) .* got 'znver4', .* AVX-512, AVX512-BF16, AVX512-DQ; name"
    ):
        lesser(describe(X86, "haswell", ""), "znver4")
    with pytest.raises(ValueError, match=r"^PELLUCID_CPU: .* \(cortex-a72\) .* got 'neoverse-n1', .* FP16, LSE; name"):
        lesser(describe(ARM, "cortex-a72", ""), "neoverse-n1")


def test_a_lesser_one_uses_nothing_that_this_one_lacks() -> None:
    """A named processor may have instructions of a neighbouring line that this one never had."""
    made = lesser(describe(X86, "znver4", "+avx2,-sse4a,-bmi2"), "haswell")
    assert made.vector_bytes == 32
    assert {"-sse4a", "-bmi2"} <= set(made.features.split(","))
    assert "+avx2" not in made.features


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hasswell", "a processor that LLVM knows is needed, such as haswell; got 'hasswell'"),
        ("abacus", "a processor that LLVM knows is needed, such as .+; got 'abacus'"),
        ("i386", "a 64-bit processor is needed, got 'i386'"),
    ],
)
def test_a_name_that_cannot_be_compiled_for(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^PELLUCID_CPU: {message}$"):
        lesser(describe(X86, "haswell", ""), name)


def test_the_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CPU", "abacus")
    with pytest.raises(ValueError, match=r"^PELLUCID_CPU: .* got 'abacus'$"):
        target.host.__wrapped__()
