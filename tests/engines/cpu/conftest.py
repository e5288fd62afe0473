"""Fixtures of the compiled engine's tests."""

from collections.abc import Iterator

import pytest

from tests.engines.cpu.soft_tiles import matrix_tiles


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels on matrix tiles, the processor's or soft ones, in all tests of a module."""
    with matrix_tiles(tmp_path_factory.mktemp("kernels")):
        yield
