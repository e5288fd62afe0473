"""What the page of a profile asks for, and the page saved."""

import base64
import json
import re
import zlib
from dataclasses import replace

import pytest

from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.studies.tables import telling_number
from pellucid.viewer.browser.app import page_file
from pellucid.viewer.browser.profiled.answers import ProfileAnswers
from pellucid.viewer.browser.profiled.saved import profile_page, save_profile
from tests.profiles import checkpoints


@pytest.fixture(scope="module")
def answers():
    return ProfileAnswers(checkpoints.whole(), "all.heads")


def asked(answers, path, **query):
    answer = answers.get(path, {name: str(value) for name, value in query.items()})
    return answer.status, json.loads(answer.body)


def test_all_heads_in_every_statistic(answers):
    profile = checkpoints.whole()
    status, found = asked(answers, "api/profile")
    assert status == 200
    assert [len(layer["head_numbers"]) for layer in found["layers"]] == [3, 3]
    assert found["numbers"]["layer"] == [0, 0, 0, 1, 1, 1]
    for number in NUMBERS:
        means = profile.statistics(number).mean.tolist()
        own = found["statistics"]["mean"][number]
        assert [pytest.approx(mean, rel=1e-5) if mean == mean else None for mean in means] == own
        middle = found["statistics"]["median"][number]
        assert [value is None for value in middle] == [mean != mean for mean in means]
    assert found["numbers"]["kind_without_sink"] == [kind.name for kind in profile.corpus_kinds(without_sink=True)]


def test_one_head_and_its_strongest(answers):
    profile = checkpoints.whole()
    status, found = asked(answers, "api/head", head=4)
    assert status == 200
    for number, spread in found["numbers"].items():
        histogram = spread["histogram"]
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert sum(histogram["counts"]) == spread["documents"] == profile.statistics(number).documents[4]
    assert found["telling"] == telling_number(found["kinds"]["without"]["name"])
    _, examples = asked(answers, "api/examples", head=4, number="induction")
    expected = profile.strongest_queries(4, "induction")
    assert [one["value"] for one in examples["queries"]] == [one.value for one in expected]
    assert any(piece[3] for piece in examples["queries"][0]["passages"][0]["pieces"])


@pytest.mark.parametrize(
    ("path", "query", "status", "message"),
    [
        ("api/info", {}, 404, "api/info: there is no such address"),
        ("api/head", {}, 400, "head: must be a whole number from 0 to 5, got None"),
        ("api/head", {"head": 6}, 400, "head: must be a whole number from 0 to 5, got '6'"),
        ("api/examples", {"head": 0, "number": "<b>"}, 400, "number: must be one of sink_mass, "),
    ],
)
def test_what_cannot_be_answered_is_said(answers, path, query, status, message):
    found = asked(answers, path, **query)
    assert found[0] == status
    assert found[1]["error"].startswith(message)


def held(page):
    text = re.search(r'id="pellucid-answers">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)["answers"]


def unpacked(one):
    return json.loads(zlib.decompress(base64.b64decode(one["body"]), -15))


def test_a_saved_page_holds_the_same_answers(answers, tmp_path):
    page = save_profile(answers, tmp_path / "page.html").read_text()
    found = held(page)
    assert len(found) == 1 + 6 + 6 * len(NUMBERS)
    assert unpacked(found["api/profile"]) == asked(answers, "api/profile")[1]
    assert unpacked(found["api/head 3"]) == asked(answers, "api/head", head=3)[1]
    assert unpacked(found["api/examples 2 entropy"]) == asked(answers, "api/examples", head=2, number="entropy")[1]
    assert "default-src &#x27;none&#x27;" in page


def test_a_small_page_leaves_examples_out_and_says_so(answers):
    whole = len(profile_page(answers).encode())
    page = profile_page(answers, whole - 40_000)
    assert len(page.encode()) <= whole - 40_000
    found = held(page)
    left = 6 * len(NUMBERS) - sum(name.startswith("api/examples") for name in found)
    assert unpacked(found["api/profile"])["left_out"] == [f"{left} of 114 lists of the strongest documents and queries"]
    assert left > 0
    for place, kind in enumerate(checkpoints.whole().corpus_kinds(without_sink=True)):
        assert f"api/examples {place} {telling_number(kind.name)}" in found
    with pytest.raises(ValueError, match=r"^max_bytes: the numbers of 6 heads alone do not fit$"):
        profile_page(answers, 100_000)


def test_a_hostile_name_ends_no_script(tmp_path):
    profile = replace(checkpoints.whole(), model="</script><script>alert(1)</script>")
    page = profile_page(ProfileAnswers(profile, "<img src=x>"))
    assert "alert(1)" not in page
    assert "<img src=x>" not in page
    assert page.count("</script>") == 2


def test_the_page_itself_is_served():
    assert b"profilemain.js" in page_file(ProfileAnswers.index).body
    assert page_file("profilemain.js").status == 200
