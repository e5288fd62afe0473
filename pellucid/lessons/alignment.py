"""Lesson: cross-attention that finds in one text what it writes in another."""

from __future__ import annotations

import torch

import pellucid
from pellucid.demo import DateReader, load_reader
from pellucid.demo.model.vocabulary import START, encode_target
from pellucid.lessons.lesson import Head, Lesson, Step
from pellucid.record.record import Record

TEXT, MONTH = "3 mars 1997", "mars"
WRITTEN = "1997-03-03"
_KEYS = slice(TEXT.index(MONTH), TEXT.index(MONTH) + len(MONTH))
_QUERIES = slice(WRITTEN.index("-03") + 1, WRITTEN.index("-03") + 3)  # the rows in which the month is written


def record() -> Record:
    """The embedded model over a date."""
    reader: DateReader = load_reader()
    written = [START, *WRITTEN]
    more = [pellucid.TopK(8)]
    watching = pellucid.watch(reader, keep=True, more=more, tokens=[written], source_tokens=[list(TEXT)])
    with torch.inference_mode(), watching as seen:
        reader(torch.tensor([reader.vocabulary.encode(TEXT)], device="cpu"), _numbers(written))
    seen.model = "the embedded date reader"
    return seen


def _numbers(written: list[str]) -> torch.Tensor:
    return torch.tensor([encode_target("".join(written))], device="cpu")


def month_weight(record: Record, layer: int) -> torch.Tensor:
    """The weight on the name of the month, of each head, over the rows in which the month is written: [heads]."""
    weights = record[layer].weights(queries=_QUERIES, keys=_KEYS)[0]
    return weights.sum(-1).mean(-1)


def head(record: Record) -> Head:
    """The head of cross-attention that reads the name of the month most where the month is written."""
    layers = [number for number in range(len(record)) if record[number].role == "cross"]
    best = max(layers, key=lambda number: month_weight(record, number).max().item())
    return Head(best, int(month_weight(record, best).argmax()))


def _steps(record: Record) -> list[Step]:
    found = head(record)
    share = month_weight(record, found.layer)[found.head].item()
    first, last = _QUERIES.start, _QUERIES.stop - 1
    return [
        Step(
            "Two texts",
            f"A small model of encoder and decoder has read “{TEXT}” and written {WRITTEN}. In cross-attention the "
            "columns are the text that is read. A row is a step of writing, named by the character before it "
            f"(“{START}” where there is none yet). These are its heads.",
            {"view": "heads", "roles": "cross", "sink": "with", "sort": "layer", "x": "entropy", "y": "concentration"},
        ),
        Step(
            "Who reads the month?",
            f"{str(found).capitalize()} does. The marked row has the name of what was just written, "
            f"“{WRITTEN[first - 1]}”, and says where the model looks for the next character, “{WRITTEN[first]}”: what "
            "it reads most is listed. Follow the rows downwards: from the year to the month to the day.",
            {"view": "map", "roles": None, **found.state, "q": None, "k": None, "query": str(first), "key": None},
        ),
        Step(
            "mars is 03",
            f"The rows that write the month are “-” and “0”, for they write 0 and 3. {share:.2f} of their weight is on "
            f"the letters of “{MONTH}”. No letter of the one is in the other: that the name means 03 was learned.",
            {"view": "cross", "fixed": f"{first},{last}", "direction": "reads", **found.state},
        ),
        Step(
            "Who is read by whom",
            "The other way round: one letter of the name is chosen, and what is written is coloured by how much it "
            "reads it. Try the characters of the year and of the day.",
            {"view": "cross", "fixed": str(_KEYS.start), "direction": "read", **found.state},
        ),
        Step(
            "Not each head aligns",
            "Choose other heads of cross-attention. Some look at places that say nothing to us, and the model needs "
            "them as well, or does not: the weights alone do not tell. And what a head reads here was mixed by the "
            "encoder: a place holds more than its own letter.",
            {"view": "heads", "roles": "cross", "fixed": None, "sort": "entropy"},
        ),
    ]


LESSON = Lesson(
    "alignment", "Two texts, aligned", "cross-attention that reads the name of a month to write it", record, _steps
)
