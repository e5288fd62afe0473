"""What Babel's copy of the Unicode locale data (CLDR) tells about a language's dates."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from pellucid.demo.data.text import fold

if TYPE_CHECKING:
    from babel.localedata import LocaleDataDict

# One tuple of spellings for each month or weekday.
Names = list[tuple[str, ...]]


def babel() -> ModuleType:
    """Babel's locale data. Raises ModuleNotFoundError, which says how to get it."""
    try:
        from babel import localedata
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("drawing dates takes Babel: pip install babel", name="babel") from error
    return localedata


def locale_data(code: str) -> LocaleDataDict:
    """CLDR's data of a locale, in a copy of its own.

    Babel resolves aliases in place, in data that locales share: without the copy, what one locale says depends on
    which were asked before it (python-babel/babel#1234).
    """
    localedata = babel()
    data: LocaleDataDict = localedata.LocaleDataDict(copy.deepcopy(localedata.load(code)))
    return data


def date_patterns(locales: Sequence[LocaleDataDict]) -> list[str]:
    """The patterns of a full date, each once, with the year in all its digits."""
    patterns = []
    for locale in locales:
        skeletons = locale["datetime_skeletons"]
        patterns += locale["date_formats"].values()
        patterns += [skeletons[key] for key in skeletons if "y" in key and "d" in key and "G" not in key]
    return list(dict.fromkeys(pattern.pattern.replace("yy", "y") for pattern in patterns))


def month_names(locales: Sequence[LocaleDataDict], width: str, more: Iterable[tuple[int, str]]) -> Names:
    """Each month's names of a width, "wide" or "abbreviated", and `more` of them that CLDR does not list."""
    names = [_in_context(locales, "months", width, month) for month in range(1, 13)]
    for month, name in more:
        names[month - 1].append(name)
    return [_spellings(of_month) for of_month in names]


def weekday_names(locales: Sequence[LocaleDataDict], width: str) -> Names:
    """Each weekday's names of a width, Monday first."""
    return [_spellings(_in_context(locales, "days", width, day)) for day in range(7)]


def names_besides(locale: LocaleDataDict, names_of_dates: Iterable[Names]) -> list[str]:
    """Short names of countries and languages in the locale's language, without any that could be part of a date."""
    taken = {fold(spelling) for names in names_of_dates for spellings in names for spelling in spellings}
    others = dict.fromkeys([*locale["territories"].values(), *locale["languages"].values()])
    return [name for name in others if len(name) <= 20 and taken.isdisjoint(fold(word) for word in name.split())]


def _in_context(locales: Sequence[LocaleDataDict], kind: str, width: str, number: int) -> list[str]:
    """A name as it stands within a date and as it stands alone, which differ where nouns decline."""
    return [locale[kind][context][width][number] for locale in locales for context in ("format", "stand-alone")]


def _spellings(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, with and without the dot of an abbreviation."""
    return tuple(dict.fromkeys(spelling for name in names for spelling in (name, name.rstrip("."))))
