"""The HTTP server around Answers: on this machine alone, behind a random token, for pages of its own.

What is let in carries the token in its address, a Host of this machine and, where a page asks, the server's own
Origin. A page of elsewhere knows no token; and a name of elsewhere that is made to point here has another Host.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pellucid.viewer.browser.values import Answer, Answering

LONGEST_ADDRESS = 4096  # bytes of path and query
HTTP = 80  # the port that a Host need not name
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_GONE = Answer(b"", status=499)  # nobody is there to read it


class App:
    """The ASGI application that serves the page and answers, under `/token/`.

    Args:
        answers: what can be asked.
        token: what addresses begin with.
        port: that it is served at, of 127.0.0.1.
        workers: the threads that answers are computed in; the event loop's own if None.

    """

    def __init__(self, answers: Answering, token: str, port: int, workers: Executor | None = None) -> None:
        self.answers, self.token, self.workers = answers, token, workers
        names = ("127.0.0.1", "localhost")
        self.hosts = {f"{name}:{port}" for name in names} | ({*names} if port == HTTP else set())
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; whatever is no HTTP is not taken up."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = self.refused(request) or await self.answered(request)
        headers = {**_HEADERS, **answer.headers}
        await Response(answer.body, answer.status, headers, answer.media_type)(scope, receive, send)

    def refused(self, request: Request) -> Answer | None:
        """Why a request is not let in, if it is not."""
        if request.headers.get("host", "").lower() not in self.hosts:
            return _sentence("Host: this server answers for 127.0.0.1 alone", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.origins:
            return _sentence("Origin: this server answers its own pages alone", 403)
        if len(request.scope["raw_path"]) + len(request.scope["query_string"]) > LONGEST_ADDRESS:
            return _sentence(f"the address is longer than {LONGEST_ADDRESS} bytes", 414)
        given = request.scope["path"][1:].partition("/")[0]
        if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode()):
            return _sentence("open the address as it was printed, with its token", 403)
        if request.method not in ("GET", "HEAD"):
            return _sentence("what is here can be read, with GET, and nothing else", 405, {"Allow": "GET, HEAD"})
        return None

    async def answered(self, request: Request) -> Answer:
        """The answer to a request that was let in."""
        path = request.scope["path"][1:].partition("/")[2]
        if not path.startswith("api/"):
            return page_file(path or self.answers.index)
        query = dict(request.query_params)
        return await while_wanted(request, self.workers, lambda: self.answers.get(path, query))


async def while_wanted(request: Request, workers: Executor | None, answer: Callable[[], Answer]) -> Answer:
    """An answer that a worker computes, unless whoever asked leaves before it has begun."""
    loop = asyncio.get_running_loop()
    computed = loop.run_in_executor(workers, answer)
    gone = loop.create_task(_gone(request))
    await asyncio.wait((computed, gone), return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not computed.done():
        computed.cancel()  # of one that has begun nobody hears
        return _GONE
    return computed.result()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def page_file(name: str) -> Answer:
    """A file of the page."""
    ending = name[name.rfind(".") :]
    if ending not in _TYPES or name not in _names():
        return _sentence("there is no such file", 404)
    content = (files("pellucid.viewer") / "page" / name).read_bytes()
    return Answer(content, _TYPES[ending] + "; charset=utf-8")


@lru_cache(1)
def _names() -> frozenset[str]:
    return frozenset(entry.name for entry in (files("pellucid.viewer") / "page").iterdir() if entry.is_file())


def _sentence(text: str, status: int, headers: dict[str, str] | None = None) -> Answer:
    return Answer(f"{text}\n".encode(), "text/plain; charset=utf-8", status, headers or {})
