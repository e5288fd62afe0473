import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pellucid.legible import one_line
from pellucid.viewer.labels import ascii_label, axis_label, fit, shorten, width_is_certain

LEFT_TO_RIGHT_MARK = "\u200e"
ANY_CHARACTER = st.characters(exclude_categories=[])


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("a", "a"),
        (" ", "␣"),
        ("\u00a0", "␣"),
        ("\u3000", "␣"),
        ("\n", "␊"),
        ("\x1b", "␛"),
        ("\x7f", "␡"),
        ("\x85", "�"),
        ("\u202e", "�"),
        ("\udcff", "�"),
        ("", "∅"),
        ("月", "月"),
        ("\u093e", "◌\u093e"),
        ("\u094d", "◌\u094d"),
        ("\u0301", "◌\u0301"),
        ("م", "م" + LEFT_TO_RIGHT_MARK),
        ("٣", "٣" + LEFT_TO_RIGHT_MARK),
        ("<start>", "<start>"),
    ],
)
def test_axis_label(token, label):
    assert axis_label(token) == label


@given(ANY_CHARACTER)
def test_a_label_cannot_disturb_a_terminal(character):
    label = axis_label(character)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label)
    assert not set(label) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
    assert label.strip() == label
    assert cell_len(label) in (1, 2)


@given(st.text(alphabet=ANY_CHARACTER))
def test_one_line_is_one_line_and_commands_nothing(text):
    line = one_line(text)
    assert len(line) == len(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line)
    assert not set(line) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")


def test_one_line_leaves_a_text_as_it_reads():
    persian = "۳ می\u200cشود"  # with the joiner that Persian words are written with
    assert one_line(f"3 mars 1997 {persian}") == f"3 mars 1997 {persian}"
    assert one_line("a\tb\x1b[31m") == "a␉b␛[31m"


def test_ascii_label_holds_ascii():
    assert [ascii_label(token) for token in ("a", " ", "月", "é", "")] == ["a", "_", "?", "?", "?"]


@pytest.mark.parametrize("right", [False, True])
@given(label=st.text(st.sampled_from("ab月年é"), max_size=9), width=st.integers(1, 9))
def test_fit_fills_exactly_the_width(label, width, right):
    assert cell_len(fit(label, width, right=right)) == width


def test_fit_aligns_and_cuts():
    assert fit("ab", 4) == "ab  "
    assert fit("ab", 4, right=True) == "  ab"
    assert fit("abcdef", 4) == "abc…"


def test_shorten():
    assert shorten("abcd", 4) == "abcd"
    assert shorten("abcde", 4) == "abc…"


def test_spacing_marks_are_of_uncertain_width():
    assert not width_is_certain(axis_label("\u093e"))  # Devanagari aa: one column or two
    assert width_is_certain(axis_label("\u094d"))
    assert width_is_certain("月")
