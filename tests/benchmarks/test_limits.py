"""The machine's limits: the kernels run, and say something a machine can be."""

from __future__ import annotations

import pytest

from benchmarks.limits import amx, bandwidth, peak
from pellucid.engines.cpu.machine.target import host


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (peak, "STEPS", 50_000),
        (amx, "STEPS", 5_000),
        (bandwidth, "LEAST_READ", 2**22),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("workers", [1, 2])
def test_peaks(workers: int) -> None:
    single, double = peak.float32(workers), peak.float64(workers)
    assert 1e9 < double < 1e13
    assert 1e9 < single < 1e13
    # Two threads wait for each other where somebody else has a core, and then lose half of their speed.
    assert workers > 1 or double < single


def test_the_dot_product_is_measured_where_there_is_one() -> None:
    found = peak.bfloat16_dot(1)
    assert (found is not None) == host().bf16_dot
    assert found is None or 1e9 < found < 1e13


def test_tiles_are_measured_where_they_may_be_used() -> None:
    found = amx.bfloat16(1)
    assert found is None or 1e10 < found < 1e14


def test_reading() -> None:
    found = bandwidth.read([2**16, 2**20], 1)
    assert list(found) == [2**16, 2**20]
    assert all(1e8 < speed < 1e13 for speed in found.values())
