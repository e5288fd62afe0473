"""Writes a date in one of the many ways that people of a language have, drawn at random."""

from __future__ import annotations

import datetime
from functools import cache
from random import Random

from pellucid.demo.data import cldr
from pellucid.demo.data.languages import LANGUAGE_OF_CODE, Language
from pellucid.demo.data.patterns import Part, Pattern, compile_pattern, field_order, is_numeric
from pellucid.demo.data.rules import FIRST_YEAR, LAST_YEAR, NUMERIC_PATTERNS, is_within_rules, may_shorten_year
from pellucid.demo.data.text import normalise, without_marks

LONGEST_TEXT = 80

_SURROUNDINGS = (
    *("{0}, {date}", "{0} {date}", "{0}: {date}", "{0} {date} {1}", "{0} {date}, {1}", "{0}, {date}, {1}."),
    *("{date}, {0}", "{date} {0}", "{date} ({0})", "{date}: {0}", "{date}."),
)
_STRESS = "\u0301"


class DateWriter:
    """Writes dates the way people of one language do, with all the ways they have of writing the same day."""

    def __init__(self, language: Language) -> None:
        self.language = language
        locales = [cldr.locale_data(code) for code in language.locales]
        of_locales = (compile_pattern(pattern) for pattern in cldr.date_patterns(locales))
        self._pattern_groups = (
            tuple(pattern for pattern in of_locales if is_within_rules(pattern)),
            tuple(compile_pattern(pattern) for pattern in language.patterns),
            NUMERIC_PATTERNS,
        )
        more_months = language.more_months
        self._months = {width: cldr.month_names(locales, width, more_months) for width in ("wide", "abbreviated")}
        self._weekdays = {width: cldr.weekday_names(locales, width) for width in ("wide", "abbreviated")}
        self._other_words = cldr.names_besides(locales[0], [*self._months.values(), *self._weekdays.values()])
        around = (pattern.split("*") for pattern in language.with_weekday)
        self._with_weekday = tuple((compile_pattern(before), compile_pattern(after)) for before, after in around)
        self._to_own_digits = str.maketrans(dict(zip("0123456789", language.digits, strict=False)))

    def write(self, date: datetime.date, rng: Random) -> str:
        """One of the ways to write the date, drawn with `rng`."""
        pattern = self._draw_pattern(rng)
        year = self._draw_year(pattern, date, rng)
        text = "".join([self._write_part(part, date, year, rng) for part in pattern])
        if self.language.before and field_order(pattern)[0] != "year" and rng.random() < 0.06:
            text = rng.choice(self.language.before) + text
        return normalise(self._as_typed(text, rng))

    def among_other_words(self, date_text: str, rng: Random) -> str:
        """The written date with some words around it that say nothing about it, as in the head of a letter."""
        while True:
            words = [" ".join(rng.choices(self._other_words, k=rng.choice((1, 1, 2, 3)))) for _ in range(2)]
            text = normalise(rng.choice(_SURROUNDINGS).format(*words, date=date_text))
            if len(text) <= LONGEST_TEXT:
                return text

    def alphabet(self) -> set[str]:
        """Every character that `write` can put down."""
        language = self.language
        patterns = [*sum(self._pattern_groups, ()), *sum(self._with_weekday, ())]
        pieces = [part.form for pattern in patterns for part in pattern if part.field == "literal"]
        for names in (*self._months.values(), *self._weekdays.values()):
            pieces += sum(names, ())
        pieces += [language.ordinal(day) for day in range(1, 32)]
        pieces += [*language.before, *language.days_in_words, *language.months_in_words]
        pieces += ["0123456789'’", language.digits]
        pieces += [words(year) for words in language.years_in_words for year in range(FIRST_YEAR, LAST_YEAR + 1)]
        cased = [form for piece in pieces for form in (piece, piece.title(), piece.lower(), _upper(piece, language))]
        bare = [without_marks(form, language.droppable_marks) for form in cased]
        return {" "}.union(*(normalise(form) for form in (*cased, *bare)))

    def _draw_pattern(self, rng: Random) -> Pattern:
        (group,) = rng.choices(self._pattern_groups, (0.35, 0.5, 0.15))
        pattern = rng.choice(group)
        if rng.random() > 0.15 or any(part.field == "weekday" for part in pattern):
            return pattern
        before, after = rng.choice(self._with_weekday)
        return before + pattern + after

    def _draw_year(self, pattern: Pattern, date: datetime.date, rng: Random) -> str:
        """The year's digits: all four, or two where the rule says which century they mean."""
        if not may_shorten_year(pattern, date.year) or rng.random() < 0.6:
            return str(date.year)
        short = f"{date.year % 100:02d}"
        if self.language.apostrophe_years and not is_numeric(pattern) and rng.random() < 0.35:
            return rng.choice("''’") + short
        return short

    def _write_part(self, part: Part, date: datetime.date, year: str, rng: Random) -> str:
        if part.field == "literal":
            return part.form
        if part.field == "day":
            return self._write_day(part.form, date.day)
        if part.field == "month":
            return self._write_month(part.form, date.month, rng)
        if part.field == "weekday":
            names = self._weekdays["wide" if len(part.form) == 4 else "abbreviated"]
            return rng.choice(names[date.weekday()])
        return rng.choice(self.language.years_in_words)(date.year) if part.form == "year words" else year

    def _write_day(self, form: str, day: int) -> str:
        if form == "ordinal":
            return self.language.ordinal(day)
        return self.language.days_in_words[day - 1] if form == "words" else str(day).zfill(len(form))

    def _write_month(self, form: str, month: int, rng: Random) -> str:
        if form == "month words":
            return self.language.months_in_words[month - 1]
        if len(form) < 3:
            return str(month).zfill(len(form))
        names = self._months["abbreviated" if len(form) == 3 else "wide"]
        name = rng.choice(names[month - 1])
        return name[0].upper() + name[1:] if rng.random() < 0.15 else name

    def _as_typed(self, text: str, rng: Random) -> str:
        """The text with this writer's habits of case, accents and digits."""
        case = rng.random()
        if case < 0.1:
            text = text.lower()
        elif case < 0.18:
            text = _upper(text, self.language)
        if self.language.droppable_marks and rng.random() < 0.15:
            text = without_marks(text, self.language.droppable_marks)
        if self.language.digits and rng.random() < 0.25:
            text = text.translate(self._to_own_digits)
        return text


@cache
def writer_of(code: str) -> DateWriter:
    """The writer of a language, by its code.

    Raises:
        ValueError: a language that is not in the table.
    """
    if code not in LANGUAGE_OF_CODE:
        raise ValueError(f"language: {code!r} is not one that the demo reads, which are {', '.join(LANGUAGE_OF_CODE)}")
    return DateWriter(LANGUAGE_OF_CODE[code])


def _upper(text: str, language: Language) -> str:
    """Capitals as the language writes them: Turkish dots its I, Greek drops its stress marks."""
    if language.code == "tr":
        text = text.replace("i", "İ")
    return without_marks(text.upper(), _STRESS) if language.code == "el" else text.upper()
