from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.lessons import texts


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(2, 80))
def test_a_list_repeats(seed, words, length):
    text = texts.repeated_list(Random(seed), words, length)
    assert len(text) == length
    assert text[0] == texts.START
    assert set(text) <= set(texts.LIST_VOCABULARY)
    assert len(set(text[1 : words + 1])) == len(text[1 : words + 1])
    assert all(text[place] == text[place - words] for place in range(words + 1, length))


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 5), st.integers(48, 400))
def test_a_story_hides_what_it_asks_for(seed, people, questions, length):
    told = texts.story(Random(seed), length, people, questions)
    assert told.text[0] == texts.START
    assert set(told.text) <= set(texts.STORY_VOCABULARY)
    assert len(told.text) == length + 3 * questions - 1
    assert len(told.questions) == len(told.answers) == questions
    for question, answer in zip(told.questions, told.answers, strict=True):
        assert answer < length <= question
        assert told.text[question - 1] == told.text[answer - 2] == texts.CALL
        assert told.text[question] == told.text[answer - 1]
        assert told.text[question] in texts.NAMES
        assert told.text[answer] in texts.NUMBERS
        assert question + 1 == len(told.text) or told.text[question + 1] == told.text[answer]
    hidden = told.text[:length]
    assert sum(word == texts.CALL for word in hidden) == people
    assert not set(told.text[-1]) & set(texts.NUMBERS)


def test_a_story_too_short_for_its_people_is_refused():
    with pytest.raises(ValueError, match="length: too short for 8 hidden numbers, got 34"):
        texts.story(Random(0), 34, people=8, questions=1)


def test_no_word_stands_twice_in_a_vocabulary():
    for vocabulary in (texts.LIST_VOCABULARY, texts.STORY_VOCABULARY):
        assert len(set(vocabulary)) == len(vocabulary)
