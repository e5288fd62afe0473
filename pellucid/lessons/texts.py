"""The texts that the lessons' models are trained on and read: lists that repeat, and numbers hidden in a story."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from pellucid.lessons.model.decoder import START


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LIST_WORDS = _words("""
    apple bread chair door eagle field glass horse island jacket kettle lamp moon needle ocean paper queen river
    silver table uncle valley window yellow bridge candle dragon engine forest garden hammer iron jungle key ladder
    mirror night orange piano quiet rabbit shadow tower umbrella violin water basket castle desert elbow feather
    guitar honey ink jewel king lemon mountain nose onion pencil rope snow tiger urn velvet whale arrow bell cloud
    drum egg fire ghost hat ivory jar kite leaf mask net oak pearl ring spoon thunder vase wheel anchor brick coin
    dust ear flag goat hill
""")
LIST_VOCABULARY = (START, *LIST_WORDS)

NAMES = _words("Ada Ben Cleo Dan Eva Finn Gus Hana Ian Joy Kim Leo Mia Ned Olga Pia Raj Sam Tom Uma Vic Wen Yan Zoe")
NUMBERS = tuple(map(str, range(10, 70)))
CALL = "call"  # before a name and its number
_ADJECTIVES = _words("old grey quiet long narrow green cold little bright empty heavy distant")
_NOUNS = _words("boat road house tree river town garden bridge field mill hill train market wall lake stone")
_VERBS = _words("stood lay slept turned rested waited leaned ended shone")
_PLACES = _words("near behind above below beside across")
STORY_VOCABULARY = (START, CALL, "the", ".", *_ADJECTIVES, *_NOUNS, *_VERBS, *_PLACES, *NAMES, *NUMBERS)


def repeated_list(rng: Random, words: int, length: int) -> list[str]:
    """The start, then a list of so many words, no word twice, again and again: `length` tokens in all."""
    repeated = rng.sample(LIST_WORDS, words) * (length // words + 1)
    return [START, *repeated[: length - 1]]


class Story(NamedTuple):
    """A story in which people's numbers are hidden, and questions at its end."""

    text: list[str]
    questions: list[int]  # where the names stand that are asked for; the number follows, but after the last one
    answers: list[int]  # where in the story the numbers stand that are asked for


def story(rng: Random, length: int, people: int, questions: int) -> Story:
    """A story of `length` tokens with the numbers of so many people, and then as many questions for one of them.

    Args:
        rng: draws it.
        length: of the story, its start and the hidden numbers counted, the questions not.
        people: whose numbers are hidden.
        questions: a name each; the numbers follow, the last one's is left out.

    Raises:
        ValueError: the story is too short for its people.
    """
    hidden = [[CALL, name, rng.choice(NUMBERS), "."] for name in rng.sample(NAMES, people)]
    told = _with_sentences(rng, hidden, length - 1)
    number_of = {told[place]: place + 1 for place, word in enumerate(told) if place and told[place - 1] == CALL}
    asked = [rng.choice(hidden)[1] for _ in range(questions)]
    tail = [word for name in asked for word in (CALL, name, told[number_of[name]])]
    places = [length + 1 + 3 * number for number in range(questions)]
    return Story([START, *told, *tail[:-1]], places, [number_of[name] + 1 for name in asked])


def _with_sentences(rng: Random, hidden: list[list[str]], length: int) -> list[str]:
    """So many words: sentences about nothing, and the hidden ones among them. The first one has lost its beginning."""
    sentences = [_sentence(rng) for _ in range((length - sum(map(len, hidden))) // len(_sentence(rng)) + 1)]
    if not sentences[1:]:
        raise ValueError(f"length: too short for {len(hidden)} hidden numbers, got {length + 1}")
    among = rng.sample(range(1, len(sentences) + len(hidden)), len(hidden))
    for place, sentence in zip(sorted(among), hidden, strict=True):
        sentences.insert(place, sentence)
    words = [word for sentence in sentences for word in sentence]
    return words[len(words) - length :]


def _sentence(rng: Random) -> list[str]:
    subject, place = rng.sample(_NOUNS, 2)
    return ["the", rng.choice(_ADJECTIVES), subject, rng.choice(_VERBS), rng.choice(_PLACES), "the", place, "."]
