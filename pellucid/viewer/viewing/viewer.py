"""What `pellucid.view` returns: a page that a notebook shows in its cell, and a script in the browser."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pellucid.record.record import Record
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.viewing.surroundings import in_notebook, needed

if TYPE_CHECKING:
    from pellucid.viewer.browser.saved import Window
    from pellucid.viewer.viewing.served import Served


class Viewer:
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
        if isinstance(height, bool) or not isinstance(height, int) or height < 1:
            raise ValueError(f"height: a whole number of pixels is needed, got {height!r}")
        if state is not None and not isinstance(state, Mapping):
            raise TypeError(f"state: a dict of the address's words is needed, got {type(state).__name__}")
        self.answers = Answers(records, lesson, opens)
        self.height = height
        self.state = {str(name): str(value) for name, value in (state or {}).items()}
        self._open_browser = open_browser
        self._served: Served | None = None
        self._widget: Any = None

    def __repr__(self) -> str:
        where = f": {self.url}" if self._served is not None else ""
        return f"Viewer({', '.join(record.model for record in self.answers.records.values())}{where})"

    def shown(self) -> Viewer:
        """Itself; outside of notebooks its page is served, and opened in the browser."""
        if not in_notebook():
            address = self.url
            print(address, flush=True)
            if self._open_browser:
                webbrowser.open(address)
            print("pellucid: served as long as this program runs; .wait() keeps it until Ctrl-C", file=sys.stderr)
        return self

    @property
    def url(self) -> str:
        """The page's address, served from this process on this machine alone. Raises ImportError."""
        if self._served is None:
            needed("starlette", "uvicorn")
            self._served = import_module("pellucid.viewer.viewing.served").Served(self.answers)
        return self._served.address + (f"#{urlencode(self.state)}" if self.state else "")

    @property
    def widget(self) -> Any:
        """The widget (anywidget) that a notebook shows. Raises ImportError."""
        if self._widget is None:
            needed("anywidget")
            widget = import_module("pellucid.viewer.browser.widget").Widget
            self._widget = widget(self.answers, state=self.state, height=self.height)
        return self._widget

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _display_(self) -> Any:
        """What marimo shows."""
        return self.widget

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

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        address = self.url
        assert self._served is not None
        try:
            self._served.wait()
        except KeyboardInterrupt:
            print(f"pellucid: {address} is served no more", file=sys.stderr)
        finally:
            self.close()

    def close(self) -> None:
        """Serve no more; a notebook's cell keeps what it shows."""
        if self._served is not None:
            self._served.close()
        if self._widget is not None:
            self._widget.close()
        self._served = self._widget = None
        self.answers.close()
