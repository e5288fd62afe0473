"""Where the page is told that pictures, sound and calls lie, and the pixels that it gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pellucid
from pellucid.record.layer import Layer
from pellucid.viewer.browser.answers import Answers
from tests.viewer.browser.asking import json_of


def layer(name: str, role: str, q_len: int, k_len: int, start: int = 0, **more) -> Layer:
    sizes = {"batch": 2, "heads": 3, "kv_heads": 3, "head_dim": 5, "value_dim": 5, "scale": 1.0}
    readings = {"lse": torch.zeros(2, 3, q_len)}
    return Layer(name, role, q_len=q_len, k_len=k_len, start=start, readings=readings, **sizes, **more)


@pytest.fixture
def record() -> pellucid.Record:
    made = pellucid.Record()
    for one in (
        layer("vision.0", "self", 13, 13),
        layer("text.0", "causal self", 20, 20, call_rows=[[17, 1], [1, 3]]),
        layer("text.1", "cross", 20, 13),
    ):
        made.add(one)
    picture = torch.arange(4 * 6 * 3).view(4, 6, 3).to(torch.uint8)
    made.images = [
        pellucid.Image(2, 3, slice(1, 7), layers="vision", picture=picture, name="a cat"),
        pellucid.Image(2, 2, positions=[3, 4, 6, 7], sequence=1, layers="text.0"),
        pellucid.Image(2, 3, slice(1, 7), source=True, layers="text.1"),
    ]
    made.frames = [pellucid.Frames(seconds_per_key=0.02, segment=slice(7, 13), source=True, layers="text.1")]
    return made


def told(record: pellucid.Record) -> dict:
    return json_of(Answers({"run": record}).get("api/info", {}))["records"][0]


def test_images_say_where_their_patches_are(record) -> None:
    first, second, third = told(record)["images"]
    assert (first["name"], first["rows"], first["columns"], first["sequence"]) == ("a cat", 2, 3, 0)
    assert (first["has_picture"], first["height"], first["width"]) == (True, 4, 6)
    assert (second["has_picture"], second["positions"], second["sequence"]) == (False, [3, 4, 6, 7], 1)
    assert [one["axes"] for one in (first, second, third)] == [{"0": "both"}, {"1": "both"}, {"2": "keys"}]


def test_frames_say_their_seconds(record) -> None:
    (frames,) = told(record)["frames"]
    assert frames == {"sequence": None, "axes": {"2": "keys"}, "start": 7, "stop": 13, "seconds": 0.02, "offset": 0.0}


def test_a_picture_is_sent_as_it_is(record) -> None:
    answer = Answers({"run": record}).get("api/picture", {"image": "0"})
    assert (answer.status, answer.headers["X-Shape"], answer.headers["X-Dtype"]) == (200, "4,6,3", "u8")
    assert np.array_equal(np.frombuffer(answer.body, np.uint8), record.images[0].picture.flatten().numpy())


@pytest.mark.parametrize(
    ("image", "status", "words"), [("1", 404, "no picture"), ("3", 400, "0 to 2"), ("x", 400, "0 to 2")]
)
def test_a_picture_that_is_not_there_is_refused(record, image, status, words) -> None:
    answer = Answers({"run": record}).get("api/picture", {"image": image})
    assert answer.status == status
    assert words in json_of(answer)["error"]


def test_a_record_without_images_says_so() -> None:
    answer = Answers({"run": pellucid.Record()}).get("api/picture", {})
    assert (answer.status, json_of(answer)["error"]) == (404, "image: the record has none")


def test_calls_are_told_by_their_first_rows(record) -> None:
    assert [one["calls"] for one in told(record)["layers"]] == [[0], [0, 17, 18, 19], [0]]
