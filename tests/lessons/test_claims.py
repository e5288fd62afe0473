"""What each lesson says is so, measured on its model."""

import pytest
import torch

from pellucid.lessons import alignment, induction, lists, needle, previous, sink


@pytest.fixture(scope="module")
def of_list():
    return lists.record()


@pytest.fixture(scope="module")
def of_story():
    return needle.record()


@pytest.fixture(scope="module")
def of_date():
    return alignment.record()


def test_the_list_is_said_twice():
    words = lists.TEXT[1:]
    assert len(set(words)) == len(words) / 2 == lists.LENGTH
    assert words[: lists.LENGTH] == words[lists.LENGTH :]
    assert lists.TEXT[lists.SHOWN] == lists.TEXT[lists.EARLIER]


def test_a_head_of_the_first_layer_looks_at_the_token_before(of_list):
    found = previous.head(of_list)
    assert found.layer == 0
    assert of_list[0].weights(heads=found.head)[0, 0].diagonal(-1).mean() > 0.9


def test_a_head_of_the_second_layer_finds_what_came_next(of_list):
    found = induction.head(of_list)
    assert found.layer == 1
    assert induction.weight(of_list, found) > 0.8
    rows = of_list[1].weights(heads=found.head)[0, 0, lists.LENGTH + 1 :]
    keys = torch.arange(2, lists.LENGTH + 2)  # what follows each word of the first round
    assert torch.equal(rows.argmax(-1), keys)


def test_a_twin_is_told_where_there_is_one(of_list):
    for lesson, number in ((induction, "induction"), (previous, "previous")):
        found = lesson.head(of_list)
        twin = f"Head {1 - found.head} of the same layer does nearly the same"
        row = next(
            r for r in of_list.summary().rows if (r.layer, r.head) == (of_list.layers[found.layer], 1 - found.head)
        )
        assert getattr(row, number) > 0.9
        assert any(twin in step.text for step in lesson.LESSON.steps(of_list))


def test_the_row_of_the_alignment_is_named_by_what_was_written(of_date):
    text = alignment.LESSON.steps(of_date)[1].text
    row = int(alignment.LESSON.steps(of_date)[1].state["query"])
    assert f"just written, “{of_date.tokens[0][row]}”" in text
    assert f"the next character, “{of_date.tokens[0][row + 1]}”" in text


def test_the_model_says_how_the_list_goes_on():
    from pellucid.lessons.model import load_decoder

    model = load_decoder("lists")
    numbers = model.encode([lists.TEXT])
    said = model(numbers)[0].argmax(-1)
    second = slice(lists.LENGTH + 1, -1)
    assert torch.equal(said[second], numbers[0, lists.LENGTH + 2 :])
    first = said[1 : lists.LENGTH - 1] == numbers[0, 2 : lists.LENGTH]
    assert first.float().mean() < 0.2


def test_the_same_head_parks_on_the_first_token_until_the_list_repeats(of_list):
    idle, busy = sink.parked(of_list, induction.head(of_list))
    assert idle > 0.6
    assert busy < 0.1


def test_what_the_first_token_hands_over_is_the_same_after_any_words():
    from pellucid.lessons.model import load_decoder

    model = load_decoder("lists")
    texts = [lists.TEXT, (lists.TEXT[0], *reversed(lists.TEXT[1:]))]
    inputs = []
    with model.layers[1].attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0])):
        model(model.encode(texts))
    values = model.layers[1].attention.value_projection(inputs[0])
    torch.testing.assert_close(values[0, 0], values[1, 0])
    assert not torch.allclose(values[0, 1], values[1, 1])


def test_what_is_handed_over_is_what_the_lesson_says(of_list):
    """The lesson's words: the start hands over no less than a word does."""
    start, word = sink.handed_over(induction.head(of_list))
    assert start > word > 0


def test_cross_attention_reads_the_month_to_write_it(of_date):
    found = alignment.head(of_date)
    assert of_date[found.layer].role == "cross"
    assert alignment.month_weight(of_date, found.layer)[found.head] > 0.9


def test_the_date_is_what_the_embedded_model_writes():
    assert alignment.load_reader().read(alignment.TEXT).answer == alignment.WRITTEN


def test_one_pair_holds_the_weight(of_story):
    (query, key), found = needle.needle(), needle.head(of_story)
    weights = of_story[found.layer].weights(queries=slice(query, query + 1), heads=found.head)[0, 0, 0]
    assert query - key > 256  # farther than the texts it was trained on are long
    assert weights[key] > 0.8
    assert weights.argmax() == key


def test_the_mean_hides_the_pair_and_the_maximum_shows_it(of_story):
    found = needle.head(of_story)
    mean, largest = needle.pooled(of_story, found)
    assert largest > 0.8
    assert mean < 0.005
    whole = of_story[found.layer].weights(heads=found.head)[0, 0]
    size = needle.LENGTH // needle.BINS
    means = whole.unflatten(0, (-1, size)).unflatten(2, (-1, size)).mean((1, 3))
    query, key = (at // size for at in needle.needle())
    assert means[query, key].item() == pytest.approx(mean, rel=1e-3)
    assert (means > mean).float().mean() > 0.01  # many others are as large


def test_the_model_says_the_number():
    from pellucid.lessons.model import load_decoder

    model, text = load_decoder("stories"), needle.text().text
    assert model.words[model(model.encode([text]))[0, -1].argmax()] == text[needle.needle()[1]]
