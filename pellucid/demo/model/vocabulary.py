"""Tokens: the characters that the demo reads and the marks and digits that it writes, each with its number."""

from __future__ import annotations

import unicodedata

START, END = "^", "$"
TARGET_TOKENS = (START, END, "-", *"0123456789")
TARGET_OF_TOKEN = {token: number for number, token in enumerate(TARGET_TOKENS)}

PADDING, UNKNOWN = 0, 1
SPECIAL = 2


class Vocabulary:
    """The numbers of the characters that a model reads: 0 pads, 1 is any character that it was not trained on.

    Attributes:
        characters: all that are known.
        letters: the different letters among them, case and accent set aside, and digits of any script as one.
        letter_of: for each character's number the number of its letter.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._number_of = {character: number for number, character in enumerate(characters, start=SPECIAL)}
        self.letters = "".join(sorted({letter(character) for character in characters}))
        letter_numbers = [SPECIAL + self.letters.index(letter(character)) for character in characters]
        self.letter_of = [PADDING, UNKNOWN, *letter_numbers]

    def __len__(self) -> int:
        return SPECIAL + len(self.characters)

    def encode(self, text: str) -> list[int]:
        """The number of each character of a normalised text."""
        return [self._number_of.get(character, UNKNOWN) for character in text]


def letter(character: str) -> str:
    """The letter that a character is a form of, and the ASCII digit of any digit.

    >>> [letter(character) for character in "Éé３३月"]
    ['e', 'e', '3', '3', '月']
    """
    digit = unicodedata.digit(character, None)
    return unicodedata.normalize("NFKD", character.casefold())[0] if digit is None else str(digit)


def encode_target(text: str) -> list[int]:
    """The numbers of what the model writes.

    >>> encode_target("^1997-03-03$")[:3]
    [0, 4, 12]
    """
    return [TARGET_OF_TOKEN[token] for token in text]
