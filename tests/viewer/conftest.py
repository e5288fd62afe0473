import pytest

from tests.readers import untrained_reader


@pytest.fixture(scope="session")
def reader():
    return untrained_reader()


@pytest.fixture
def read(reader):
    """Reads a text with the readouts that the viewer needs."""
    from pellucid.viewer.heads import NEEDED

    return lambda text: reader.read(text, readouts=NEEDED)
