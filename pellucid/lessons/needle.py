"""Lesson: one pair among four million holds the weight, and a mean over pairs hides it."""

from __future__ import annotations

from functools import cache
from random import Random

import torch

from pellucid.lessons.lesson import Head, Lesson, Step, record_of
from pellucid.lessons.lists import around, fixed, whole
from pellucid.lessons.model import load_decoder
from pellucid.lessons.texts import Story, story
from pellucid.record.record import Record

LENGTH = 2048  # tokens, the question counted
BINS = 64  # of the maps, either way


@cache
def text() -> Story:
    """A long story with a number in it, and at its end the question for it."""
    return story(Random(7), LENGTH - 2, people=1, questions=1)


def record() -> Record:
    """The model over the story."""
    return record_of(load_decoder("stories"), text().text, "a model of two layers, trained to find numbers in stories")


def needle() -> tuple[int, int]:
    """Where it is asked for, and where it is."""
    return text().questions[0], text().answers[0]


def head(record: Record) -> Head:
    """The head of the last layer that looks at the needle most."""
    query, key = needle()
    weights = record[-1].weights(queries=slice(query, query + 1), keys=slice(key, key + 1))
    return Head(len(record) - 1, int(weights[0, :, 0, 0].argmax()))


def pooled(record: Record, found: Head) -> tuple[float, float]:
    """The mean and the largest weight of the pairs that share the needle's bin in a map of `BINS` bins either way."""
    (query, key), size = needle(), LENGTH // BINS
    rows, columns = (slice(at // size * size, at // size * size + size) for at in (query, key))
    weights = record[found.layer].weights(queries=rows, keys=columns, heads=found.head)
    return torch.nanmean(weights).item(), weights.max().item()


def _steps(record: Record) -> list[Step]:
    found, (query, key) = head(record), needle()
    weight = record[found.layer].weights(queries=slice(query, query + 1), heads=found.head)[0, 0, 0, key].item()
    mean, largest = pooled(record, found)
    name, number = text().text[query], text().text[key]
    return [
        Step(
            "A long story",
            f"A story of {LENGTH:,} words about nothing. Somewhere in it stands “call {name} {number}”, and its last "
            f"words are “call {name}”. The model says {number}. This is {found}, the whole map, each point the mean "
            "of many pairs. Look for the place that it has the number from.",
            {**whole(), **found.state, "pool": "mean"},
        ),
        Step(
            "The mean hides it",
            f"The heads as small maps, each point the mean of many pairs. With {BINS} × {BINS} points it is the mean "
            f"of {(LENGTH // BINS) ** 2:,}, and where the number is found it is {mean:.4f}: one large weight among a "
            f"thousand small ones. In the bottom row of head {found.head} of layer {found.layer} nothing stands out.",
            {"view": "heads", "sink": "with", "sort": "layer", "pool": "mean", "scale": "linear"},
        ),
        Step(
            "The maximum shows it",
            f"The same maps, each point the largest weight of its pairs: {largest:.2f} where the number is, at the "
            f"bottom of head {found.head} of layer {found.layer}, a third of the way to the right. Both maps are "
            "exact; they answer other questions. For what is rare and strong, take the maximum.",
            {"view": "heads", "pool": "max", "scale": "linear"},
        ),
        Step(
            "The pair itself",
            f"From near: “{name}”, at place {query:,}, reads “{number}”, at place {key:,}, with {weight:.2f} of its "
            f"weight, across {query - key:,} words. The model was trained on stories of at most 256.",
            {**around(query, key, LENGTH), **found.state, "pool": "max"},
        ),
        Step(
            "In the text",
            f"The last word is chosen. Its strongest key is {number}; go there. Such heads are called retrieval heads. "
            "That the weight is there does not show yet that the answer comes from there: change the number in the "
            "story, and see whether the answer changes.",
            {**fixed(query), **found.state},
        ),
    ]


LESSON = Lesson("needle", "A needle in a long text", "one pair among four million, which a mean hides", record, _steps)
