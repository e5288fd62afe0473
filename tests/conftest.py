"""Settings that every test shares: hypothesis draws the same examples each time unless asked otherwise."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:  # each of several workers computes on one thread, in all of its threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # which is read as torch is loaded

import torch

settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("random", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell ignores Ctrl-C for what it runs in the background, and tests of interrupts would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers for a test whichever tests ran before it."""
    torch.manual_seed(20250301)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most cases of tests that are sampled to whoever asks for what is thorough."""
    from tests.thorough import sample

    sample(items)
