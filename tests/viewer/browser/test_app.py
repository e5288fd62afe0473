"""Who is let in, and what is answered to everybody else; asked as a server asks, and over a real socket."""

import asyncio
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pellucid.viewer.browser.answers import Answers
from pellucid.viewer.browser.app import App, page_file
from pellucid.viewer.browser.serve import listening
from pellucid.viewer.browser.values import Answer
from pellucid.viewer.viewing.served import Served
from tests.watch.observed import observed_layer, observed_record

TOKEN, PORT = "a-token", 4321


@pytest.fixture(scope="module")
def answers():
    made = Answers({"one": observed_record(observed_layer())})
    yield made
    made.close()


@pytest.fixture
def app(answers):
    return App(answers, TOKEN, PORT)


class Reply:
    """What an application sent."""

    def __init__(self, messages):
        self.status = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])


def ask(app, path, query="", *, method="GET", host=f"127.0.0.1:{PORT}", gone=None, **headers):
    """Ask as a server does; `gone`: the seconds after which whoever asks leaves."""
    names = {"host": host} | headers
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in names.items() if value is not None],
        "scheme": "http", "server": ("127.0.0.1", PORT), "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    sent = []
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive():
        for message in asked:
            return message
        await asyncio.sleep(60 if gone is None else gone)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return Reply(sent)


def test_the_page_and_answers(app):
    page = ask(app, f"/{TOKEN}/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"main.js" in page.body
    assert ask(app, f"/{TOKEN}/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    info = ask(app, f"/{TOKEN}/api/info")
    assert json.loads(info.body)["records"][0]["id"] == "one"
    tile = ask(app, f"/{TOKEN}/api/tile", "layer=0&heads=1&dtype=f32")
    assert (tile.status, tile.headers["x-shape"], len(tile.body)) == (200, "23,23", 23 * 23 * 4)


@pytest.mark.parametrize("path", [f"/{TOKEN}/", f"/{TOKEN}/api/info", f"/{TOKEN}/nosuch", "/", "/other/api/info"])
def test_every_answer_forbids_what_the_page_does_not_need(app, path):
    headers = ask(app, path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"  # the address has the token
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host",
    [
        None, "", "evil.com", f"evil.com:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"127.0.0.1.nip.io:{PORT}",
        f"localhost.evil.com:{PORT}", f"a.localhost:{PORT}", f"[::1]:{PORT}", f"[::ffff:127.0.0.1]:{PORT}", "0.0.0.0",
        f"127.0.0.1:{PORT}.evil.com", f"127.1:{PORT}", f"2130706433:{PORT}", f"user@127.0.0.1:{PORT}",
    ],
)  # fmt: skip
def test_a_host_of_elsewhere(app, host):
    reply = ask(app, f"/{TOKEN}/api/info", host=host)
    assert (reply.status, reply.body) == (403, b"Host: this server answers for 127.0.0.1 alone\n")


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"LocalHost:{PORT}"])
def test_names_of_this_machine(app, host):
    assert ask(app, f"/{TOKEN}/api/info", host=host).status == 200


def test_the_port_of_http_need_not_be_named(answers):
    app = App(answers, TOKEN, 80)
    assert ask(app, f"/{TOKEN}/api/info", host="127.0.0.1").status == 200
    assert ask(app, f"/{TOKEN}/api/info", host="127.0.0.1", origin="http://127.0.0.1").status == 200


@pytest.mark.parametrize("origin", ["null", "http://evil.com", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:1", ""])
def test_an_origin_of_elsewhere(app, origin):
    reply = ask(app, f"/{TOKEN}/api/info", origin=origin)
    assert (reply.status, reply.body) == (403, b"Origin: this server answers its own pages alone\n")
    assert ask(app, f"/{TOKEN}/api/info", origin=f"http://127.0.0.1:{PORT}").status == 200


@pytest.mark.parametrize(
    "path", ["/", "//", "/api/info", "/a-toke/api/info", "/a-token2/", "/A-TOKEN/", "/é/", "/\udcff/"]
)
def test_a_wrong_or_missing_token(app, path):
    reply = ask(app, path.encode("utf-8", "surrogatepass").decode("latin-1"))
    assert (reply.status, reply.body) == (403, b"open the address as it was printed, with its token\n")


@pytest.mark.parametrize(
    "name",
    [
        "../answers.py", "..%2fanswers.py", "../../../pyproject.toml", "/etc/passwd", "page", ".", "..", "main.js/",
        "main.js\0.html", "MAIN.JS", "__init__.py", "", "a" * 999, "<script>alert(1)</script>",
    ],
)  # fmt: skip
def test_a_path_outside(app, name):
    assert page_file(name).status == 404
    if name:
        reply = ask(app, f"/{TOKEN}/{name}")
        assert (reply.status, reply.body) == (404, b"there is no such file\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_other_methods(app, method):
    reply = ask(app, f"/{TOKEN}/api/info", method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert ask(app, f"/{TOKEN}/api/info", method="HEAD").status == 200


def test_an_address_of_any_length(app):
    assert ask(app, f"/{TOKEN}/api/info", "x=" + "a" * 4000).status == 200
    for path, query in ((f"/{TOKEN}/api/info", "x=" + "a" * 4096), ("/" + "a" * 5000, "")):
        assert ask(app, path, query).status == 414


def test_whoever_leaves_is_not_computed_for(answers):
    """Of two that ask, the second is waiting when it leaves."""
    began, release, computed = threading.Event(), threading.Event(), []

    class Slow:
        def get(self, path, query):
            computed.append(query["n"])
            began.set()
            assert release.wait(30)
            return Answer(b"done")

    with ThreadPoolExecutor(1) as workers:
        app = App(Slow(), TOKEN, PORT, workers)
        with ThreadPoolExecutor(1) as other:
            first = other.submit(ask, app, f"/{TOKEN}/api/x", "n=1")
            assert began.wait(30)
            assert ask(app, f"/{TOKEN}/api/x", "n=2", gone=0.01).status == 499
            release.set()
            assert first.result().body == b"done"
    assert computed == ["1"]


# Over a socket.


@pytest.fixture
def served(answers):
    made = Served(answers)
    yield made
    made.close()


def test_a_real_server(served):
    address = served.address
    host, _, path = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/{path}api/info")
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["version"]) == (200, 1)
    assert reply.getheader("server") is None
    connection.request("GET", f"/{path}api/info", headers={"Host": "evil.com"})
    assert connection.getresponse().read() == b"Host: this server answers for 127.0.0.1 alone\n"
    connection.close()
    number = int(host.rpartition(":")[2])
    with pytest.raises(OSError, match=f"port {number} is in use; name another, or none for any that is free"):
        listening(number)


def test_nonsense_and_those_who_leave_mid_way(served, capfd):
    host, _, path = served.address.removeprefix("http://").partition("/")
    place = ("127.0.0.1", int(host.rpartition(":")[2]))
    for sent in (
        b"\x16\x03\x01\x00\xff",
        b"GET",
        f"GET /{path}api/tile?layer=0 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(),
    ):
        with socket.create_connection(place, timeout=10) as one:
            one.sendall(sent)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave at once
    upgrade = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with socket.create_connection(place, timeout=10) as one:
        one.sendall(upgrade.encode())
        assert b" 101 " not in one.recv(100)
    time.sleep(0.1)
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/{path}")
    assert connection.getresponse().status == 200
    connection.close()
    assert capfd.readouterr() == ("", "")
