import datetime
import re
from itertools import islice
from random import Random

import pytest

from pellucid.demo.data.dates import (
    HELD_OUT_ONE_IN,
    LANGUAGE_CODES,
    alphabet,
    examples,
    held_out_examples,
    is_held_out,
    training_examples,
)
from pellucid.demo.data.rules import FIRST_SHORT_YEAR, LAST_SHORT_YEAR
from pellucid.demo.data.text import fold, normalise
from pellucid.demo.data.writer import LONGEST_TEXT, writer_of


def drawn(count, seed=1, languages=LANGUAGE_CODES):
    return list(islice(examples(Random(seed), languages), count))


@pytest.fixture(scope="module")
def many():
    return drawn(30_000)


def ways_to_write(language, date, count=600):
    rng = Random(3)
    return {writer_of(language).write(date, rng) for _ in range(count)}


def test_at_least_twelve_languages():
    assert len(set(LANGUAGE_CODES)) == len(LANGUAGE_CODES) >= 12


def test_the_same_seed_draws_the_same_dates():
    assert drawn(500) == drawn(500)
    assert drawn(500) != drawn(500, seed=2)


def test_what_one_language_says_does_not_depend_on_which_was_asked_before():
    # Babel's own lookup of Polish abbreviations gives Chinese ones after Chinese was asked (python-babel/babel#1234).
    for language in ("zh", "pl", "pt", "sv", "tr"):
        writer_of(language)
    for language in ("pl", "pt", "sv", "tr"):
        assert not re.search("[月월]", "".join(writer_of(language).alphabet()))


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ["the third of March 1997", "March 3, 1997", "3 Mar '97", "3rd of March, 1997", "1997-03-03", "3/3/97"]),
        ("fr", ["3 mars 1997", "3 MARS 97", "trois mars 1997", "le 3 mars 1997", "lundi 3 mars 1997"]),
        ("de", ["3. März 1997", "3. Marz 1997", "Montag, 3. März 1997", "dritter März 1997", "03.03.97"]),
        ("es", ["3 de marzo de 1997", "tres de marzo de 1997"]),
        ("pl", ["3 marca 1997", "3 III 1997"]),
        ("ja", ["1997年3月3日", "９７年３月３日", "一九九七年三月三日", "1997年3月3日(月)"]),
        ("ko", ["1997년 3월 3일", "1997. 3. 3."]),
        ("ar", ["3 مارس 1997", "٣ مارس ١٩٩٧"]),
        ("hi", ["3 मार्च 1997", "३ मार्च १९९७"]),
    ],
)
def test_known_ways_to_write_a_date(language, texts):
    assert set(texts) <= ways_to_write(language, datetime.date(1997, 3, 3), count=8000)


def test_no_text_means_two_dates(many):
    meanings = {}
    for example in many:
        assert meanings.setdefault(example.text, example.iso) == example.iso


def test_all_in_numbers_is_day_month_year_unless_four_digits_come_first(many):
    numeric = [example for example in many if re.fullmatch(r"[\d./ -]+", example.text, re.ASCII)]
    assert len(numeric) > 3000
    for example in numeric:
        first, second, third = (int(number) for number in re.findall(r"\d+", example.text))
        year, month, day = (int(number) for number in example.iso.split("-"))
        if len(re.findall(r"\d+", example.text)[0]) == 4:
            assert (first, second, third) == (year, month, day)
        else:
            assert (first, second) == (day, month)
            assert third in (year, year % 100)


def test_two_digits_of_a_year_are_posix():
    matches = [(re.fullmatch(r"\d\d? [a-z]+ '?(\d\d)", e.text, re.I), e) for e in drawn(30_000, languages=["en"])]
    short = [(int(match.group(1)), int(example.iso[:4])) for match, example in matches if match]
    assert len(short) > 100
    assert all(year == (1900 if two >= 69 else 2000) + two for two, year in short)
    assert {FIRST_SHORT_YEAR, LAST_SHORT_YEAR} == {1969, 2068}


def test_years_outside_a_century_are_never_shortened():
    for language in LANGUAGE_CODES:
        for text in ways_to_write(language, datetime.date(1875, 4, 26), count=200):
            if re.search(r"\d{2}", text):
                assert not re.search(r"(?<!\d)75(?!\d)", text)


def test_weekdays_are_those_of_the_date():
    texts = ways_to_write("en", datetime.date(1997, 3, 3), count=3000)
    weekdays = {
        day for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun") if any(day in t.lower() for t in texts)
    }
    assert weekdays == {"mon"}


def test_texts_are_normalised_within_the_limit_and_in_the_alphabet(many):
    known = set(alphabet())
    for example in many:
        assert example.text == normalise(example.text)
        assert 0 < len(example.text) <= LONGEST_TEXT
        assert set(example.date_text) <= known


def test_some_dates_stand_among_other_words(many):
    share = sum(example.text != example.date_text for example in many) / len(many)
    assert 0.1 < share < 0.2
    assert all(example.date_text in example.text for example in many)


def test_other_words_name_no_month():
    months = {fold(month) for month in ("January", "March", "May", "Mar", "Sun")}
    assert months.isdisjoint(fold(word) for word in " ".join(writer_of("en")._other_words).split())


def test_training_never_sees_a_held_out_string():
    trained = list(islice(training_examples(Random("training 0 0")), 30_000))
    held_out = [example for language in LANGUAGE_CODES for example in held_out_examples(language, 100)]
    assert {example.text for example in trained}.isdisjoint(example.text for example in held_out)
    assert {fold(example.date_text) for example in trained}.isdisjoint(fold(example.date_text) for example in held_out)
    assert not any(is_held_out(example.date_text) for example in trained)
    assert all(is_held_out(example.date_text) for example in held_out)


def test_held_out_is_one_in_fifty_whatever_the_spelling(many):
    share = sum(is_held_out(example.date_text) for example in many) / len(many)
    assert share == pytest.approx(1 / HELD_OUT_ONE_IN, rel=0.2)
    assert len({is_held_out(text) for text in ("1 août 1997", "1 AOUT 1997", "1  Août 1997")}) == 1


def test_held_out_examples_are_distinct_and_of_one_language():
    found = held_out_examples("fi", 300)
    assert len({example.text for example in found}) == len(found) == 300
    assert {example.language for example in found} == {"fi"}
    assert found == held_out_examples("fi", 300)


def test_an_unknown_language_is_named():
    with pytest.raises(ValueError, match=r"language: 'xx' is not one that the demo reads, which are ar, cs, de"):
        writer_of("xx")
