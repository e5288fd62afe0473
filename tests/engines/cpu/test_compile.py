"""Compiled kernels on disk and for lesser processors: nothing that happens to the cache does harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid import engines
from pellucid.engines.cpu import assembly_of, ir_of
from pellucid.functional import _problem

CALL = """
import torch, pellucid
from pellucid import engines
torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    query, key, value = (torch.randn(2, 3, 71, 24, dtype=torch.float64).to(dtype) for _ in range(3))
    call = dict(is_causal=True, score_mod=lambda s, b, h, q, k: torch.tanh(s) + (q - k) % 5)
    every = lambda: [pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), pellucid.Pooled(4, 4)]
    found = pellucid.observe(query, key, value, readouts=every(), **call)
    with engines.using("reference"):
        exact = pellucid.observe(query.double(), key.double(), value.double(), readouts=every(), **call)
    limit = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].double(), exact[0], rtol=limit, atol=limit)
    for name in ("entropy", "received", "pooled"):
        torch.testing.assert_close(found[1][name].double(), exact[1][name], rtol=1e-4, atol=1e-4)
    one = pellucid.attention(query[:, :, :1], key, value)
    wide = pellucid.attention(query[:, :, :1].double(), key.double(), value.double())
    torch.testing.assert_close(one, wide.to(dtype), rtol=limit, atol=limit)
print("same")
"""


def started(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CALL],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def succeeds(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=300)
    assert output.strip() == "same", errors[-2000:]


@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_lesser_processors(processor: str, tmp_path: Path) -> None:
    succeeds(started(PELLUCID_CPU=processor, PELLUCID_CACHE=str(tmp_path)))


def test_an_unknown_processor_is_named(tmp_path: Path) -> None:
    process = started(PELLUCID_CPU="abacus", PELLUCID_CACHE=str(tmp_path))
    assert "PELLUCID_CPU: 'abacus'" in process.communicate(timeout=300)[1]


@pytest.mark.slow
def test_ten_processes_with_an_empty_cache(tmp_path: Path) -> None:
    for process in [started(PELLUCID_CACHE=str(tmp_path / "cache")) for _ in range(10)]:
        succeeds(process)


def test_a_corrupt_file_is_compiled_again(tmp_path: Path) -> None:
    succeeds(started(PELLUCID_CACHE=str(tmp_path)))
    kernels = sorted(tmp_path.glob("*.o"))
    assert kernels
    contents = [kernel.read_bytes() for kernel in kernels]
    for number, kernel in enumerate(kernels):
        kernel.write_bytes([b"", contents[number][:-9], b"x" * 100][number % 3])
    succeeds(started(PELLUCID_CACHE=str(tmp_path)))
    assert [kernel.read_bytes() for kernel in kernels] == contents


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a directory")
    succeeds(started(PELLUCID_CACHE=str(file / "cache")))


def test_the_code_can_be_read() -> None:
    x = torch.randn(1, 2, 300, 64)
    problem, _ = _problem(x, x, x, None, 0.0, True, None, False, None, None, None, ())
    assert "fmuladd" in ir_of(problem)
    assert "forward:" in assembly_of(problem)


def test_gradients_go_to_the_portable_engine() -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    with engines.using("cpu"):
        (gradient,) = torch.autograd.grad(pellucid.attention(x, x, x).sum(), x)
    assert gradient.shape == x.shape
