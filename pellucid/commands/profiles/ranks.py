"""Where a process keeps its part of a profile: alone, or as one of the ranks that torchrun has started.

Ranks know of one another by their files alone, so none waits for another that is gone: each keeps its part in a folder
beside the profile, and whichever is the last to finish puts them together.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pellucid.commands.errors import InputError
from pellucid.profiles.corpus import Ranges, joined
from pellucid.profiles.disk.form import ProfileError
from pellucid.profiles.disk.read import open_profile
from pellucid.profiles.profile import Profile
from pellucid.profiles.reading.texts import Texts
from pellucid.profiles.running.blocks import SIZE, Shard
from pellucid.record.disk.lock import FolderLock, LockedError
from pellucid.record.disk.manifest import described

PARTS = ".parts"  # the folder, after the profile's name
LOCK = ".lock"  # a folder too, after the name of the file that is being written
_TRIES = 100  # to lock a folder that others make and remove
_PATIENCE = 600.0  # seconds for another rank to put the parts together


@dataclass(frozen=True)
class Place:
    """What a process reads, and the file that it keeps.

    Attributes:
        out: the profile of all.
        path: what this process writes.
        shard: what it reads.
        resumes: whether what an earlier run has left is gone on with.
        restarted: whether torchrun has started the ranks anew, which go on with their own parts.

    """

    out: Path
    path: Path
    shard: Shard
    resumes: bool
    restarted: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether there is a file of this process to go on with."""
        return (self.resumes or self.restarted) and self.path.exists()

    @property
    def is_part(self) -> bool:
        """Whether there are other ranks."""
        return self.path != self.out

    def elsewhere(self) -> Ranges:
        """The documents that runs before this one have read, of another number of ranks or of one."""
        if not self.is_part:
            return ()
        before = [path for path in _parts(self.path.parent) if _count_of(path) != _count_of(self.path)]
        corpora = [corpus for path in [*before, *self._whole()] for corpus in open_profile(path).corpora]
        return joined(one for corpus in corpora for one in corpus.done)

    def ended(self, profile: Profile) -> tuple[Path, Profile] | None:
        """What is written once this process is done; None if other ranks are not."""
        if not self.is_part:
            return self.out, profile
        with _locked(self.path.parent) as there:
            return self._together() if there else None

    def _together(self) -> tuple[Path, Profile] | None:
        first, *rest = [open_profile(path) for path in [*_parts(self.path.parent), *self._whole()]]
        found = first.merged(*rest)
        if not found.complete:
            return None
        found.save(self.out, overwrite=True)
        shutil.rmtree(self.path.parent, ignore_errors=True)
        return self.out, found

    def _whole(self) -> list[Path]:
        """The profile of all, where it is gone on with."""
        return [self.out] if self.resumes and self.out.exists() else []


@contextmanager
def held(options: argparse.Namespace, texts: Texts) -> Iterator[Place]:
    """Where this process keeps what it reads of a corpus, and no other run meanwhile.

    Raises:
        InputError: there is a file already, or it cannot be made, another run writes it, or --shard is given to ranks.

    """
    found = _place(options)
    lock = found.path.with_name(f".{found.path.name}{LOCK}")
    with _alone(lock, found):
        _begin(found, options, texts)
        yield found


def _place(options: argparse.Namespace) -> Place:
    out = Path(os.path.realpath(options.out)) if options.out.is_symlink() else options.out
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file, such as run.heads")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out}: is no plain file; name one, such as run.heads")
    ranked = "TORCHELASTIC_RUN_ID" in os.environ
    if ranked and options.shard is not None:
        raise InputError("--shard: torchrun gives each rank its part; leave it out")
    shard = _of_rank() if ranked else Shard(*(options.shard or (0, 1)))
    path = _part(out, shard) if ranked and shard.count > 1 else out
    return Place(out, path, shard, options.resume, ranked and _restarts() > 0)


def _begin(place: Place, options: argparse.Namespace, texts: Texts) -> None:
    """Make room for the file, or raise InputError where that was not asked for."""
    if not place.resumes and not place.restarted:
        _make_free(place.out, place.path, options.overwrite)
        if place.is_part and not options.overwrite and place.out.exists() and _reads_some(texts, place.shard):
            raise InputError(_taken(place.out))
    _clean(place.path)


@contextmanager
def _alone(lock: Path, place: Place) -> Iterator[None]:
    """The only run that writes a file: a folder beside it is locked, which is gone afterwards.

    The lock of a process that was killed ends with it; the next run takes the folder that it has left.
    """
    try:
        held = _taken_lock(lock)
    except LockedError:
        raise InputError(
            f"--out {place.out}: another run is writing it; wait for its end, or name another file"
        ) from None
    except OSError as error:
        raise InputError(f"--out {place.out}: cannot be written ({described(error)})") from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.rmdir()
        held.release()
        with suppress(OSError):
            if place.is_part:  # of a rank that had nothing to keep, once the others are done
                lock.parent.rmdir()


def _taken_lock(lock: Path) -> FolderLock:
    for _ in range(_TRIES):  # a run that ends at this moment removes the folder
        lock.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError, FileExistsError):
            lock.mkdir(exist_ok=True)
            found = FolderLock(lock)
            if not found.is_of_nothing:
                return found
            found.release()
    raise FileExistsError(errno.EEXIST, f"{lock} is in the way")


def _of_rank() -> Shard:
    return Shard(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def _restarts() -> int:
    """How often torchrun has started the ranks anew: then their parts are gone on with."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _make_free(out: Path, path: Path, overwrite: bool) -> None:
    """Raise InputError for what an earlier run has left, or remove it; what ranks of this run write is left alone."""
    old = [path]
    if path != out:
        old += [one for one in _parts(path.parent) if _count_of(one) != _count_of(path)]
    for one in old:
        if os.path.lexists(one) and not overwrite:
            raise InputError(_taken(one))
        if path != out:
            one.unlink(missing_ok=True)


def _taken(path: Path) -> str:
    return f"--out {path}: is there already; --overwrite it, --resume it, or name another"


def _reads_some(texts: Texts, shard: Shard) -> bool:
    """Whether a shard has any document. If not, the other ranks may have finished before it begins."""
    return any(document.number == shard.index * SIZE for document in texts)


def _part(out: Path, shard: Shard) -> Path:
    return out.with_name(out.name + PARTS) / f"{shard.index}-of-{shard.count}.heads"


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-of-*.heads"))


def _count_of(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _clean(path: Path) -> None:
    """Remove what a writer that was killed has left of this file."""
    for unfinished in path.parent.glob(f".{path.name}.*.part"):
        unfinished.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """The right to put the parts together; False where another rank has done so."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock = FolderLock(folder)
            break
        except FileNotFoundError:
            yield False
            return
        except LockedError:
            if time.monotonic() > until:
                raise ProfileError(f"{folder}: another rank holds it; run again with --resume") from None
            time.sleep(0.05)
    try:
        yield folder.is_dir() and bool(_parts(folder))
    finally:
        lock.release()
