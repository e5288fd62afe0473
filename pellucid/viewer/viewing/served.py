"""A page served from a thread of the program that opened it."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from pellucid.viewer.browser.serve import WORKERS, listening, server_of
from pellucid.viewer.browser.values import Answering

_ENDING = 5.0  # seconds


class Served:
    """A server of answers on a free port of this machine, until it is closed or the process ends.

    Args:
        answers: what it is asked.
        port: 0 for a free one.
        token: of the address, drawn if None.

    Attributes:
        address: of the page.

    """

    def __init__(self, answers: Answering, port: int = 0, token: str | None = None) -> None:
        self._workers = ThreadPoolExecutor(WORKERS, "pellucid answer")
        self._socket = listening(port)  # whoever asks before the server runs is answered once it does
        port, token = self._socket.getsockname()[1], token or secrets.token_urlsafe(16)
        self.address = f"http://127.0.0.1:{port}/{token}/"
        self._server = server_of(answers, token, port, self._workers)
        self._thread = threading.Thread(target=self._serve, name="pellucid-view", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def wait(self) -> None:
        """Return once it is closed."""
        while self._thread.is_alive():
            self._thread.join(0.2)

    def close(self) -> None:
        """Take no more requests, and end."""
        self._server.should_exit = True
        self._thread.join(_ENDING)
        self._socket.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
