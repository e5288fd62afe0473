"""Lesson: heads that have nothing to do look at the first token."""

from __future__ import annotations

from typing import NamedTuple

from pellucid.lessons import induction
from pellucid.lessons.lesson import Head, Lesson, Step
from pellucid.lessons.lists import LENGTH, TEXT, around, fixed, record, whole
from pellucid.lessons.model import START, load_decoder
from pellucid.record.record import Record

_IDLE = LENGTH - 6  # a place in the first round
_BUSY = LENGTH + 12  # and one in the second


class Parked(NamedTuple):
    """The mean weight on the first token, over the rows that have nothing to find, and over those that have."""

    idle: float
    busy: float


def parked(record: Record, found: Head) -> Parked:
    """How much a head puts on the first token in the first round of the list, and in the second."""
    first = record[found.layer].weights(heads=found.head)[0, 0, :, 0]
    return Parked(first[2 : LENGTH + 1].mean().item(), first[LENGTH + 2 :].mean().item())


def handed_over(found: Head) -> Parked:
    """The length of the value that the first token hands over, and that of the words' on average.

    The head's layer reads what the layers below it made, so the model runs once more.
    """
    model = load_decoder("lists")
    layer = model.layers[found.layer]
    inputs = []
    with layer.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0])):
        model(model.encode([TEXT]))
    values = layer.attention.value_projection(inputs[0][0]).unflatten(-1, (model.sizes.heads, -1))[:, found.head]
    lengths = values.norm(dim=-1)
    return Parked(lengths[0].item(), lengths[1:].mean().item())


def _steps(record: Record) -> list[Step]:
    found = induction.head(record)
    weights, values = parked(record, found), handed_over(found)
    return [
        Step(
            "A bright column",
            f"A list of {LENGTH} words, read twice. This is {found}, which finds how a repeated list goes on. In the "
            f"first round there is nothing to find, and still each row of weights has to sum to 1. Look at the column "
            f"on the left: {weights.idle:.2f} of the weight goes to “{START}”, the start of the text.",
            {**whole(), **found.state},
        ),
        Step(
            "Nothing to do",
            f"“{TEXT[_IDLE]}”, in the first round, was not there before. The start of the text says nothing about it. "
            "The head looks there because it has to look somewhere: such a token is called an attention sink.",
            {**around(_IDLE, 0), **found.state},
        ),
        Step(
            "Something to do",
            f"“{TEXT[_BUSY]}”, in the second round, was there before, and the same head leaves the start at once: "
            f"{weights.busy:.2f} of the weight is there now, the rest is on what came next the last time.",
            {**around(_BUSY, _BUSY - LENGTH + 1), **found.state},
        ),
        Step(
            "Who looks at the start",
            "The text, coloured by how much each word looks at its start: the first round does, the second does not.",
            {**fixed(0, "read"), **found.state},
        ),
        Step(
            "What it takes from there",
            "The same each time, whichever word looks there: the start stands before all words, and is not changed by "
            f"them. It is often said that a sink hands over next to nothing. Here it does not: what it hands over is "
            f"{values.idle:.1f} long, what a word hands over {values.busy:.1f} on average. But what is always the "
            "same says nothing about a word. The weight is a place to rest, not a finding: therefore every number of "
            "a head is told with the sink and without it. Switch between the two, and see which heads change.",
            {"view": "heads", "sink": "without"},
        ),
    ]


LESSON = Lesson("sink", "The sink", "heads that have nothing to do look at the first token", record, _steps)
