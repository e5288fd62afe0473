import pytest

from pellucid.demo.data.text import fold, normalise, without_marks


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  3\u202fmars\t1997\n", "3 mars 1997"),
        ("25\u200f/8\u200f/1922", "25/8/1922"),
        ("a\x00b", "a b"),
        ("fe\u0301vrier", "février"),
        ("３月", "３月"),
        ("\u200b\ufeff", ""),
    ],
)
def test_normalise(given, expected):
    assert normalise(given) == expected
    assert normalise(expected) == expected


def test_marks_are_dropped_and_the_rest_composed_again():
    assert without_marks("août 년 й", "\u0302") == "aout 년 й"


@pytest.mark.parametrize(
    ("one", "other"), [("3 MARS 1997", "3 mars 1997"), ("1 août", "1 aout"), ("３月", "3 月"), ("Mayıs", "Mayıs ")]
)
def test_fold_sets_case_accents_width_and_spaces_aside(one, other):
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("3.4.97", "34.97"), ("3/4/97", "3-4-97"), ("mars", "mara")])
def test_fold_keeps_what_a_date_depends_on(one, other):
    assert fold(one) != fold(other)
