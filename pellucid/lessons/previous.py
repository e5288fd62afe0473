"""Lesson: a head that always looks at the token before."""

from __future__ import annotations

from pellucid.lessons.lesson import Head, Lesson, Step, head_with_most, twins
from pellucid.lessons.lists import SHOWN, TEXT, around, fixed, record, whole
from pellucid.record.record import Record


def head(record: Record) -> Head:
    """The head that looks at the token before more than any other."""
    return head_with_most(record, "previous")


def _steps(record: Record) -> list[Step]:
    found = head(record)
    weight = record[found.layer].weights(heads=found.head)[0, 0].diagonal(-1).mean().item()
    return [
        Step(
            "Four heads",
            "A model of two layers with two heads each has read a list of twenty words, twice. Every small map is a "
            "head: a row for each word that reads, a column for each that is read. The model reads from left to right, "
            "so what is above the diagonal is empty. Look for a map that is one thin line.",
            {"view": "heads", "sink": "with", "sort": "layer"},
        ),
        Step(
            "One place to the left",
            f"This is {found}. Its line lies one place below the diagonal: each word looks at the word before it, with "
            f"{weight:.2f} of its weight on average, whatever the two words are.{twins(record, found, 'previous')}",
            {**whole(), **found.state},
        ),
        Step(
            "From near",
            f"The marked pair: “{TEXT[SHOWN]}” reads “{TEXT[SHOWN - 1]}”. Go along the line: it is the same in every "
            "row. The head goes by the place of a word alone, which it has from rotary positions.",
            {**around(SHOWN, SHOWN - 1), **found.state},
        ),
        Step(
            "In the text",
            "The same in the running text: the chosen word reads its left neighbour. Choose others. What the head "
            "hands over is which word came before; alone that predicts little. The lesson “induction” shows who uses "
            "it.",
            {**fixed(SHOWN), **found.state},
        ),
    ]


LESSON = Lesson("previous", "The token before", "a head that looks at the token before, whatever it is", record, _steps)
