"""The HTTP server around Answers: on this machine alone, behind a random token, for pages of its own."""

from __future__ import annotations

import hmac
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.values import Answer

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


def application(answers: Answers, token: str, port: int) -> Starlette:
    """The application that serves the page and answers, under `/token/`."""
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def serve(request: Request) -> Response:
        if request.headers.get("host") not in hosts:
            return PlainTextResponse("Host: this server answers for 127.0.0.1 alone\n", 403, _HEADERS)
        origin = request.headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            return PlainTextResponse("Origin: this server answers its own pages alone\n", 403, _HEADERS)
        given, _, path = request.path_params["path"].partition("/")
        if not hmac.compare_digest(given.encode(), token.encode()):
            return PlainTextResponse("the address is to be opened as it was printed, with its token\n", 403, _HEADERS)
        if path.startswith("api/"):
            return _response(await run_in_threadpool(answers.get, path, dict(request.query_params)))
        return _response(page_file(path or "index.html"))

    return Starlette(routes=[Route("/{path:path}", serve, methods=["GET"])])


def page_file(name: str) -> Answer:
    """A file of the page."""
    folder = files("pellucid.viewer") / "page"
    known = {entry.name: entry for entry in folder.iterdir() if entry.is_file()}
    ending = name[name.rfind(".") :]
    if name not in known or ending not in _TYPES:
        return Answer(b"there is no such file\n", "text/plain", 404)
    return Answer(known[name].read_bytes(), _TYPES[ending] + "; charset=utf-8")


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, {**_HEADERS, **answer.headers}, answer.media_type)
