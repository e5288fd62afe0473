import pytest

from pellucid.cli import LESSONS
from pellucid.viewer import browser


@pytest.fixture
def shown(monkeypatch):
    """What the command has shown, in place of showing it."""
    calls = []

    def show(records, **options):
        calls.append((records, options))
        return 0

    monkeypatch.setattr(browser, "show", show)
    return calls


def test_bare_it_lists_the_lessons(pellucid, shown):
    status, out, err = pellucid("lesson")
    assert (status, err, shown) == (0, "", [])
    assert tuple(line.split()[0] for line in out.splitlines()) == LESSONS
    assert max(map(len, out.splitlines())) <= 80


def test_a_lesson_is_shown_with_its_record(pellucid, shown):
    status, out, err = pellucid("lesson", "induction", "--no-browser", "--port", 8123)
    assert (status, out) == (0, "")
    assert err == "pellucid: What came next the last time: 5 steps, in the panel of the page\n"
    ((records, options),) = shown
    assert list(records) == ["induction"]
    assert records["induction"].layers == ["layers.0.attention", "layers.1.attention"]
    assert options["lesson"]["name"] == "induction"
    names = {}
    exec(options["opens"]["induction"], names)
    assert names["record"].layers == records["induction"].layers
    assert (options["port"], options["open_browser"], options["save"]) == (8123, False, None)


def test_an_unknown_lesson_gets_the_known_ones(pellucid, shown):
    status, out, err = pellucid("lesson", "inductoin")
    assert (status, out, shown) == (2, "", [])
    assert "invalid choice: 'inductoin'" in err
    assert all(name in err for name in LESSONS)


def test_a_model_that_is_missing_is_one_message(pellucid, shown, monkeypatch, tmp_path):
    monkeypatch.setattr("pellucid.lessons.model.weights.FOLDER", tmp_path)
    status, out, err = pellucid("lesson", "sink")
    assert (status, out, shown) == (1, "", [])
    assert err.startswith("pellucid: lesson sink: path: there is no file")
    assert err.count("\n") == 1
