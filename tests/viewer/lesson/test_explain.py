import io
import re

import pytest
import torch
from rich.console import Console

from pellucid.nn import SelfAttention
from pellucid.viewer.lesson.explain import explanation, words_for_random_tokens, words_for_reader
from pellucid.viewer.lesson.steps import layer_lesson, notebook_lessons


def told(lesson, words, width=80):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, highlight=False).print(explanation(lesson, words), crop=False)
    return file.getvalue()


def random_lessons(tokens=10, dim=4, context=6, seed=0):
    return [
        (lesson, told(lesson, words_for_random_tokens(lesson, seed)))
        for lesson in notebook_lessons(tokens, dim, context, seed)
    ]


def numbers_under(text, formula):
    """The matrix printed below a formula, without its labels."""
    lines = text[text.index(formula) :].splitlines()[1:]
    rows = [line.split() for line in lines[: next(i for i, line in enumerate(lines) if not line)]]
    return [row[1:] for row in rows if "." in row[-1]]


def test_steps_come_in_order_with_their_shapes():
    (_, own), (_, other) = random_lessons()
    steps = ["Tokens", "Queries, keys, values", "Scores", "Weights", "Attended", "Agreement"]
    for text in (own, other):
        assert re.findall(r"^\d\. ([A-Z][a-z, ]+?)  ", text, re.MULTILINE) == steps
    for shape in ("x [10, 4]", "Q = x @ W_q [10, 4]", "scores = Q @ K.T / √4 [10, 10]", "weights @ V [10, 4]"):
        assert shape in own
    for shape in ("context [6, 4]", "K = context @ W_k [6, 4]", "weights = softmax(scores) [10, 6]"):
        assert shape in other


def test_the_numbers_shown_are_the_lessons():
    for lesson, text in random_lessons(tokens=5, dim=3, context=4, seed=9):
        shown = numbers_under(text, "attended = weights @ V")
        assert shown == [[f"{value:.3f}" for value in row] for row in lesson.attended.tolist()]
        weights = numbers_under(text, "weights = softmax(scores)")
        assert [row[:-1] for row in weights] == [[f"{value:.3f}" for value in row] for row in lesson.weights.tolist()]


def test_each_row_of_weights_has_its_sum():
    for _, text in random_lessons(tokens=7):
        assert [row[-1] for row in numbers_under(text, "weights = softmax(scores)")] == ["1.000"] * 7


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    for lesson in notebook_lessons(tokens=40, dim=50, context=30, seed=0):
        text = told(lesson, words_for_random_tokens(lesson, 0), width)
        assert max(map(len, text.splitlines())) <= width


def test_queries_keys_and_values_stand_side_by_side_in_eighty_columns():
    for _, text in random_lessons():
        heading = next(line for line in text.splitlines() if line.startswith("  Q = "))
        assert "K = " in heading
        assert "V = " in heading


def test_one_is_not_plural():
    (_, text), _ = random_lessons(tokens=1, dim=1)
    assert "1 sample token, a row each: 1 random number" in " ".join(text.split())


def test_a_layer_is_told_with_its_head_and_labels():
    lesson = layer_lesson(SelfAttention(12, 3, rotary=10.0), [torch.randn(1, 2, 12)], 1, ["a", " "], ["a", " "])
    text = told(lesson, words_for_reader(lesson, 1))
    assert text.startswith("Self-attention: layer 0 of the encoder, head 1\n")
    assert "Q = turn(x @ W_q + b_q) [2, 4]" in text
    assert re.search(r"^  ␣ +-?\d", text, re.MULTILINE)


@pytest.mark.parametrize("scale", [None, 1.5])
def test_queries_keys_and_values_can_be_made_again_from_what_is_shown(scale):
    for lesson in notebook_lessons(5, 3, 4, 9, scale):
        text = told(lesson, words_for_random_tokens(lesson, 9, scale), 200)
        for name, made in zip("qkv", lesson.projections, strict=True):
            column = numbers_under(text, "W_q [3, 3]")  # the three stand side by side
            place = "qkv".index(name) * 3
            assert [row[place : place + 3] for row in column] == [
                [f"{value:.3f}" for value in row] for row in made.weight.tolist()
            ]


def test_the_projections_of_a_trained_head_have_what_they_add(reader_lessons):
    for lesson, text in reader_lessons:
        for name, made in zip("qkv", lesson.projections, strict=True):
            assert f"W_{name} {list(made.weight.shape)}" in text
            assert f"b_{name} {[1, len(made.bias)]}" in text


@pytest.fixture
def reader_lessons():
    layer = SelfAttention(12, 3, bias=True).eval()
    lesson = layer_lesson(layer, [torch.randn(1, 5, 12)], 1, list("abcde"), list("abcde"))
    return [(lesson, told(lesson, words_for_reader(lesson, 1), 200))]


def test_why_rows_are_even_is_said_and_a_scale_makes_them_sharp():
    even, sharp = (notebook_lessons(10, 4, 6, 0, scale)[0] for scale in (None, 2.0))
    assert float(even.weights.max()) < 0.3
    assert float(sharp.weights.amax(-1).mean()) > 0.6
    assert "nearly even here" in " ".join(told(even, words_for_random_tokens(even, 0)).split())
    assert len(set(sharp.weights.argmax(-1).tolist())) > 2  # and not all on the same key
    text = " ".join(told(sharp, words_for_random_tokens(sharp, 0, 2.0)).split())
    assert "nearly even" not in text
    assert "random numbers around 0, W_q and W_k scaled by 2 (seed 0)" in text
