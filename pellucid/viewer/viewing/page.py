"""A page that a notebook shows in its cell, and a script in the browser: of records, or of a profile."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pellucid.viewer.viewing.surroundings import in_notebook, needed

if TYPE_CHECKING:
    from typing_extensions import Self

    from pellucid.viewer.browser.values import Answering
    from pellucid.viewer.viewing.served import Served


class Page:
    """The page of whatever answers its questions.

    Args:
        answers: what it asks.
        state: where it begins, the words of its address.
        height: of a notebook's cell, in pixels.
        open_browser: whether `shown` opens the browser from a script.

    Raises:
        TypeError: a state that is no dict.
        ValueError: a height that is none.

    """

    answers: Answering

    def __init__(self, answers: Answering, *, state: Mapping[str, str] | None, height: int, open_browser: bool) -> None:
        if isinstance(height, bool) or not isinstance(height, int) or height < 1:
            raise ValueError(f"height: a whole number of pixels is needed, got {height!r}")
        if state is not None and not isinstance(state, Mapping):
            raise TypeError(f"state: a dict of the address's words is needed, got {type(state).__name__}")
        self.answers = answers
        self.height = height
        self.state = {str(name): str(value) for name, value in (state or {}).items()}
        self._open_browser = open_browser
        self._served: Served | None = None
        self._widget: Any = None

    @property
    def _where(self) -> str:
        """The address, if it is served, as a repr ends."""
        return f": {self.url}" if self._served is not None else ""

    def shown(self) -> Self:
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
