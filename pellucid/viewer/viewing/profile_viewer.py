"""What `pellucid.view` returns for a profile."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from pellucid import legible
from pellucid.profiles.profile import Profile
from pellucid.viewer.browser.profiled.answers import ProfileAnswers
from pellucid.viewer.viewing.page import Page


class ProfileViewer(Page):
    """The page of a profile. The last value of a notebook's cell is shown in it; `url` opens in any browser.

    Args:
        profile: of a corpus.
        title: what the page calls it; the model's name if None.
        state: where the page begins, the words of its address.
        height: of a notebook's cell, in pixels.
        open_browser: whether `shown` opens the browser from a script.

    """

    answers: ProfileAnswers

    def __init__(
        self,
        profile: Profile,
        title: str | None = None,
        *,
        state: Mapping[str, str] | None = None,
        height: int = 640,
        open_browser: bool = True,
    ) -> None:
        answers = ProfileAnswers(profile, legible.one_line(profile.model if title is None else title))
        super().__init__(answers, state=state, height=height, open_browser=open_browser)

    def __repr__(self) -> str:
        return f"ProfileViewer({self.answers.described.title}{self._where})"

    def save(self, path: str | PathLike[str], *, max_bytes: int | None = None, overwrite: bool = True) -> Path:
        """Write one page that opens from disk, with no server and no network; it says what it left out.

        Args:
            path: of the file, "page.html".
            max_bytes: what the page may take, 20 MB if None.
            overwrite: whether a file that is there is replaced.

        Returns:
            The file.

        Raises:
            FileExistsError: it is there, and is not to be replaced.
            OSError: it cannot be written.
            ValueError: the heads in numbers alone do not fit.

        """
        from pellucid.viewer.browser.profiled.saved import save_profile
        from pellucid.viewer.browser.saved.page import MAX_BYTES

        if not overwrite and Path(path).exists():
            raise FileExistsError(f"{path}: is there already")
        return save_profile(self.answers, path, max_bytes=MAX_BYTES if max_bytes is None else max_bytes)
