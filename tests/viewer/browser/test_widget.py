"""The widget's kernel side: what its page asks is answered, as bytes or as text, or taken back."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pellucid
from pellucid.record.observed import record_of
from pellucid.viewer.browser.answers import _ROUTES, Answers
from pellucid.viewer.browser.widget import Widget
from pellucid.viewer.viewing import surroundings


@pytest.fixture
def answers() -> Answers:
    x = torch.randn(2, 7, 4)
    _, seen = pellucid.observe(x, x, x, is_causal=True)
    return Answers({"r0": record_of(seen)})


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[bytes]]]:
    found: list[tuple[dict[str, Any], list[bytes]]] = []
    monkeypatch.setattr(Widget, "send", lambda self, content, buffers=None: found.append((content, buffers or [])))
    return found


WORDS = ["id", "path", "query", "record", "layer", "heads", "sequence", "zq", "i", "key", "queries", "name"]
QUERY = {"record": "r0", "layer": "0", "heads": "1", "queries": "0:3", "keys": "1:5"}


def test_an_answer_is_the_server_s(answers: Answers, sent: list[Any]) -> None:
    Widget(answers)._handle_custom_msg({"id": "a-1", "path": "api/window", "query": QUERY}, [])
    wanted = answers.get("api/window", QUERY)
    ((content, buffers),) = sent
    assert buffers == [wanted.body]
    assert content["id"] == "a-1"
    assert content["status"] == 200
    assert content["size"] == len(wanted.body)
    assert content["headers"]["x-shape"] == "3,4"
    assert content["headers"]["x-exact"] == "exact"


def test_bytes_go_as_text_where_buffers_are_dropped(answers: Answers, sent: list[Any]) -> None:
    Widget(answers).ask({"id": "a-2", "path": "api/window", "query": QUERY, "text": True})
    ((content, buffers),) = sent
    assert not buffers
    assert base64.b64decode(content["text"]) == answers.get("api/window", QUERY).body


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({"id": "a", "path": "api/nothing", "query": {}}, 404),
        ({"id": "a", "path": "api/window", "query": {"layer": "9"}}, 400),
        ({"id": "a", "path": 5, "query": {}}, 400),
        ({"id": "a", "path": "api/info", "query": None}, 400),
    ],
)
def test_a_refusal_is_an_answer(answers: Answers, sent: list[Any], question: dict[str, Any], status: int) -> None:
    Widget(answers).ask(question)
    assert [content["status"] for content, _ in sent] == [status]


@pytest.mark.parametrize("question", [None, "api/info", {"path": "api/info", "query": {}}, {"id": 5}, []])
def test_what_is_no_question_is_left_alone(answers: Answers, sent: list[Any], question: Any) -> None:
    Widget(answers).ask(question)
    assert not sent


def test_a_question_may_be_taken_back(answers: Answers, sent: list[Any]) -> None:
    widget = Widget(answers)
    widget.ask({"id": "a-3", "cancel": True})
    widget.ask({"id": "a-3", "path": "api/info", "query": {}})
    widget.ask({"id": "a-4", "path": "api/info", "query": {}})
    assert [content["id"] for content, _ in sent] == ["a-4"]


def test_what_was_taken_back_too_late_is_forgotten(answers: Answers, sent: list[Any]) -> None:
    widget = Widget(answers)
    for number in range(3000):
        widget.ask({"id": str(number), "cancel": True})
    assert len(widget._cancelled) <= 1000
    widget.ask({"id": "2999", "path": "api/info", "query": {}})
    assert not sent


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*_ROUTES, "\ud800"]),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from(WORDS), one, max_size=5),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["id", "path", "query", "text", "cancel"]), JSON) | JSON)
@settings(max_examples=300)
def test_whatever_a_message_holds_it_is_answered_or_left_alone(question: Any) -> None:
    x = torch.ones(1, 3, 2)
    sent: list[dict[str, Any]] = []
    widget = Widget(Answers({"r0": record_of(pellucid.observe(x, x, x)[1])}))
    widget.send = lambda content, buffers=None: sent.append(content)
    widget.ask(question)
    assert len(sent) <= 1
    for content in sent:
        assert content["status"] in (200, 400, 404)
        json.dumps(content)


def test_in_a_kernel_answers_come_from_a_thread(
    answers: Answers, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pellucid.viewer.browser import widget as module

    monkeypatch.setattr(module, "has_kernel", lambda: True)
    widget = Widget(answers)
    for number in range(20):
        widget.ask({"id": str(number), "path": "api/info", "query": {}})
    until = time.monotonic() + 30
    while len(sent) < 20 and time.monotonic() < until:
        time.sleep(0.01)
    assert {json.loads(buffers[0])["version"] for _, buffers in sent} == {1}


def test_it_has_the_whole_page(answers: Answers) -> None:
    widget = Widget(answers, state={"view": "map"}, height=300)
    state = widget.get_state()
    assert "export default { render: renderWidget };" in state["_esm"]
    assert ".pellucid" in state["_css"]
    assert state["height"] == 300
    assert state["state"] == {"view": "map"}
    assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()[0]


def test_there_is_no_notebook_here() -> None:
    assert not surroundings.in_notebook()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r'^the page needs no_such_package.*pip install "pellucid\[view\]"$'):
        surroundings.needed("json", "no_such_package")
