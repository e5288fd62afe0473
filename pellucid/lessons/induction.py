"""Lesson: a head that finds what came next the last time."""

from __future__ import annotations

from pellucid.lessons import previous
from pellucid.lessons.lesson import Head, Lesson, Step, head_with_most, twins
from pellucid.lessons.lists import EARLIER, LENGTH, SHOWN, TEXT, around, fixed, record, whole
from pellucid.record.record import Record


def head(record: Record) -> Head:
    """The head that looks at what followed an earlier occurrence of its token more than any other."""
    return head_with_most(record, "induction")


def weight(record: Record, found: Head) -> float:
    """The head's mean weight, in the second round, on the word that followed the first time."""
    return record[found.layer].weights(heads=found.head)[0, 0].diagonal(1 - LENGTH)[2:].mean().item()


def _steps(record: Record) -> list[Step]:
    found, before = head(record), previous.head(record)
    word, following = TEXT[SHOWN], TEXT[EARLIER + 1]
    return [
        Step(
            "A list, twice",
            f"The model has read {LENGTH} random words, and then the same ones again. In the first round nothing tells "
            "which word comes next; in the second round the first one does. Some heads differ between the rounds: the "
            "lower halves of their maps have a line that the upper ones lack.",
            {"view": "heads", "sink": "with", "sort": "layer"},
        ),
        Step(
            "A line far from the diagonal",
            f"This is {found}. From the second round on, each word looks {LENGTH - 1} places back, with "
            f"{weight(record, found):.2f} of its weight on average. With a list of another length the line would lie "
            f"elsewhere: it is not the distance that the head looks for.{twins(record, found, 'induction')}",
            {**whole(), **found.state},
        ),
        Step(
            "What came next the last time",
            f"The marked pair: “{word}”, now for the second time, reads “{following}”, which followed “{word}” the "
            "first time. That is what comes next, and the model says so. A rule, learned: find where the same word "
            "stood before, and look at what came after it.",
            {**around(SHOWN, EARLIER + 1), **found.state},
        ),
        Step(
            "In the text",
            f"The chosen “{word}” reads “{following}”. In the first round, choose a word: it has nothing to find, and "
            "its weight goes to the start of the text, which the lesson “sink” is about.",
            {**fixed(SHOWN), **found.state},
        ),
        Step(
            "How it can",
            f"“{following}” does not say by itself that it came after “{word}”. {str(before).capitalize()}, in the "
            "layer below, has put it there: it looks at the word before, always. The two heads together make the "
            "rule, which one layer alone cannot.",
            {**around(EARLIER + 1, EARLIER), **before.state},
        ),
    ]


LESSON = Lesson(
    "induction", "What came next the last time", "a head that finds how a text that repeats goes on", record, _steps
)
