"""Token classes: what a key is, by its text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid import legible
from pellucid.profiles.layout import OWN_CLASSES

_BY_TEXT = OWN_CLASSES[2:]
_SPACES = "▁Ġ"  # how tokenizers write a space, where a token is not given as it reads


@dataclass(frozen=True)
class TokenClasses:
    """The classes of the house and those of the user, each a regular expression that is searched in a token's text.

    Args:
        patterns: regular expressions by name.

    Raises:
        ValueError: a name of the house's own, or no regular expression.

    """

    patterns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, pattern in self.patterns.items():
            if name in OWN_CLASSES or not name or legible.encodable(name) != name:
                raise ValueError(
                    f"pattern: {legible.quoted(name)} cannot be its name; {', '.join(OWN_CLASSES)} are taken"
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"pattern {legible.name(name)}: is no regular expression ({error})") from error

    @property
    def names(self) -> tuple[str, ...]:
        """All classes, those of the house first."""
        return (*OWN_CLASSES, *self.patterns)

    def of(self, tokens: Sequence[str], special: Sequence[bool]) -> Tensor:
        """The classes of each token of a text, bool [tokens, classes]; `first` and `same token` are left False."""
        known = {pair: self._flags(*pair) for pair in {*zip(tokens, special, strict=True)}}
        flags = [known[pair] for pair in zip(tokens, special, strict=True)]
        return torch.tensor(flags, dtype=torch.bool, device="cpu").reshape(len(tokens), len(self.names))

    def _flags(self, token: str, special: bool) -> list[bool]:
        text = {"special": special} if special else {"special": False, **_of_text(token)}
        own = [text.get(name, False) for name in _BY_TEXT]
        found = [re.search(pattern, token) is not None for pattern in self.patterns.values()]
        return [False, False, *own, *found]


def _of_text(token: str) -> dict[str, bool]:
    word = token.strip().lstrip(_SPACES)
    return {
        "whitespace": bool(token) and not word,
        "digits": word.isdecimal(),
        "punctuation": bool(word) and all(unicodedata.category(letter)[0] in "PS" for letter in word),
    }
