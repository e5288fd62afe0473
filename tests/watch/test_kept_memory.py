"""Memory that an accelerated model's forward frees is kept for the same forward, and given back after it."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import pellucid
from pellucid.accelerating import kept_memory

SIZE = 40 << 20  # bytes: more than glibc keeps by itself
KEPT, USUAL = list(kept_memory.KEEPING.items()), list(kept_memory.USUAL.items())

# Prints how many pages a forward of twenty large tensors had cleared, and what the process grew by.
FORWARD = f"""
import ctypes, resource, sys, torch, pellucid
from pellucid.accelerating import kept_memory

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: all pages are small, and counted one by one

def cleared():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

class Twenty(torch.nn.Module):
    def forward(self, x):
        for _ in range(20):
            x = x + 1
        return x[:1].clone()

model, x = Twenty(), torch.zeros({SIZE // 4})
if sys.argv[1] == "accelerated":
    pellucid.accelerate(model)
with torch.no_grad():
    model(x[:10])
    before, held = cleared(), kept_memory._resident()
    model(x)
    print(cleared() - before, kept_memory._resident() - held)
"""


def run(mode: str, **settings: str) -> tuple[float, float]:
    """What was cleared in the forward, and what it left, in tensors of SIZE."""
    command, variables = [sys.executable, "-c", FORWARD, mode], {**os.environ, **settings}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    pages, left = (int(number) for number in done.stdout.split())
    return pages * os.sysconf("SC_PAGESIZE") / SIZE, left / SIZE


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by other rules")
fast = pytest.mark.skipif(
    platform.libc_ver()[0] == "glibc" and tuple(map(int, platform.libc_ver()[1].split(".")[:2])) < (2, 35),
    reason="this glibc keeps no block of more than 32 MB",
)


@glibc
@fast
def test_a_forward_uses_what_it_freed_and_gives_it_back() -> None:
    pages, left = run("accelerated")
    assert run("plain")[0] > 19
    assert pages < 10
    assert left < 1


@glibc
@fast
def test_what_the_environment_says_of_malloc_holds() -> None:
    assert run("accelerated", MALLOC_MMAP_THRESHOLD_=str(1 << 20))[0] > 19


class Libc:
    """Notes what it is told."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.said: list[tuple[int, int]] = []
        self.trimmed, self.most = 0, most

    def mallopt(self, name: int, value: int) -> bool:
        self.said.append((name, value))
        return value <= self.most

    def malloc_trim(self, pad: int) -> None:
        self.trimmed += 1


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Libc]:
    found = Libc()
    monkeypatch.setattr(kept_memory, "_libc", lambda: found)
    monkeypatch.setattr(kept_memory, "_is_ours_to_set", lambda: True)
    monkeypatch.setattr(kept_memory, "_resident", lambda: 0)
    yield found
    assert kept_memory._open == 0


def test_a_forward_within_another_leaves_malloc_as_it_is(libc: Libc) -> None:
    inner = pellucid.accelerate(nn.Linear(4, 4))
    outer = pellucid.accelerate(nn.Sequential(inner, inner))
    with torch.no_grad():
        outer(torch.rand(3, 4))
    assert libc.said == KEPT + USUAL
    assert libc.trimmed == 0  # nothing grew


def test_of_forwards_that_overlap_the_first_and_the_last_set_malloc(libc: Libc) -> None:
    first, last = kept_memory.kept(None), kept_memory.kept(None)
    with torch.no_grad():
        first.__enter__()
        last.__enter__()
        first.__exit__(None, None, None)
        assert libc.said == KEPT
        last.__exit__(None, None, None)
    assert libc.said == KEPT + USUAL


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_malloc_is_as_before_after_a_failed_forward(libc: Libc, error: type[BaseException]) -> None:
    class Failing(nn.Module):
        def forward(self) -> None:
            raise error

    model = pellucid.accelerate(Failing())
    with torch.no_grad(), pytest.raises(error):
        model()
    assert libc.said == KEPT + USUAL
    pellucid.restore(model)
    with torch.no_grad(), pytest.raises(error):
        model()
    assert libc.said == KEPT + USUAL


def test_nothing_is_kept_where_gradients_are_recorded(libc: Libc) -> None:
    pellucid.accelerate(nn.Linear(4, 4))(torch.rand(3, 4)).sum().backward()
    assert libc.said == []


def test_much_that_was_kept_is_given_back(libc: Libc, monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([0, 100 << 20])
    monkeypatch.setattr(kept_memory, "_resident", lambda: next(held))
    with torch.no_grad(), kept_memory.kept(None):
        pass
    assert libc.trimmed == 1


def test_a_glibc_that_refuses_large_blocks_keeps_those_it_can(libc: Libc) -> None:
    libc.most = 100 << 20
    with torch.no_grad(), kept_memory.kept(None):
        assert libc.said[:2] == [KEPT[0], USUAL[0]]
