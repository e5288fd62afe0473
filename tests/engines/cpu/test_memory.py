"""Memory for results: large ones ask for huge pages, and are written whole all the same."""

import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid import LogSumExp, Pooled, TopK
from pellucid.arguments import Arguments, describe
from pellucid.engines.cpu.call.plan import plan_of
from pellucid.engines.cpu.machine import memory

# In a process of its own, for memory that a large result had leaves its wish to whoever gets it next.
WISHES = r"""
import re, sys, torch
from pathlib import Path
from pellucid.engines.cpu.machine import memory
tensor = memory.empty((1, 1, int(sys.argv[1]), 80), torch.float32)
middle = tensor.data_ptr() + tensor.nbytes // 2
for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
    low, high = (int(end, 16) for end in mapping.split(maxsplit=1)[0].split("-"))
    if low <= middle < high:
        print(" hg" in mapping.partition("VmFlags:")[2])
"""


def run(script: str, number: int) -> str:
    done = subprocess.run([sys.executable, "-c", script, str(number)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE") or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="the system has no huge pages to ask for",
)
def test_only_large_results_ask() -> None:
    assert run(WISHES, 1 << 17) == "True"
    assert run(WISHES, 1 << 14) == "False"


def test_a_large_output_is_written_whole() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 40_000, 1), torch.randn(1, 8, 1)
    value = torch.randn(1, 8, 256)
    output = pellucid.attention(query, key, value)
    assert output.nbytes >= memory.LARGE
    expected = torch.softmax(query.double() @ key.double().mT, -1) @ value.double()
    torch.testing.assert_close(output.double(), expected, atol=2e-6, rtol=0)


ROUNDS = """
import resource, sys, torch
from pellucid.engines.cpu.machine import memory
memory.keep_freed(int(sys.argv[1]))
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    results = [torch.ones(1 << 18) for _ in range(12)]  # a megabyte each
    del results
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps freed memory by other rules")
def test_freed_memory_is_kept_for_the_next_call() -> None:
    pages = (12 << 20) // mmap.PAGESIZE
    # Where nothing is asked for, most processes have all pages cleared again, but not all: it depends on addresses.
    assert max(int(run(ROUNDS, 12 << 20)) for _ in range(4)) < pages // 4


def test_a_plan_knows_how_much_it_writes() -> None:
    query, key, value = torch.randn(1, 3, 70, 16), torch.randn(1, 3, 300, 16), torch.randn(1, 3, 300, 20)
    readouts = (LogSumExp(), TopK(4), Pooled(32, 64))
    problem = describe(Arguments(query, key, value, readouts=readouts))[0]
    plan, inputs = plan_of(problem)
    written = plan.run(inputs, (1, 3, 70, 20))
    tensors = [written.output, *written.readings.values()]
    assert plan.result_bytes == sum(tensor.nbytes for tensor in tensors) > 3 * 70 * 20 * 4
