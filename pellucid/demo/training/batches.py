"""Batches to train on, made of the seed and the batch's number alone: nothing to store when training is interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.demo.data.dates import Example, training_examples
from pellucid.demo.model.vocabulary import END, PADDING, START, Vocabulary, encode_target

BATCHES_PER_CHUNK = 16


class Batch(NamedTuple):
    """Texts, padded to the longest, and what to write for them."""

    source: Tensor  # [batch, length], int64
    lengths: Tensor  # [batch], int64
    written: Tensor  # [batch, 11], int64: start mark and answer
    target: Tensor  # [batch, 11], int64: answer and end mark


def make_batch(examples: Sequence[Example], vocabulary: Vocabulary) -> Batch:
    """The examples as one batch."""
    encoded = [vocabulary.encode(example.text) for example in examples]
    longest = max(len(numbers) for numbers in encoded)
    answers = torch.tensor([encode_target(START + example.iso + END) for example in examples], device="cpu")
    return Batch(
        source=torch.tensor([numbers + [PADDING] * (longest - len(numbers)) for numbers in encoded], device="cpu"),
        lengths=torch.tensor([len(numbers) for numbers in encoded], device="cpu"),
        written=answers[:, :-1],
        target=answers[:, 1:],
    )


def training_batches(vocabulary: Vocabulary, batch_size: int, seed: int, first: int = 0) -> Iterator[Batch]:
    """Batches number `first`, `first + 1`, ... without end.

    Examples are drawn in chunks of several batches and sorted by length within a chunk, so that texts of one batch are
    of about one length and little is padded; the chunk's batches come in a random order.

    Args:
        vocabulary: numbers the characters of the texts.
        batch_size: dates in a batch.
        seed: of the dates and of their order.
        first: number of the first batch, from 0: how many were trained on already.
    """
    chunk, skipped = divmod(first, BATCHES_PER_CHUNK)
    while True:
        rng = Random(f"training {seed} {chunk}")
        examples = sorted(
            islice(training_examples(rng), BATCHES_PER_CHUNK * batch_size), key=lambda example: len(example.text)
        )
        starts = list(range(0, len(examples), batch_size))
        rng.shuffle(starts)
        for start in starts[skipped:]:
            yield make_batch(examples[start : start + batch_size], vocabulary)
        chunk, skipped = chunk + 1, 0
