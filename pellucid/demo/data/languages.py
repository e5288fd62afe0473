"""The languages that the demo reads, and what people write in each besides what CLDR lists.

Only what Babel's locale data cannot tell is here: ordinals, numbers spelled out, words put before a date.
Patterns are in the notation of `patterns.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pellucid.demo.data import number_words

_ACCENTS = "".join(chr(code) for code in range(0x0300, 0x0370))
_HAMZA = "\u0653\u0654\u0655"
_NUKTA = "\u093c"
_DIAERESIS = "\u0308"

_ARABIC_INDIC = "٠١٢٣٤٥٦٧٨٩"
_DEVANAGARI = "०१२३४५६७८९"
_FULL_WIDTH = "０１２３４５６７８９"

# The date, which stands where the star is, with its weekday.
_WEEKDAY_APART = ("EEEE, *", "EEEE *", "E, *", "E *", "*, EEEE", "* (EEEE)")
_WEEKDAY_BEHIND = ("*EEEE", "* EEEE", "*(E)", "* (E)")

_BY_NAME = (
    "d MMM y",
    "d MMMM y",
    "d MMMM, y",
    "d MMM, y",
    "d-MMM-y",
    "d/MMM/y",
    "ddMMMy",
    "y MMM d",
    "y MMMM d",
    "y-MMM-d",
)


@dataclass(frozen=True)
class Language:
    """One language: whose CLDR data it takes, what people write besides, and its share of the training examples.

    Attributes:
        code: by which it is asked for, as in "en".
        name: in English.
        locales: CLDR's codes of where its patterns and names come from; the words around a date are the first one's.
        patterns: what people write besides CLDR's.
        before: words put before a date that does not begin with its year.
        with_weekday: how a weekday stands beside a date, which is the star.
        ordinal: a day of the month, from 1, as an ordinal.
        days_in_words: the days from the first, where patterns spell them out.
        months_in_words: the months from January, where patterns spell them out.
        years_in_words: ways to spell out a year.
        more_months: names that CLDR does not list, each with its month, from 1.
        digits: its own, from 0 to 9; empty if it has none.
        droppable_marks: combining marks that people leave away.
        apostrophe_years: whether the two digits of a year may have an apostrophe before them.
        share: of the training examples, in proportion to the other languages'.
    """

    code: str
    name: str
    locales: tuple[str, ...]
    patterns: tuple[str, ...]
    before: tuple[str, ...] = ()
    with_weekday: tuple[str, ...] = _WEEKDAY_APART
    ordinal: Callable[[int], str] = str
    days_in_words: tuple[str, ...] = ()
    months_in_words: tuple[str, ...] = ()
    years_in_words: tuple[Callable[[int], str], ...] = ()
    more_months: tuple[tuple[int, str], ...] = ()
    digits: str = ""
    droppable_marks: str = _ACCENTS
    apostrophe_years: bool = True
    share: float = 1.0  # more where there is more to learn: numbers in words


def _english_ordinal(day: int) -> str:
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _swedish_ordinal(day: int) -> str:
    return f"{day}:{'a' if day % 10 in (1, 2) and day not in (11, 12) else 'e'}"


def _first_only(ending: str) -> Callable[[int], str]:
    """Ordinals of the languages that have one for the first of the month alone: "1er", "1º"."""
    return lambda day: f"1{ending}" if day == 1 else str(day)


def _always(ending: str) -> Callable[[int], str]:
    return lambda day: f"{day}{ending}"


_ENGLISH = (
    *_BY_NAME,
    *("MMM d y", "MMM d, y", "MMMM d y", "MMMM d, y", "MMM-dd-y", "d 'of' MMMM y", "y, MMMM d"),
    *(
        "{ordinal} MMM y",
        "{ordinal} MMMM y",
        "{ordinal} MMMM, y",
        "{ordinal} 'of' MMMM y",
        "{ordinal} 'of' MMMM, y",
        "{ordinal} 'of' MMM y",
    ),
    *("'the' {ordinal} 'of' MMMM y", "'the' {ordinal} 'of' MMMM, y", "'the' {ordinal} 'of' MMM y"),
    *("MMMM {ordinal} y", "MMMM {ordinal}, y", "MMM {ordinal} y", "MMM {ordinal}, y", "MMMM 'the' {ordinal}, y"),
    *("{words} 'of' MMMM y", "{words} MMMM y", "'the' {words} 'of' MMMM y", "'the' {words} 'of' MMMM, y"),
    *("MMMM {words}, y", "MMMM {words} y", "MMMM 'the' {words}, y", "MMMM 'the' {words} y"),
    *(
        "'the' {words} 'of' MMMM {year words}",
        "'the' {words} 'of' MMMM, {year words}",
        "MMMM 'the' {words}, {year words}",
    ),
    *("MMMM {words}, {year words}", "MMMM d, {year words}", "d MMMM {year words}"),
)
_WITH_DE = ("d 'de' MMMM 'de' y", "d 'de' MMM 'de' y", "d 'de' MMMM y", "d 'de' MMMM, y")
_HAN = (
    "y年M月d日",
    "y年MM月dd日",
    "y 年 M 月 d 日",
    "{year words}年{month words}{words}日",
    "y年{month words}{words}日",
)

LANGUAGES = (
    Language(
        "ar",
        "Arabic",
        ("ar", "ar_EG", "ar_SY", "ar_DZ", "ar_MA"),
        ("d MMMM y", "d MMMM، y", "d MMMM 'عام' y", "d MMMM 'سنة' y", "d 'من' MMMM y", "y MMMM d"),
        before=("يوم ", "في "),
        with_weekday=("EEEE، *", "EEEE *", "* (EEEE)"),
        digits=_ARABIC_INDIC,
        droppable_marks=_HAMZA,
        apostrophe_years=False,
    ),
    Language(
        "cs",
        "Czech",
        ("cs",),
        (*_BY_NAME, "d. MMMM y", "d. MMM y", "d.MMMM y", "d. M. y"),
        before=("dne ",),
        ordinal=_always("."),
    ),
    Language(
        "de",
        "German",
        ("de", "de_AT", "de_CH"),
        (*_BY_NAME, "d. MMMM y", "d. MMM y", "d.MMM y", "{words} MMMM y"),
        before=("am ", "den ", "der "),
        days_in_words=number_words.GERMAN_DAYS,
        share=1.5,
        more_months=((3, "Maerz"), (3, "Mrz"), (1, "Jaenner")),
    ),
    Language(
        "el",
        "Greek",
        ("el",),
        (*_BY_NAME, "{ordinal} MMMM y", "d 'του' MMMM y"),
        before=("στις ",),
        ordinal=_first_only("η"),
    ),
    Language(
        "en",
        "English",
        ("en", "en_GB", "en_CA", "en_AU", "en_IN"),
        _ENGLISH,
        before=("on ",),
        ordinal=_english_ordinal,
        days_in_words=number_words.ENGLISH_DAYS,
        years_in_words=(number_words.english_year, number_words.english_year_with_and),
        share=3.0,
    ),
    Language(
        "es",
        "Spanish",
        ("es", "es_MX", "es_AR"),
        (*_BY_NAME, *_WITH_DE, "d 'de' MMMM 'del' y", "{ordinal} 'de' MMMM 'de' y", "{words} 'de' MMMM 'de' y"),
        before=("el ",),
        ordinal=_first_only(".º"),
        days_in_words=number_words.SPANISH_DAYS,
        share=1.5,
        more_months=((9, "setiembre"), (9, "set")),
    ),
    Language(
        "fi",
        "Finnish",
        ("fi",),
        (*_BY_NAME, "d. MMMM y", "d.MMMM y", "d. MMM y", "d. 'päivä' MMMM y"),
        ordinal=_always("."),
    ),
    Language(
        "fr",
        "French",
        ("fr", "fr_CA"),
        (*_BY_NAME, "{ordinal} MMMM y", "{ordinal} MMM y", "{words} MMMM y", "d MMMM 'de l’an' y"),
        before=("le ",),
        ordinal=_first_only("er"),
        days_in_words=number_words.FRENCH_DAYS,
        share=1.5,
    ),
    Language(
        "hi",
        "Hindi",
        ("hi",),
        ("d MMMM y", "d MMM y", "d MMMM, y", "d MMM, y", "MMMM d, y", "y MMMM d", "d-MMM-y"),
        digits=_DEVANAGARI,
        droppable_marks=_NUKTA,
        apostrophe_years=False,
    ),
    Language(
        "it",
        "Italian",
        ("it", "it_CH"),
        (*_BY_NAME, "{ordinal} MMMM y", "{ordinal} MMM y", "{words} MMMM y", "d MMMM 'del' y"),
        before=("il ", "lì "),
        ordinal=_first_only("º"),
        days_in_words=number_words.ITALIAN_DAYS,
        share=1.5,
    ),
    Language(
        "ja",
        "Japanese",
        ("ja",),
        _HAN,
        with_weekday=_WEEKDAY_BEHIND,
        days_in_words=number_words.HAN_DAYS,
        months_in_words=number_words.HAN_MONTHS,
        years_in_words=(number_words.han_year, number_words.han_year_with_zero),
        digits=_FULL_WIDTH,
        droppable_marks="",
        apostrophe_years=False,
    ),
    Language(
        "ko",
        "Korean",
        ("ko",),
        ("y년 M월 d일", "y년M월d일", "y년 MM월 dd일", "y. M. d.", "y. M. d"),
        with_weekday=_WEEKDAY_BEHIND,
        droppable_marks="",
        apostrophe_years=False,
    ),
    Language(
        "nl",
        "Dutch",
        ("nl", "nl_BE"),
        (*_BY_NAME, "{ordinal} MMMM y", "'de' {ordinal} MMMM y"),
        before=("op ",),
        ordinal=_always("e"),
    ),
    Language(
        "pl",
        "Polish",
        ("pl",),
        (*_BY_NAME, "d MMMM y 'r.'", "d MMM y 'r.'", "d MMMM y 'roku'", "d {month words} y", "d.{month words}.y"),
        before=("dnia ",),
        months_in_words=number_words.ROMAN_MONTHS,
    ),
    Language(
        "pt",
        "Portuguese",
        ("pt", "pt_PT"),
        (*_BY_NAME, *_WITH_DE, "{ordinal} 'de' MMMM 'de' y", "{words} 'de' MMMM 'de' y"),
        before=("em ", "dia "),
        ordinal=_first_only("º"),
        days_in_words=number_words.PORTUGUESE_DAYS,
        share=1.5,
    ),
    Language(
        "ru",
        "Russian",
        ("ru",),
        (*_BY_NAME, "d MMMM y 'г.'", "d MMM y 'г.'", "d MMMM y 'года'", "{ordinal} MMMM y", "{words} MMMM y 'года'"),
        ordinal=_always("-е"),
        days_in_words=number_words.RUSSIAN_DAYS,
        share=1.5,
        droppable_marks=_DIAERESIS,
        apostrophe_years=False,
    ),
    Language(
        "sv",
        "Swedish",
        ("sv",),
        (*_BY_NAME, "{ordinal} MMMM y", "{ordinal} MMM y"),
        before=("den ",),
        ordinal=_swedish_ordinal,
    ),
    Language(
        "tr",
        "Turkish",
        ("tr",),
        (*_BY_NAME, "d MMMM y EEEE", "d MMM y, EEEE"),
    ),
    Language(
        "uk",
        "Ukrainian",
        ("uk",),
        (*_BY_NAME, "d MMMM y 'р.'", "d MMM y 'р.'", "d MMMM y 'року'", "{ordinal} MMMM y"),
        ordinal=_always("-е"),
        droppable_marks="",
        apostrophe_years=False,
    ),
    Language(
        "zh",
        "Chinese",
        ("zh", "zh_Hant"),
        (*_HAN, "y年M月d号", "{year words}年{month words}{words}号"),
        with_weekday=_WEEKDAY_BEHIND,
        days_in_words=number_words.HAN_DAYS,
        months_in_words=number_words.HAN_MONTHS,
        years_in_words=(number_words.han_year, number_words.han_year_with_zero),
        digits=_FULL_WIDTH,
        droppable_marks="",
        apostrophe_years=False,
    ),
)

LANGUAGE_OF_CODE = {language.code: language for language in LANGUAGES}
