"""Compiled kernels on disk: where they are, that nobody else can have written them, and that they do not pile up."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid.engines.cpu.machine import compile as compiler
from pellucid.engines.cpu.machine import stored
from pellucid.engines.cpu.machine.target import host
from tests.engines.cpu.test_compile import Answer, forget

NAME = f"answer-{'0123456789abcdef' * 2}.o"
SOMEBODY = 4321
users = pytest.mark.skipif(not stored.HAS_USERS, reason="the system knows no users")
root = pytest.mark.skipif(not stored.HAS_USERS or os.geteuid() != 0, reason="only root gives things to others")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache, which does not exist yet."""
    forget(monkeypatch)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "some" / "cache"))
    return tmp_path / "some" / "cache"


@pytest.fixture
def kernel(folder: Path) -> Path:
    """A kernel that can be read."""
    stored.write(NAME, b"code")
    assert stored.read(NAME) == b"code"
    return folder / NAME


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PELLUCID_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert stored.directory() == Path("/home/somebody/.cache/pellucid")
    monkeypatch.setenv("XDG_CACHE_HOME", "/large")
    assert stored.directory() == Path("/large/pellucid")
    monkeypatch.setenv("PELLUCID_CACHE", "/own")
    assert stored.directory() == Path("/own")


def test_nothing_depends_on_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG specification ignores relative paths; HOME and PELLUCID_CACHE are refused, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PELLUCID_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert stored.directory() == Path("/home/somebody/.cache/pellucid")
    for name in ("HOME", "PELLUCID_CACHE"):
        monkeypatch.setenv(name, "here")
        with pytest.raises(stored.UnusableError, match=f"{name}: an absolute path is needed, got 'here'"):
            stored.directory()
        stored.write(NAME, b"code")
        assert stored.read(NAME) is None
        assert stored.state() == f"not used: {name}: an absolute path is needed, got 'here'"
    assert not list(tmp_path.iterdir())


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    for name in ("PELLUCID_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    forget(monkeypatch)
    assert Answer().found() == 42
    assert stored.state().startswith("not used: the user has no home")


@users
def test_what_is_made_is_closed_to_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        stored.write(NAME, b"code")
    finally:
        os.umask(before)
    assert [mode(place) for place in (folder.parent, folder, folder / NAME)] == [0o700, 0o700, 0o600]
    assert stored.state() == f"{folder}, 1 kernels, 0.0 MB"


@users
@pytest.mark.parametrize("rights", [0o020, 0o002])
def test_others_may_write(rights: int, kernel: Path) -> None:
    """To the file, to the folder, or to one above it, where they could lay another folder."""
    for place in (kernel, kernel.parent, kernel.parent.parent):
        place.chmod(mode(place) | rights)
        assert stored.read(NAME) is None
        if place is not kernel:
            assert (
                stored.state() == f"not used: {place} can be written to by others; take that from them with chmod go-w"
            )
        place.chmod(mode(place) & ~rights)
        assert stored.read(NAME) == b"code"


@users
def test_a_folder_below_one_where_all_may_make_theirs(kernel: Path) -> None:
    """Such as /tmp: nobody there takes away what is another's."""
    kernel.parent.parent.chmod(0o1777)
    assert stored.read(NAME) == b"code"


@root
@pytest.mark.parametrize("above", [0, 1, 2])
def test_somebody_elses(above: int, kernel: Path) -> None:
    place = [kernel, *kernel.parents][above]
    os.chown(place, SOMEBODY, -1)
    assert stored.read(NAME) is None
    if above:
        assert f"not used: {place} belongs to user {SOMEBODY}" in stored.state()
        stored.write(NAME, b"other")
        os.chown(place, 0, -1)
        assert stored.read(NAME) == b"code"


def linked_file(kernel: Path) -> None:
    kernel.rename(kernel.parent.parent / "elsewhere")
    kernel.symlink_to(kernel.parent.parent / "elsewhere")


def linked_folder(kernel: Path) -> None:
    kernel.parent.rename(kernel.parent.parent / "elsewhere")
    kernel.parent.symlink_to(kernel.parent.parent / "elsewhere")


def pipe(kernel: Path) -> None:
    kernel.unlink()
    os.mkfifo(kernel)


def renamed(kernel: Path) -> None:
    stored.write(other := NAME.replace("a", "b"), b"other")
    kernel.with_name(other).rename(kernel)


@users
@pytest.mark.parametrize("done", [linked_file, linked_folder, pipe, renamed])
def test_what_lies_there_is_no_kernel(done: Callable[[Path], None], kernel: Path) -> None:
    done(kernel)
    assert stored.read(NAME) is None


@users
def test_a_link_above_the_folder(kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own is followed, and what it leads through looked at; one in a circle leads nowhere."""
    (tmp_path / "link").symlink_to("some/../some")
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "link" / "cache"))
    assert stored.read(NAME) == b"code"
    (tmp_path / "some").chmod(0o777)
    assert stored.read(NAME) is None
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "circle" / "cache"))
    assert stored.read(NAME) is None
    assert "circle" in stored.state()


@root
def test_somebody_elses_link_above_the_folder(kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("some")
    os.lchown(tmp_path / "link", SOMEBODY, -1)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "link" / "cache"))
    assert stored.read(NAME) is None


def test_what_llvm_makes_nothing_of_is_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose checksum is right all the same."""
    answer = Answer()
    assert answer.found() == 42
    (kernel,) = folder.iterdir()
    good = kernel.read_bytes()
    stored.write(kernel.name, b"no code at all")
    forget(monkeypatch)
    assert answer.found() == 42
    assert answer.written == 2
    assert kernel.read_bytes() == good


def test_beyond_a_size_those_go_that_were_not_used_for_longest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not ours stays; what a process left unfinished long ago goes."""
    names = [f"answer-{number:032x}.o" for number in range(5)]
    for age, name in zip((50, 40, 30, 20, 10), names, strict=True):
        stored.write(name, bytes(100 - 32))
        os.utime(folder / name, (time.time() - age,) * 2)
    for name in ("main.o", ".new-old", ".new-recent"):
        (folder / name).write_bytes(bytes(10_000))
    os.utime(folder / ".new-old", (1, 1))
    assert stored.read(names[0])  # the oldest was used just now
    monkeypatch.setattr(stored, "MOST_BYTES", 300)
    monkeypatch.setattr(stored, "_writes", iter([0]))
    stored.write(last := f"answer-{7:032x}.o", bytes(100 - 32))
    assert {path.name for path in folder.iterdir()} == {names[0], names[4], last, "main.o", ".new-recent"}


def test_kernels_that_nobody_keeps_are_unloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many, those that were not asked for for longest; one that somebody keeps stays where it is."""
    monkeypatch.setattr(compiler, "MOST_LOADED", 3)

    def load(number: int) -> compiler.Loaded:
        return compiler.function("answer", f"a test's {number}", Answer(number).emit, host())

    def names() -> list[str]:
        return [description for _, description, _ in compiler._loaded]

    kept, gone = load(0), load(1)._library
    for number in (2, 1, 3, 2):
        load(number)
    assert names() == [f"a test's {number}" for number in (1, 2, 3)]
    assert not gone.closed
    load(4)
    assert names() == [f"a test's {number}" for number in (2, 3, 4)]
    assert gone.closed
    assert not kept._library.closed
