"""A list of words, said twice: the text of three lessons, and the model that reads it."""

from __future__ import annotations

from random import Random

from pellucid.lessons.lesson import record_of
from pellucid.lessons.model import START, load_decoder
from pellucid.lessons.texts import LIST_WORDS
from pellucid.record.record import Record

LENGTH = 20
WORDS = tuple(Random(5).sample(LIST_WORDS, LENGTH))  # no word twice
TEXT = (START, *WORDS, *WORDS)
SHOWN = LENGTH + 8  # the place, in the second round, that the lessons point at
NEAR = 5  # places on either side of a pair that is shown from near
EARLIER = SHOWN - LENGTH  # where its word stood in the first


def record() -> Record:
    """The model over the list."""
    return record_of(load_decoder("lists"), TEXT, "a model of two layers, trained on lists that repeat")


def whole() -> dict[str, str | None]:
    """The view's state that shows the whole map, with nothing chosen."""
    return {"view": "map", "q": None, "k": None, "query": None, "key": None}


def around(query: int, key: int, length: int = len(TEXT)) -> dict[str, str | None]:
    """The view's state that shows a pair and what is near it, in a text of that length."""
    q, k = (min(max(place - NEAR, 0), length - 2 * NEAR - 1) for place in (query, key))
    size = 2 * NEAR + 1
    return {"view": "map", "q": f"{q}:{q + size}", "k": f"{k}:{k + size}", "query": str(query), "key": str(key)}


def fixed(place: int, direction: str = "reads") -> dict[str, str | None]:
    """The view's state that shows what a token reads in the text, or, `read`, who reads it."""
    return {"view": "text", "fixed": str(place), "direction": direction}
