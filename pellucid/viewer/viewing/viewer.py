"""What `pellucid.view` returns: a page that a notebook shows in its cell, and a script in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.record.record import Record
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.viewing.page import Page

if TYPE_CHECKING:
    from pellucid.viewer.browser.saved import Window


class Viewer(Page):
    """The page of some records. The last value of a notebook's cell is shown in it; `url` opens in any browser.

    Args:
        records: by the id that addresses have for them.
        lesson: what the page leads through, as `api/info` has it.
        opens: by record, the lines of Python that make it in the program of whoever looks.
        state: where the page begins, the words of its address.
        height: of a notebook's cell, in pixels.
        open_browser: whether `shown` opens the browser from a script.

    Raises:
        TypeError: a state that is no dict.
        ValueError: a height that is none.

    """

    answers: Answers

    def __init__(
        self,
        records: Mapping[str, Record],
        *,
        lesson: dict[str, Any] | None = None,
        opens: Mapping[str, str] | None = None,
        state: Mapping[str, str] | None = None,
        height: int = 640,
        open_browser: bool = True,
    ) -> None:
        answers = Answers(records, lesson, opens)
        super().__init__(answers, state=state, height=height, open_browser=open_browser)

    def __repr__(self) -> str:
        return f"Viewer({', '.join(record.model for record in self.answers.records.values())}{self._where})"

    def save(
        self,
        path: str | PathLike[str],
        *,
        max_bytes: int | None = None,
        windows: Sequence[Window] = (),
        overwrite: bool = True,
    ) -> Path:
        """Write one page that opens from disk, with no server and no network; it says what it left out.

        Args:
            path: of the file, "page.html".
            max_bytes: what the page may take, 20 MB if None.
            windows: what is inside exactly in any case: `(layer, head, queries, keys)`, a layer's name or number, a
                head's place and two slices, or None for all.
            overwrite: whether a file that is there is replaced.

        Returns:
            The file.

        Raises:
            FileExistsError: it is there, and is not to be replaced.
            OSError: it cannot be written.
            ValueError: the windows alone do not fit, or are none of the records'.

        """
        from pellucid.viewer.browser import saved

        limit = saved.MAX_BYTES if max_bytes is None else max_bytes
        return saved.save(self.answers, path, max_bytes=limit, windows=windows, overwrite=overwrite, state=self.state)
