"""Pyramids as files: found again, rebuilt when damaged, bounded, built by two at once, given up without a trace."""

import errno
import hashlib
import io
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import open_record
from pellucid.viewer.browser import tiles, wholes
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.pyramid import background, file, jobs, levels, store
from pellucid.viewer.browser.pyramid.shown import Shown
from tests.viewer.browser.asking import assert_close, dense, json_of, pooled, soon, value_of
from tests.watch.observed import observed_layer, observed_record

QUERY = {"layer": "0", "heads": "1", "zq": "4", "zk": "4", "dtype": "f32"}


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Every tile that can be comes out of a pyramid, in stripes of few rows."""
    monkeypatch.setattr(tiles, "AT_ONCE", 0)
    monkeypatch.setattr(tiles, "MEANWHILE", 0)
    monkeypatch.setattr(tiles, "SMALL", 0)
    monkeypatch.setattr(wholes, "SMALL", 0)
    monkeypatch.setattr(jobs, "MOST_ROWS", 2)


@pytest.fixture
def path(tmp_path):
    return observed_record(observed_layer(q_len=300)).save(tmp_path / "run.attn")


@pytest.fixture
def expected():
    return pooled(dense(observed_layer(q_len=300), 0, [1], "mean"), 16, 16, "mean")


def built(path, query=QUERY):
    """The tile, how often it was not there, and the pyramids beside the record."""
    answers = Answers({"one": open_record(path)})
    answer, tried = soon(answers, "api/tile", query)
    done = soon(answers, "api/tile", query | {"zq": "9", "zk": "9"})  # all stripes
    assert done[0].status == 200
    answers.close()
    return answer, tried, sorted((path / ".maps").glob("*"))


def test_a_pyramid_is_kept_beside_the_record(path, expected):
    answer, tried, files = built(path)
    assert tried > 0
    assert_close(value_of(answer), expected)
    assert [one.suffix for one in files] == [".maps"]
    again, tried, same = built(path)
    assert (again.body, tried, same) == (answer.body, 0, files)
    record = open_record(path, verify=True)  # which is as whole as before
    assert record.complete
    assert_close(record[0].weights(), observed_layer(q_len=300).weights())


def test_both_pools_of_one_head_come_together_and_other_heads_apart(path):
    files = built(path)[2]
    assert built(path, QUERY | {"pool": "max", "over": "max"})[1:] == (0, files)
    assert len(built(path, QUERY | {"heads": "0,1"})[2]) == 2
    assert len(built(path, QUERY | {"heads": "0,1", "pool": "max"})[2]) == 3
    assert len(built(path, QUERY | {"sequence": "1"})[2]) == 4


def test_a_record_of_other_numbers_has_other_pyramids(path, expected):
    before = built(path)[2]
    other = observed_layer(q_len=300, seed=1)
    observed_record(other).save(path, overwrite=True)
    answer, tried, files = built(path)
    assert tried > 0
    assert before[0] not in files  # what was beside the record goes with it
    assert_close(value_of(answer), pooled(dense(other, 0, [1], "mean"), 16, 16, "mean"))


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other", "link", "pipe", "json"])
def test_a_damaged_pyramid_is_built_again(path, expected, damage, tmp_path):
    answer, _, (whole,) = built(path)
    content = whole.read_bytes()
    whole.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(content[:-50])
        whole.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        os.mkfifo(whole)
    else:
        made = {
            "cut": content[:-9],
            "changed": content[:8] + b"\1\2\3" + content[11:],
            "empty": b"",
            "other": content * 2,
        }
        made["json"] = content.replace(b'"checksums"', b'"checksams"')
        whole.write_bytes(made[damage])
    again, tried, _ = built(path)
    assert (again.body, tried > 0) == (answer.body, True)
    assert damage != "link" or (tmp_path / "elsewhere").read_bytes() == content[:-50]


def test_a_pyramid_that_is_cut_while_it_is_open_is_built_again(path):
    answers = Answers({"one": open_record(path)})
    before, _ = soon(answers, "api/tile", QUERY)
    soon(answers, "api/tile", QUERY | {"zq": "9", "zk": "9"})
    (whole,) = (path / ".maps").glob("*.maps")
    os.truncate(whole, 10)
    again, tried = soon(answers, "api/tile", QUERY)
    answers.close()
    assert (again.body, tried > 0) == (before.body, True)


def test_what_is_damaged_below_is_found_when_it_is_read(path, expected):
    """A checksum is looked at where its rows are read for the first time."""
    _, _, (whole,) = built(path)
    content = bytearray(whole.read_bytes())
    content[4 * 19] ^= 64  # in the finest level's last column but below the diagonal it is 0
    whole.write_bytes(content)
    answers = Answers({"one": open_record(path)})
    answer, tried = soon(answers, "api/tile", QUERY)
    answers.close()
    assert tried > 0
    assert_close(value_of(answer), expected)


def test_a_record_that_cannot_be_written_to_has_them_in_the_users_folder(path, monkeypatch, tmp_path, expected):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    usual = store._make

    def refuses(folder):
        if folder.name == ".maps":
            raise PermissionError(13, "Permission denied")
        usual(folder)

    monkeypatch.setattr(store, "_make", refuses)
    answer, tried, files = built(path)
    assert (tried > 0, files) == (True, [])
    assert len(list((tmp_path / "cache" / "maps").rglob("*.maps"))) == 1
    assert_close(value_of(answer), expected)
    assert built(path)[1] == 0


def test_a_link_in_the_place_of_the_folder_is_not_followed(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    (path / ".maps").symlink_to(tmp_path / "elsewhere")
    assert built(path)[0].status == 200
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_full_disk_is_told(path, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "LARGEST", 1000)
    answers = Answers({"one": open_record(path)})
    answer, _ = soon(answers, "api/tile", QUERY)
    assert answer.status == 507
    words = f"pooled maps cannot be written to {path / '.maps'}: 0 MiB for a pooled map do not fit on the disk"
    assert json_of(answer) == {"error": f"this cannot be answered: {words}"}
    answers.close()


class Full(io.BytesIO):
    """What is buffered and has no room fails again when the file is closed."""

    def close(self):
        super().close()
        raise OSError(errno.ENOSPC, "No space left on device")


def fill(monkeypatch, *folders):
    """Have the disks of some folders run full while a map is written."""
    usual = file.Writing.write

    def write(self, *what):
        if self.final.parent in folders:
            self._file.close()
            self._file = Full()
            raise OSError(errno.ENOSPC, "No space left on device")
        usual(self, *what)

    monkeypatch.setattr(file.Writing, "write", write)


def test_a_disk_that_is_full_midway_is_told_and_nothing_is_left_on_it(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    own, cache = path / ".maps", tmp_path / "cache" / "maps"
    fill(monkeypatch, own, cache / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32])
    answers = Answers({"one": open_record(path)})
    answer, _ = soon(answers, "api/tile", QUERY)
    assert answer.status == 507
    words = f"pooled maps cannot be written to {own}: No space left on device"
    assert json_of(answer) == {"error": f"this cannot be answered: {words}"}
    assert [one for folder in (own, cache) for one in folder.rglob("*") if one.is_file()] == []
    assert answers.get("api/window", {"layer": "0", "heads": "1", "queries": "0:5", "keys": "0:5"}).status == 200
    assert answers.background._thread.is_alive()
    answers.close()


def test_where_one_disk_is_full_midway_another_is_taken(path, monkeypatch, tmp_path, expected):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    fill(monkeypatch, path / ".maps")
    answer, _, files = built(path)
    assert_close(value_of(answer), expected)
    assert files == []
    assert len(list((tmp_path / "cache" / "maps").rglob("*.maps"))) == 1


def test_a_file_that_may_not_be_so_long_is_not_left_behind(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))

    def limited(*_, **__):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(file, "PyramidFile", limited)
    answers = Answers({"one": open_record(path)})
    answer, _ = soon(answers, "api/tile", QUERY)
    assert answer.status == 507
    assert json_of(answer)["error"].endswith(".maps: File too large")
    assert not list((path / ".maps").iterdir())
    answers.close()


def test_what_was_used_longest_ago_makes_room(path, monkeypatch):
    (first,) = built(path)[2]
    os.utime(first, (1, 1))
    monkeypatch.setattr(store, "LARGEST", first.stat().st_blocks * 512 * 2)
    both = built(path, QUERY | {"heads": "0"})[2]
    assert first in both
    assert len(both) == 2
    os.utime(first, (1, 1))
    left = built(path, QUERY | {"heads": "2"})[2]
    assert first not in left
    assert len(left) == 2


def test_nothing_unfinished_is_left_behind(path, monkeypatch):
    def slow(*_):  # still at it when the server ends, or not yet begun
        time.sleep(0.02)
        raise MemoryError

    monkeypatch.setattr(Shown, "binned", slow)
    answers = Answers({"one": open_record(path)})
    assert answers.get("api/tile", QUERY).status == 202
    answers.close()
    assert not list((path / ".maps").glob("*"))
    assert answers.background._thread is None


def test_what_a_killed_process_left_is_removed(path):
    (path / ".maps").mkdir()
    old, new = path / ".maps" / ".old.maps.1.0.part", path / ".maps" / ".new.maps.2.0.part"
    for one in (old, new):
        one.write_bytes(b"x")
    os.utime(old, (1, 1))
    built(path)
    assert not old.exists()
    assert new.exists()


def test_two_that_build_at_once(path, expected):
    found = []
    each = [threading.Thread(target=lambda: found.append(built(path))) for _ in range(2)]
    for one in each:
        one.start()
    for one in each:
        one.join()
    assert found[0][0].body == found[1][0].body
    assert_close(value_of(found[0][0]), expected)
    assert [one.suffix for one in built(path)[2]] == [".maps"]


def test_a_tile_is_there_before_the_whole_is(path, monkeypatch):
    """Its stripes come first."""
    monkeypatch.setattr(tiles, "SIDE", 2)
    release, usual, computed = threading.Event(), jobs.Pyramid.compute, []

    def compute(self, rows, into):
        if computed:
            assert release.wait(30)
        usual(self, rows, into)
        computed.append(rows.start)

    monkeypatch.setattr(jobs.Pyramid, "compute", compute)
    answers = Answers({"one": open_record(path)})
    last = QUERY | {"i": "9"}
    answer, _ = soon(answers, "api/tile", last)
    assert (answer.status, computed) == (200, [18])
    building = answers.get("api/tile", QUERY)
    assert (building.status, json_of(building)) == (202, {"building": 0.1})
    release.set()
    assert soon(answers, "api/tile", QUERY)[0].status == 200
    answers.close()


def test_a_failure_is_told_and_tried_again_later(path, monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 0.0)
    usual, failures = jobs.Pyramid.compute, [MemoryError()]

    def compute(self, rows, into):
        if failures:
            raise failures.pop()
        usual(self, rows, into)

    monkeypatch.setattr(jobs.Pyramid, "compute", compute)
    answers = Answers({"one": open_record(path)})
    answer, _ = soon(answers, "api/tile", QUERY)
    # With no patience the next question may have begun anew before the failure was seen.
    assert answer.status in (200, 507)
    assert soon(answers, "api/tile", QUERY)[0].status == 200
    answers.close()


def test_a_record_in_memory_leaves_nothing(monkeypatch, tmp_path, expected):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answers = Answers({"one": observed_record(observed_layer(q_len=300))})
    assert_close(value_of(soon(answers, "api/tile", QUERY)[0]), expected)
    assert list(tmp_path.rglob("*.maps"))
    answers.close()
    assert not list(tmp_path.iterdir())


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_levels_lie_one_after_the_other(q_len, k_len, finest):
    layout = levels.halving((q_len, k_len), finest, ("mean", "max"))
    first = 0
    for z, level in enumerate(layout.levels, finest):
        assert (level.z, level.first) == (z, first)
        assert (level.rows - 1) << z < q_len <= level.rows << z
        assert (level.columns - 1) << z < k_len <= level.columns << z
        first += 2 * level.rows * level.columns
    assert layout.numbers == first
    assert max(layout.levels[-1][1:3]) <= levels.TOP
    assert sum((rows.stop - rows.start) * level.columns for level, _, rows in layout.chunks()) == first


@pytest.mark.parametrize(("heads", "z"), [(1, 4), (2, 3), (4, 3), (5, 2), (16, 2), (17, 1), (64, 1), (65, 0), (999, 0)])
def test_the_finest_level(heads, z):
    """The level below has tiles that are computed in no time, and the finest no more bins than fit."""
    assert levels.finest((1000, 2000), heads) == z
    assert not z or heads * (levels.TOP << (z - 1)) ** 2 <= 1 << 23
    assert levels.finest((1 << 20, 1 << 20), heads) == 7


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_neighbours_as_one(rows, columns, by_row, by_column):
    values = torch.rand(rows, columns)
    for pool, join in (("mean", torch.Tensor.sum), ("max", torch.Tensor.amax)):
        parts = [[join(part) for part in row.split(by_column, 1)] for row in values.split(by_row)]
        expected = torch.tensor([[float(part) for part in row] for row in parts])
        torch.testing.assert_close(jobs.joined(values, by_row, by_column, pool), expected)


def test_a_file_of_another_pyramid_is_none(tmp_path):
    layout = levels.halving((8, 8), 1, ("mean",))
    writing = file.Writing(tmp_path / "a.maps", layout)
    writing.write(layout.levels[0], "mean", 1, torch.ones(2, 4))
    writing.finish({"of": "this"})
    found = file.opened(tmp_path / "a.maps", layout, {"of": "this"})
    assert found.read(layout.levels[0], "mean", slice(0, 4), slice(1, 3)).tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]
    for other in ({"of": "that"}, {}):
        with pytest.raises(file.DamagedError):
            file.opened(tmp_path / "a.maps", layout, other)
    with pytest.raises(file.DamagedError):
        file.opened(tmp_path / "a.maps", levels.halving((8, 9), 1, ("mean",)), {"of": "this"})


def test_what_is_not_much_is_computed_until_the_pyramid_is_there(path, monkeypatch, expected):
    monkeypatch.setattr(tiles, "MEANWHILE", 1 << 25)
    release, usual = threading.Event(), jobs.Pyramid.compute
    monkeypatch.setattr(jobs.Pyramid, "compute", lambda *given: (release.wait(30), usual(*given)))
    answers = Answers({"one": open_record(path)})
    now = answers.get("api/tile", QUERY)
    assert_close(value_of(now), expected)
    release.set()
    assert soon(answers, "api/overview", {"layer": "0", "heads": "1"})[0].status == 200
    monkeypatch.setattr(Shown, "binned", lambda *_: pytest.fail("it is computed"))
    assert_close(value_of(answers.get("api/tile", QUERY)), expected)
    answers.close()


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_layer_that_takes_another_s_place_has_maps_of_its_own(path, on_disk):
    record = open_record(path) if on_disk else observed_record(observed_layer(q_len=300))
    answers = Answers({"one": record})
    before = value_of(soon(answers, "api/tile", QUERY)[0])
    other = observed_layer(q_len=300)
    first = other.parts[0]
    other.parts = [replace(first, query=first.query.flip(2)), *other.parts[1:]]
    lse = torch.logsumexp(torch.cat([part.scores(*_all(part)) for part in other.parts], 2), -1)
    other.readings = other.readings | {"lse": lse.to(other.readings["lse"])}
    record.add(other)
    after = value_of(soon(answers, "api/tile", QUERY)[0])
    answers.close()
    assert_close(after, pooled(dense(other, 0, [1], "mean"), 16, 16, "mean"))
    assert not torch.equal(after.nan_to_num(), before.nan_to_num())


def _all(part):
    rows = torch.arange(part.start, part.start + part.q_len)
    return rows, torch.arange(part.k_len), torch.arange(part.query.shape[1])
