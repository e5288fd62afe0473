"""Serves records until it is interrupted, and opens the browser at them."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Mapping
from typing import Any

import uvicorn

from pellucid.record.record import Record
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.app import application


def show(
    records: Mapping[str, Record], *, lesson: dict[str, Any] | None = None, port: int = 0, open_browser: bool = True
) -> int:
    """Serve until Ctrl-C; the exit status.

    Args:
        records: by id.
        lesson: what the page leads through.
        port: of 127.0.0.1; 0 for a free one.
        open_browser: whether the address is opened, and not printed alone.

    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        token = secrets.token_urlsafe(16)
        number = listening.getsockname()[1]
        address = f"http://127.0.0.1:{number}/{token}/"
        print(address, flush=True)
        if open_browser:
            webbrowser.open(address)
        served = application(Answers(records, lesson), token, number)
        uvicorn.Server(uvicorn.Config(served, log_level="warning", lifespan="off")).run(sockets=[listening])
    return 0
