"""The whole command on its smallest work: what it prints and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.limits import FLOAT32, MEMORY, Limits
from benchmarks.work import Measurement, Race
from benchmarks.works import GROUPS

# A machine that everybody is too fast for; measuring the real one takes seconds.
LIMITS = Limits({FLOAT32: 1e6, MEMORY: 1e6}, {2**20: 1e6}, 2**25)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads as before afterwards; nobody but torch takes part."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr(command, "measure", lambda workers: LIMITS)
    monkeypatch.setattr(command.contenders, "missing", lambda: {"FlexAttention, compiled": "left out by the test"})
    yield
    torch.set_num_threads(threads)


def _only(monkeypatch: pytest.MonkeyPatch, group: str, count: int) -> None:
    works = list(GROUPS[group]())[:count]
    monkeypatch.setitem(GROUPS, group, lambda: works)


def test_a_run_prints_goals_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _only(monkeypatch, "overhead", 1)
    file = tmp_path / "results.json"
    assert command.main(["--only", "overhead", "--rounds", "1", "--threads", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "the notebook's 10 × 4" in printed
    assert "takes ≤ 1.5 × torch SDPA" in printed
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["machine"]["pellucid"]
    assert written["limits"]["per_second"][FLOAT32] == 1e6
    (row,) = written["rows"]
    assert [contender["name"] for contender in row["contenders"]] == ["pellucid", "torch SDPA", "eager"]
    for contender in row["contenders"]:
        assert contender["seconds"] == [contender["median_s"]]
        assert 0 < contender["error"] < 1e-5
    (goal,) = row["goals"]
    ours, theirs = (contender["median_s"] for contender in row["contenders"][:2])
    assert goal["measured"] == pytest.approx(ours / theirs)
    assert goal["met"] == (goal["measured"] <= 1.5)


def test_a_share_of_memory_is_of_what_was_read_in_the_same_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _only(monkeypatch, "decode", 1)
    file = tmp_path / "results.json"
    assert command.main(["--only", "decode", "--rounds", "1", "--threads", "1", "--json", str(file)]) == 0
    assert "in the same rounds" in capsys.readouterr().out
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert row["limit_per_second"] > 1e8  # not what LIMITS says
    for contender in row["contenders"]:
        if "rate" in contender:
            assert contender["share"] == pytest.approx(contender["rate"] / row["limit_per_second"])
            assert len(contender["seconds"]) == 1


def test_pictures_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    _only(monkeypatch, "decode", 1)
    assert command.main(["--only", "decode", "--rounds", "1", "--plots", str(tmp_path)]) == 0
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["benchmark-decode.png", "benchmark-goals.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_what_is_in_the_last_cache_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _only(monkeypatch, "decode", 1)
    command.main(["--only", "decode", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "4 MB may stay in the last cache (32 MB)" in printed
    assert "not run: FlexAttention" in printed


def test_an_interruption_prints_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted() -> Mapping[str, float]:
        raise KeyboardInterrupt

    works = [Measurement("first", lambda: {"apples": 7.0}), Measurement("second", interrupted)]
    monkeypatch.setitem(GROUPS, "overhead", lambda: works)
    file = tmp_path / "results.json"
    assert command.main(["--only", "overhead", "--json", str(file)]) == 130
    captured = capsys.readouterr()
    assert "apples" in captured.out
    assert "1 of 2 measured" in captured.err
    assert [row["name"] for row in json.loads(file.read_text(encoding="utf-8"))["rows"]] == ["first"]


def test_an_unknown_group_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "float32,flaot16"])
    assert "no group flaot16; there are float32, bfloat16" in capsys.readouterr().err


def test_every_work_has_a_name_of_its_own_and_ours_first() -> None:
    works = [work for make in GROUPS.values() for work in make()]
    names = [work.name for work in works]
    assert len(set(names)) == len(names)
    races = [work for work in works if isinstance(work, Race)]
    assert all(race.entries[0].contender == "pellucid" for race in races)
    assert all(race.goals for race in races)
