"""What a date means where people differ: the rules that the demo is trained on.

- two digits of a year: 69 to 99 are 1969 to 1999, 00 to 68 are 2000 to 2068 (as POSIX strptime reads them);
- a date all in numbers is day, month, year, in every language;
- unless its year comes first, with four digits: then it is year, month, day.

The calendar is Gregorian, years run from 1000 to 2999.
"""

from __future__ import annotations

from pellucid.demo.data.patterns import Pattern, compile_pattern, field_order, is_numeric

FIRST_YEAR, LAST_YEAR = 1000, 2999
FIRST_SHORT_YEAR, LAST_SHORT_YEAR = 1969, 2068

_DAY_FIRST = ("d.M.y", "dd.MM.y", "d. M. y", "d/M/y", "dd/MM/y", "d-M-y", "dd-MM-y", "d M y", "dd MM y")
_YEAR_FIRST = ("y-MM-dd", "y/M/d", "y/MM/dd", "y.M.d", "y.MM.dd")
NUMERIC_PATTERNS = tuple(compile_pattern(pattern) for pattern in (*_DAY_FIRST, *_YEAR_FIRST))

_NUMERIC_ORDERS = (("day", "month", "year"), ("year", "month", "day"))
_YEAR_MARKS = ("年", "년")


def is_within_rules(pattern: Pattern) -> bool:
    """Whether the pattern names its month, or has its numbers in an order that the rules know."""
    return not is_numeric(pattern) or field_order(pattern) in _NUMERIC_ORDERS


def may_shorten_year(pattern: Pattern, year: int) -> bool:
    """Whether two digits can stand for the year: it comes last, or the language marks it as one ("97年")."""
    if not FIRST_SHORT_YEAR <= year <= LAST_SHORT_YEAR:
        return False
    place = next(index for index, part in enumerate(pattern) if part.field == "year")
    if pattern[place].form == "year words":
        return False
    marked = place + 1 < len(pattern) and pattern[place + 1].form.strip().startswith(_YEAR_MARKS)
    return marked or field_order(pattern)[-1] == "year"
