"""Serves records until it is interrupted, and opens the browser at them."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pellucid.record.record import Record
from pellucid.viewer.browser import saved as saving
from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.values import Answering
from pellucid.viewer.viewing.surroundings import needed

if TYPE_CHECKING:
    import uvicorn

WORKERS = max(2, min(4, os.cpu_count() or 1))  # requests that are computed at once


def show(
    records: Mapping[str, Record],
    *,
    lesson: dict[str, Any] | None = None,
    port: int = 0,
    open_browser: bool = True,
    save: str | os.PathLike[str] | None = None,
    opens: Mapping[str, str] | None = None,
) -> int:
    """Serve until Ctrl-C, or save a page in place of it; the exit status. The address is printed on a line of its own.

    Args:
        records: by id.
        lesson: what the page leads through.
        port: of 127.0.0.1; 0 for a free one.
        open_browser: whether the address is opened, and not printed alone.
        save: the file of a page that opens from disk.
        opens: `Answers` says what.

    Raises:
        ImportError: the packages that serve are not installed.
        OSError: the port cannot be had, or the page cannot be written.
        ValueError: the page cannot hold what it must.
        KeyboardInterrupt: at Ctrl-C.

    """
    answers = Answers(records, lesson, opens)
    try:
        if save is None:
            serve(answers, port, open_browser)
        else:
            saving.save(answers, save)
    finally:
        answers.close()
    return 0


def serve(answers: Answering, port: int, open_browser: bool) -> None:
    """Serve answers and their page until Ctrl-C. Raises as `show` does."""
    needed("starlette", "uvicorn")
    with listening(port) as server, ending_in_order(), ThreadPoolExecutor(WORKERS, "pellucid answer") as workers:
        number, token = server.getsockname()[1], secrets.token_urlsafe(16)
        served = server_of(answers, token, number, workers)
        address = f"http://127.0.0.1:{number}/{token}/"
        print(address, flush=True)
        print("pellucid: served until Ctrl-C", file=sys.stderr, flush=True)
        if open_browser:
            threading.Thread(target=_open, args=(address,), daemon=True).start()
        try:
            served.run(sockets=[server])
        finally:
            workers.shutdown(wait=False, cancel_futures=True)


def server_of(answers: Answering, token: str, port: int, workers: Executor) -> uvicorn.Server:
    """What serves answers under `/token/`, once it is run on a socket of that port.

    Args:
        answers: what can be asked.
        token: what addresses begin with.
        port: of 127.0.0.1.
        workers: the threads that answers are computed in.

    Raises:
        ImportError: the packages that serve are not installed.

    """
    import uvicorn

    from pellucid.viewer.browser.app import App

    config = uvicorn.Config(
        App(answers, token, port, workers),
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",  # a browser that leaves, or sends what is no request, is nobody's concern
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def listening(port: int) -> socket.socket:
    """A socket that listens at a port of 127.0.0.1. Raises OSError, saying what helps."""
    server = socket.socket()
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
    except OSError as error:
        server.close()
        helps = "name another, or none for any that is free"
        words = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise OSError(error.errno, f"port {port} {words}; {helps}") from error
    return server


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Inside the `with` SIGTERM ends what runs as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def _open(address: str) -> None:
    """Open the address in the browser; where there is none, say so."""
    try:
        browser = webbrowser.get()
        # One that runs in the terminal shows no maps, and takes the terminal away.
        in_terminal = type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ
        opened = not in_terminal and browser.open(address)
    except webbrowser.Error:
        opened = False
    if not opened:
        print("pellucid: no browser was found; open the address in one", file=sys.stderr)
