import pytest

from pellucid.demo.data.patterns import Part, compile_pattern, field_order, is_numeric


def test_a_pattern_is_split_into_literals_and_fields():
    assert compile_pattern("EEEE, d 'de' MMMM ''yy") == (
        Part("weekday", "EEEE"),
        Part("literal", ", "),
        Part("day", "d"),
        Part("literal", " "),
        Part("literal", "de"),
        Part("literal", " "),
        Part("month", "MMMM"),
        Part("literal", " "),
        Part("literal", "'"),
        Part("year", "yy"),
    )


def test_letters_of_other_scripts_are_literals():
    assert [part.form for part in compile_pattern("y年M月d日")] == ["y", "年", "M", "月", "d", "日"]


def test_our_own_names_stand_in_braces():
    assert compile_pattern("{words} {month words} {year words}")[::2] == (
        Part("day", "words"),
        Part("month", "month words"),
        Part("year", "year words"),
    )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("d MMMM y G", r"'d MMMM y G' has 'G', known letters are"),
        ("{thing} y", r"has \{thing\}, known are \['month words', 'ordinal'"),
        ("d 'de MMMM", r"cannot be read from character 2 on; close its quote or brace"),
    ],
)
def test_what_is_no_part_of_a_date_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "numeric"),
    [("d.M.y", True), ("E, dd/MM/y", True), ("d MMM y", False), ("y年M月d日", False), ("d {month words} y", False)],
)
def test_numeric_patterns_are_those_without_names_or_units(pattern, numeric):
    assert is_numeric(compile_pattern(pattern)) is numeric


def test_field_order_leaves_the_weekday_out():
    assert field_order(compile_pattern("EEEE, MMMM d, y")) == ("month", "day", "year")
