"""The page of `pellucid explain`: what its script computes is what the terminal shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pellucid.nn import CrossAttention, SelfAttention
from pellucid.viewer.lesson.explain import words_for_random_tokens, words_for_reader
from pellucid.viewer.lesson.page import MOST, explain_page
from pellucid.viewer.lesson.steps import layer_lesson, notebook_lessons

PAGE = Path(__file__).parents[3] / "pellucid" / "viewer" / "page"
LABELS = ["</script>", "<", "\n", "\udcff"]
NODE = shutil.which("node")
COMPUTE = """
import { attentionOf, matrixOf } from "%s";
let text = "";
for await (const part of process.stdin) text += part;
const results = JSON.parse(text).map((told) => {
  const maybe = (rows) => rows && matrixOf(rows);
  const projected = ({ weight, bias }) => ({ weight: matrixOf(weight), bias: maybe(bias && [bias]) });
  const projections = told.projections.map(projected);
  const given = { tokens: matrixOf(told.tokens), context: maybe(told.context), projections, rotary: told.rotary };
  return Object.fromEntries(Object.entries(attentionOf(given)).map(([name, made]) => [name, [...made.values]]));
});
console.log(JSON.stringify(results));
"""


class Scripts(HTMLParser):
    """What stands in a page's scripts and styles, by the id or the tag, and its policy."""

    def __init__(self, page):
        super().__init__()
        self.found, self.policy, self._open = {}, "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self._open = given.get("id", tag) if tag in ("script", "style") else None
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        assert not {"src", "onclick", "style"} & set(given)

    def handle_data(self, data):
        if self._open is not None:
            self.found[self._open] = self.found.get(self._open, "") + data


def random_lessons(*sizes, seed=0):
    return [(lesson, words_for_random_tokens(lesson, seed)) for lesson in notebook_lessons(*sizes, seed=seed)]


def layer_lessons():
    torch.manual_seed(0)
    own = SelfAttention(18, 6, kv_heads=2, head_dim=4, rotary=100.0)
    other = CrossAttention(12, 3, context_dim=5)
    lessons = [
        layer_lesson(own, [torch.randn(1, 7, 18)], 4, "abcdefg", "abcdefg"),
        layer_lesson(
            other, [torch.randn(1, 7, 12), torch.randn(1, 4, 5)], 1, "abcdefg", ["</script>", "<", "\n", "\udcff"]
        ),
    ]
    return [(lesson, words_for_reader(lesson, 0)) for lesson in lessons]


@pytest.mark.skipif(NODE is None, reason="the script runs in node, which is not installed")
@pytest.mark.parametrize("lessons", [random_lessons(10, 4, 6), random_lessons(1, 1, 1), layer_lessons()])
def test_the_page_computes_what_the_library_does(lessons, tmp_path):
    told = Scripts(explain_page(lessons)).found["pellucid-lessons"]
    script = tmp_path / "compute.mjs"
    module = tmp_path / "explainmath.mjs"
    module.write_text((PAGE / "explainmath.js").read_text(encoding="utf-8"), encoding="utf-8")
    script.write_text(COMPUTE % module.as_uri(), encoding="utf-8")
    done = subprocess.run([NODE, script], input=told, capture_output=True, text=True, timeout=60, check=True)
    for (lesson, _), made in zip(lessons, json.loads(done.stdout), strict=True):
        for name in ("query", "key", "value", "scores", "weights", "attended"):
            expected = getattr(lesson, name)
            torch.testing.assert_close(
                torch.tensor(made[name], dtype=torch.float32).view_as(expected), expected, rtol=1e-5, atol=1e-5
            )


def test_what_a_label_holds_ends_no_script():
    page = explain_page(layer_lessons())
    lessons = json.loads(Scripts(page).found["pellucid-lessons"])
    assert lessons[1]["key_labels"] == LABELS
    assert page.count("</script>") == page.count("<script") == 2
    page.encode("utf-8")


def test_the_page_asks_nobody_for_anything():
    page = Scripts(explain_page(random_lessons(3, 2, 2)))
    assert page.policy.startswith("default-src 'none'; ")
    assert "unsafe" not in page.policy
    named = re.findall(r"https?://[^\s\"']*", page.found["script"] + page.found["style"])
    assert set(named) <= {"http://www.w3.org/2000/svg"}  # a name, which nobody looks up


def test_a_matrix_that_no_table_can_show_is_refused():
    assert explain_page(random_lessons(128, 2, 128))
    with pytest.raises(ValueError, match=rf"^scores \[129, 129\]: the page has room for {MOST:,} numbers in a matrix"):
        explain_page(random_lessons(129, 2, 3))
    with pytest.raises(ValueError, match=r"^x \[17, 1000\]: "):
        explain_page(random_lessons(17, 1000, 3))
