import pytest

from pellucid import demo
from pellucid.commands import doctor as command


@pytest.fixture
def knowing(monkeypatch):
    """A reader that gives one answer, whatever the date."""

    class Reader:
        def __init__(self, answer):
            self.answer = answer

        def read(self, text):
            return self

    return lambda answer: monkeypatch.setattr(demo, "load_reader", lambda: Reader(answer))


def test_one_screen(pellucid, knowing):
    knowing("1997-03-03")
    status, out, err = pellucid("doctor")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert len(lines) < 40
    assert lines[0].split()[0] == "pellucid"
    assert lines[-1] == "date reader    ok: reads '3 mars 1997' as 1997-03-03"
    assert len({line.index(line[14:].lstrip()[:1], 14) for line in lines}) == 1


def test_a_wrong_answer_is_a_finding(pellucid, knowing):
    knowing("1997-03-04")
    status, out, _ = pellucid("doctor")
    assert status == 1
    assert out.endswith("date reader    WRONG: reads '3 mars 1997' as 1997-03-04\n")


def test_missing_weights_are_a_finding(pellucid, monkeypatch):
    def load():
        raise FileNotFoundError("no file 'weights.safetensors'")

    monkeypatch.setattr(demo, "load_reader", load)
    status, out, err = pellucid("doctor")
    assert (status, err) == (1, "")
    assert out.endswith("date reader    FAILED: embedded model: no file 'weights.safetensors'\n")


def test_a_failed_self_check_is_a_finding(pellucid, knowing, monkeypatch):
    knowing("1997-03-03")
    monkeypatch.setattr(command.machine, "attention", lambda query, key, value, is_causal: value)
    monkeypatch.setenv("PELLUCID_ENGINE", "portable")
    status, out, _ = pellucid("doctor")
    assert status == 0  # the same wrong numbers on both sides

    monkeypatch.setattr(
        command.machine, "attention", lambda query, key, value, is_causal: value.double() + (value.dtype.itemsize == 4)
    )
    status, out, _ = pellucid("doctor")
    assert status == 1
    assert "self check     WRONG: at most 1.0e+00 from the reference in float64" in out
