"""Dates as people write them, drawn without end from Babel's locale data and the table of `languages.py`.

What they mean follows `rules.py`. One text in seven has words around the date that say nothing about it (names of
countries and languages), as the head of a letter or a sentence has.

One text in fifty is held out from training, chosen by a hash of the date in it with case, accents and spaces set aside,
so that no spelling of a held-out text is ever trained on, whatever words stand around it.
Needs Babel (`pip install babel`); reading dates does not.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from random import Random
from typing import NamedTuple

from pellucid.demo.data.languages import LANGUAGES
from pellucid.demo.data.rules import FIRST_SHORT_YEAR, FIRST_YEAR, LAST_SHORT_YEAR, LAST_YEAR
from pellucid.demo.data.text import fold
from pellucid.demo.data.writer import writer_of

AMONG_OTHER_WORDS = 0.15
HELD_OUT_ONE_IN = 50
LANGUAGE_CODES = tuple(language.code for language in LANGUAGES)


class Example(NamedTuple):
    """A date as somebody wrote it, and what it means."""

    text: str
    iso: str
    language: str
    date_text: str  # the date alone, where the text has other words too


def examples(rng: Random, languages: Sequence[str] = LANGUAGE_CODES) -> Iterator[Example]:
    """Dates in these languages without end, the same for the same `rng`; training and held-out strings mixed."""
    writers = [writer_of(code) for code in languages]
    shares = list(accumulate(writer.language.share for writer in writers))
    while True:
        (writer,) = rng.choices(writers, cum_weights=shares)
        date = draw_date(rng)
        date_text = writer.write(date, rng)
        text = writer.among_other_words(date_text, rng) if rng.random() < AMONG_OTHER_WORDS else date_text
        yield Example(text, date.isoformat(), writer.language.code, date_text)


def training_examples(rng: Random, languages: Sequence[str] = LANGUAGE_CODES) -> Iterator[Example]:
    """The examples that training may see."""
    return (example for example in examples(rng, languages) if not is_held_out(example.date_text))


def held_out_examples(language: str, count: int, seed: int = 0) -> list[Example]:
    """Held-out examples of one language, no string twice."""
    found: dict[str, Example] = {}
    for example in examples(Random(f"held out {seed} {language}"), [language]):
        if is_held_out(example.date_text):
            found.setdefault(example.text, example)
        if len(found) == count:
            break
    return list(found.values())


def is_held_out(date_text: str) -> bool:
    """Whether training must never see this date's text, nor one that differs in case, accents or spaces alone."""
    digest = hashlib.blake2b(fold(date_text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def draw_date(rng: Random) -> datetime.date:
    """A day: half of the draws where two digits tell the year, the other half over all years with weight on our own."""
    first, last = rng.choices(
        ((FIRST_SHORT_YEAR, LAST_SHORT_YEAR), (1900, 2099), (FIRST_YEAR, LAST_YEAR)), (0.5, 0.25, 0.25)
    )[0]
    start = datetime.date(first, 1, 1).toordinal()
    end = datetime.date(last, 12, 31).toordinal()
    return datetime.date.fromordinal(rng.randint(start, end))


@cache
def alphabet() -> str:
    """Every character of every language, sorted: the model's vocabulary."""
    return "".join(sorted(set().union(*(writer_of(code).alphabet() for code in LANGUAGE_CODES))))
