import pytest

from pellucid import demo
from tests.readers import untrained_reader


@pytest.fixture(scope="session")
def untrained():
    return untrained_reader()


@pytest.fixture
def reader(untrained, monkeypatch):
    """The commands load a reader with random weights."""
    monkeypatch.setattr(demo, "load_reader", lambda: untrained)
    return untrained


@pytest.fixture
def pellucid(monkeypatch, capsys):
    """Runs the command line in this process: exit status, standard output, standard error."""
    from pellucid.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "PELLUCID_ENGINE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def standard_input(monkeypatch):
    """Gives the command line bytes to read, or a terminal where nobody types."""
    import io

    def give(content=b"", *, terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(content))
        stream.isatty = lambda: terminal
        monkeypatch.setattr("sys.stdin", stream)

    return give
