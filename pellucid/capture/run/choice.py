"""Which of a model's attention modules are meant: by name, by pattern or by number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

Chosen = bool | str | int | Iterable[str | int] | None


def chooser(argument: str, chosen: Chosen, names: list[str], everything: Iterable[str]) -> Callable[[str], bool]:
    """Whether a module is chosen, by its name.

    Args:
        argument: what the caller calls `chosen`, for messages.
        chosen: True for all, False or None for none; a name, a pattern with `*` and `?`, a number among `names`, or
            several of them. A name also stands for the modules inside of it.
        names: of the attention modules, which numbers count.
        everything: all names that a pattern may match.

    Raises:
        TypeError: `chosen` is none of these.
        ValueError: a pattern matches no module.
        IndexError: a number beyond the attention modules.

    """
    if chosen is None or isinstance(chosen, bool):
        return lambda name: bool(chosen)
    several = [chosen] if isinstance(chosen, str | int) else _listed(argument, chosen)
    known = list(everything)
    patterns = [_pattern(argument, one, names, known) for one in several]
    return lambda name: any(_matches(pattern, name) for pattern in patterns)


def _listed(argument: str, chosen: Any) -> list[Any]:
    if not isinstance(chosen, Iterable):
        raise TypeError(f"{argument}: names, patterns or numbers of layers are needed, got {chosen!r}")
    return list(chosen)


def _pattern(argument: str, one: Any, names: list[str], everything: list[str]) -> str:
    if isinstance(one, int) and not isinstance(one, bool):
        if not -len(names) <= one < len(names):
            raise IndexError(f"{argument}: {one} is beyond the {len(names)} attention modules")
        return names[one]
    if not isinstance(one, str):
        raise TypeError(f"{argument}: names, patterns or numbers of layers are needed, got {one!r}")
    if not any(_matches(one, name) for name in everything):
        few = ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])
        raise ValueError(f"{argument}: {one!r} matches no module; attention modules are {few or 'none'}")
    return one


def _matches(pattern: str, name: str) -> bool:
    base = re.sub(r"#\d+$", "", name)
    return fnmatchcase(base, pattern) or base.startswith(f"{pattern}.") or name == pattern
