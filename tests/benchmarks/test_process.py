"""Functions in processes of their own, and their memory."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from benchmarks.measuring.memory import CLEAR, MB, peak
from benchmarks.measuring.process import FailedError, in_a_process


def grown(megabytes: int) -> Mapping[str, float]:
    """How much memory the process needed for some megabytes, freed again before it says so."""
    with peak() as measured:
        torch.ones(megabytes * MB, dtype=torch.uint8)
    return {"MB": measured.added / MB}


def broken() -> Mapping[str, float]:
    raise ValueError("no such thing")


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux accounts for the peak of memory")
def test_a_peak_is_seen_after_it_is_over() -> None:
    assert 60 <= in_a_process(grown, megabytes=64)["MB"] < 70


def test_what_a_process_says_at_its_end_is_the_reason() -> None:
    with pytest.raises(FailedError, match="no such thing"):
        in_a_process(broken)
