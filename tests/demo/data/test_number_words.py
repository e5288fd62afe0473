import doctest

import pytest

from pellucid.demo.data import number_words, patterns, text
from pellucid.demo.model import vocabulary


@pytest.mark.parametrize("module", [number_words, patterns, text, vocabulary])
def test_examples_in_the_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "days", [value for name, value in vars(number_words).items() if name.endswith("_DAYS")], ids=lambda days: days[0]
)
def test_a_month_has_thirty_one_days_of_different_names(days):
    assert len(days) == len(set(days)) == 31


@pytest.mark.parametrize(
    ("year", "words"),
    [
        (1066, "ten sixty-six"),
        (1000, "one thousand"),
        (1100, "eleven hundred"),
        (1776, "seventeen seventy-six"),
        (2000, "two thousand"),
        (2010, "twenty ten"),
        (2100, "twenty-one hundred"),
        (2999, "twenty-nine ninety-nine"),
    ],
)
def test_english_years(year, words):
    assert number_words.english_year(year) == words


def test_every_year_is_said_differently():
    for words in (number_words.english_year, number_words.english_year_with_and, number_words.han_year):
        assert len({words(year) for year in range(1000, 3000)}) == 2000


def test_chinese_numbers():
    assert [number_words.han_number(number) for number in (1, 10, 12, 20, 25)] == ["一", "十", "十二", "二十", "二十五"]
