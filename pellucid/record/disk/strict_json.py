"""JSON of others: a name once in an object, no NaN and no infinity, and whatever is wrong is a ValueError."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pellucid import legible


def loads(content: bytes) -> Any:
    """What UTF-8 JSON says; texts may hold lone surrogates.

    Raises:
        ValueError: it is no JSON, or none that a record may hold.

    """
    try:
        text = content.decode("utf-8", "surrogatepass")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it holds {legible.quoted(twice)} twice")
    return found


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
