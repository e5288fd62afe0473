"""One date read: the answer, the tokens it was read from and written in, and the attention between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pellucid.demo.data.text import normalise
from pellucid.demo.model.layers import KINDS, Record
from pellucid.demo.model.vocabulary import END, START, encode_target

if TYPE_CHECKING:
    from pellucid.demo.model.date_reader import DateReader
    from pellucid.observation import Observation
    from pellucid.readouts import Readout

LONGEST_TEXT = 100


@dataclass(frozen=True)
class Reading:
    """A text, the date that the model read in it, and how attention found it.

    Attributes:
        text: as it was given.
        answer: the date written, in ISO 8601. A text that holds no date gets an answer too, without meaning.
        source: the characters that the model saw.
        target: the tokens that it wrote, the end mark `$` included.
        attention: an observation a layer (of batch 1) for each kind: "encoder", "decoder" and "cross".
    """

    text: str
    answer: str
    source: list[str]
    target: list[str]
    attention: dict[str, list[Observation]]

    def axes(self, kind: str) -> tuple[list[str], list[str]]:
        """The tokens that queries and keys of a kind of attention stand for.

        A query of the decoder is labelled by the token that it writes, a key by the token that it was given: the start
        mark `^` and all tokens but the last.

        Raises:
            ValueError: a kind that there is not.
        """
        if kind not in KINDS:
            raise ValueError(f"kind: {kind!r} is none of {', '.join(KINDS)}.")
        if kind == "encoder":
            return self.source, self.source
        return self.target, self.source if kind == "cross" else [START, *self.target[:-1]]

    def module(self, kind: str, layer: int) -> tuple[int, str]:
        """A kind's layer as a record has it: its number among all the model's, and its module's name."""
        if kind == "encoder":
            return layer, f"encoder.{layer}.attention"
        decoder = len(self.attention["encoder"]) + 2 * layer
        if kind == "decoder":
            return decoder, f"decoder.{layer}.attention"
        return decoder + 1, f"decoder.{layer}.cross_attention"


def read(reader: DateReader, text: str, readouts: Sequence[Readout] | None = None) -> Reading:
    """The date in a text, as the model reads it, with its attention observed.

    The answer is written token by token, the likeliest each time; then one pass over text and answer is observed.

    Args:
        reader: the model.
        text: a date as somebody wrote it.
        readouts: what to tell about the attention; by default what `pellucid.observe` tells.

    Raises:
        TypeError: the text is no string.
        ValueError: the text is empty, or longer than any date.
    """
    source = _checked(text)
    numbers = torch.tensor([reader.vocabulary.encode(source)], device="cpu")
    (written,) = reader.write(numbers)
    record = Record(_default_readouts() if readouts is None else readouts)
    with torch.inference_mode():
        reader(numbers, torch.tensor([encode_target(START + written[:-1])], device="cpu"), record=record)
    return Reading(text, written.removesuffix(END), list(source), list(written), record.attention)


def _checked(text: str) -> str:
    """The text as the model sees it."""
    if not isinstance(text, str):
        raise TypeError(f"text: must be a string, got {type(text).__name__}.")
    source = normalise(text)
    if not source:
        raise ValueError(f"text: it is empty, got {text!r}. Write a date, such as '3 mars 1997'.")
    if len(source) > LONGEST_TEXT:
        raise ValueError(
            f"text: at most {LONGEST_TEXT} characters, got {len(source)} ({source[:24]!r}...). Give one date alone."
        )
    return source


def _default_readouts() -> Sequence[Readout]:
    from pellucid.readouts import Entropy, LogSumExp, MaxScore

    return (LogSumExp(), Entropy(), MaxScore())
