"""The portable engine's memory: 65,536 keys x 256 queries within 300 MB beyond the inputs, whatever is asked for.

The matrix of one such call below, 5 heads in float32, is 320 MB. Each measurement is a process of its own, since a
process's peak never falls again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.thorough import thorough

STATUS = Path("/proc/self/status")
LIMIT_MB = 300

SCRIPT = r"""
import re, torch, pellucid
from pathlib import Path
from pellucid import masks, readouts, scores
torch.manual_seed(0)
torch.set_num_threads(1)

def peak():
    # The largest resident set so far, in MB. Not getrusage's: on Linux that begins with the parent's, at the fork.
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

asked = [readouts.LogSumExp(), readouts.Entropy(), readouts.MaxScore(), readouts.TopK(8), readouts.Received(),
         readouts.Pooled(32, 64), readouts.PooledMax(32, 64), readouts.mean_distance()]

def run(query, key, value, backward):
    table = torch.zeros(32, query.shape[1], requires_grad=backward)
    output, seen = pellucid.observe(
        query, key, value, enable_gqa=True, readouts=asked, sinks=torch.zeros(query.shape[1], requires_grad=backward),
        {options}
    )
    if backward:
        (output.sum() + seen.entropy.sum() + seen.lse.sum() + seen["mean_distance"].sum()).backward()
    assert torch.isfinite(output).all() and torch.isfinite(seen.entropy).all()

def inputs(q_len, k_len, heads, kv_heads):
    shapes = (1, heads, q_len, 16), (1, kv_heads, k_len, 16), (1, kv_heads, k_len, 16)
    return [torch.randn(shape) for shape in shapes]

def differentiable(tensors):
    return [tensor.requires_grad_() for tensor in tensors]

with pellucid.engines.using("portable"):
    small, tensors = inputs(64, 128, 5, 1), inputs(256, 65536, 5, 1)
    run(*small, False)  # what is loaded at first use does not count
    run(*differentiable(small), True)
    before = peak()
    run(*tensors, False)
    forward = peak()
    run(*differentiable(tensors), True)
    print(forward - before, peak() - before)
"""

OPTIONS = {
    "plain": "",
    "causal, offset": "mask_mod=masks.causal(65536 - 256)",
    "T5 and a mask": "score_mod=scores.relative_bias(table), attn_mask=torch.arange(key.shape[-2])[None] % 3 > 0",
}


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="a process's peak is read from /proc/self/status")
@pytest.mark.parametrize("name", thorough(OPTIONS, every_day=["T5 and a mask"]))
def test_the_peak_forward_and_of_forward_and_backward(name: str) -> None:
    script = SCRIPT.format(options=OPTIONS[name])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    forward, both = map(float, done.stdout.split())
    assert 0 < forward < LIMIT_MB
    assert both < LIMIT_MB
