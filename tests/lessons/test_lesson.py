import json

import pytest

from pellucid import cli
from pellucid.lessons import LESSONS
from pellucid.lessons.lesson import WARNING

VIEWS = {"heads", "map", "text", "cross"}
MOVES = {"view", "layer", "heads", "q", "k", "query", "key", "pool", "scale", "fixed", "direction", "sink", "roles"}
MOVES |= {"sort", "x", "y"}


@pytest.fixture(scope="module", params=list(LESSONS))
def told(request):
    lesson = LESSONS[request.param]
    record = lesson.record()
    return record, lesson.told(record)


def test_the_command_line_knows_the_lessons():
    assert tuple(LESSONS) == cli.LESSONS


def test_a_lesson_is_plain_values(told):
    _, lesson = told
    assert json.loads(json.dumps(lesson, allow_nan=False)) == lesson
    assert lesson["warning"] == WARNING
    assert WARNING.startswith("Attention is not explanation.")
    assert 3 <= len(lesson["steps"]) <= 6
    assert all(step["title"] and step["text"] for step in lesson["steps"])


def test_steps_move_what_the_page_has(told):
    record, lesson = told
    state = {}
    for step in lesson["steps"]:
        assert set(step["state"]) <= MOVES
        assert all(value is None or isinstance(value, str) for value in step["state"].values())
        state |= step["state"]
        state = {name: value for name, value in state.items() if value is not None}
        assert state["view"] in VIEWS
        layer = record[int(state.get("layer", -1))]
        assert int(state.get("heads", 0)) < layer.heads
        reads, read = layer.q_len, layer.k_len
        fixed = reads if state.get("direction") == "reads" else read
        assert all(int(place) < fixed for place in state.get("fixed", "").split(",") if place)
        for name, length in (("query", reads), ("key", read)):
            assert int(state.get(name, 0)) < length
        for name, length in (("q", reads), ("k", read)):
            start, stop = map(int, state.get(name, "0:1").split(":"))
            assert 0 <= start < stop <= length


def test_records_have_tokens_exact_weights_and_top_keys(told):
    record, _ = told
    assert record.model
    for layer in record.values():
        assert layer.weights(queries=slice(0, 1)).shape[2] == 1
        assert layer.topk.keys.shape[2] == layer.q_len
    assert len(record.tokens[0]) == record[0].q_len if record.source_tokens is None else record[-1].q_len
