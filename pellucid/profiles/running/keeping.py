"""The profile of a run on disk while it grows: written time and again, so that whatever ends the run loses little."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from pellucid.profiles.disk.form import ProfileError
from pellucid.profiles.disk.read import open_profile
from pellucid.profiles.disk.write import save
from pellucid.profiles.merging import without_spare
from pellucid.profiles.profile import Profile

_SHARE = 0.1  # of the time, at most, that writing takes


@dataclass
class Kept:
    """A profile and its file.

    Attributes:
        path: the file.
        profile: all that was added.
        unsaved: whether the file lacks some of it.
        held: how many documents the file has, read or not.

    """

    path: Path
    profile: Profile
    unsaved: bool = True
    held: int = 0
    _saved_at: float = 0.0
    _took: float = 0.0

    @property
    def done(self) -> int:
        """How many documents are in the profile, read or not."""
        return sum(stop - start for start, stop in self.profile.corpora[0].done)

    def add(self, part: Profile) -> None:
        """Add the profile of some documents, and write the file if it is time to."""
        self.profile = without_spare(self.profile.merged(part))
        self.unsaved = True
        if time.monotonic() - self._saved_at > self._took / _SHARE:
            self.save()

    def end(self, total: int) -> None:
        """Say that the corpus has `total` documents, and write the file."""
        (corpus,) = self.profile.corpora
        if corpus.total != total:
            self.profile, self.unsaved = replace(self.profile, corpora=(replace(corpus, total=total),)), True
        self.save()

    def save(self) -> None:
        """Write what is not yet in the file."""
        if not self.unsaved:
            return
        start = time.monotonic()
        self.path.parent.mkdir(exist_ok=True)
        save(self.profile, self.path, overwrite=True)
        self._saved_at, self.unsaved, self.held = time.monotonic(), False, self.done
        self._took = self._saved_at - start


def resumed(path: Path, blank: Profile) -> Kept:
    """What a run before has left of the same work.

    Raises:
        ProfileError: it is of other documents, another model or other settings.

    """
    found = open_profile(path)
    try:
        merged = blank.merged(found)
        if len(merged.corpora) != 1:
            raise ValueError(f"it is of another corpus, {found.corpora[0].name}, or its files have changed")
    except ValueError as error:
        raise ProfileError(f"{path}: cannot be gone on with: {error}") from error
    kept = Kept(path, merged, unsaved=False)
    kept.held = kept.done
    return kept
