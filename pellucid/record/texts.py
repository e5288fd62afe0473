"""The tokens that a user gives with a call or with weights, one list or one for each sequence; and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pellucid.record.belonging import Outline

if TYPE_CHECKING:
    from pellucid.record.layer import Layer
    from pellucid.record.record import Record

Listed = Literal["own", "source"] | None  # record.tokens, record.source_tokens, or none that are known
Texts = Sequence[str] | Sequence[Sequence[str]] | None


def texts_of(name: str, given: Texts, batch: int, length: int) -> list[list[str]] | None:
    """A list of tokens for each sequence; None where none are given.

    Args:
        name: the argument that an error is about.
        given: as the user gave them.
        batch: sequences.
        length: tokens of each.

    Raises:
        TypeError: these are no texts.
        ValueError: there are more or fewer.

    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"{name}: a list of texts, or one for each sequence, is needed, got {type(given).__name__}")
    lists = [given] if all(isinstance(token, str) for token in given) else list(given)
    if not all(_is_texts(each) for each in lists):
        raise TypeError(f"{name}: a list of texts, or one for each sequence, is needed, got something else among them")
    if len(lists) != batch:
        raise ValueError(f"{name}: one list for each of {batch} sequences is needed, got {len(lists)}")
    wrong = next((each for each in lists if len(each) != length), None)
    if wrong is not None:
        raise ValueError(f"{name}: {length} are needed, got {len(wrong)}")
    return [[str(token) for token in each] for each in lists]


def _is_texts(given: object) -> bool:
    if isinstance(given, str) or not isinstance(given, Sequence):
        return False
    return all(isinstance(token, str) for token in given)


def ids_of(texts: list[list[str]] | None) -> Tensor | None:
    """A number for each text, int64 [batch, length], the same for the same text."""
    if texts is None:
        return None
    known: dict[str, int] = {}
    return torch.tensor([[known.setdefault(token, len(known)) for token in each] for each in texts], device="cpu")


def lists_of(record: Record, layer: Layer) -> tuple[Listed, Listed]:
    """Which of a record's lists of tokens a layer's queries stand for, and which its keys.

    An encoder of sound or of pictures beside a language model has none: its frames and patches are no words.
    """
    if layer.role == "cross":
        return "own", "source"
    found = "own" if layer.role == "causal self" else _of_self(record, Outline.of(layer))
    return found, found


def _of_self(record: Record, layer: Outline) -> Listed:
    """The list of self-attention that is not causal, which may be an encoder's."""
    others, length = record.outlines(), layer.length("keys")
    own, source = (max(map(len, lists or []), default=0) for lists in (record.tokens, record.source_tokens))
    read = {other.k_len for other in others if other.role == "cross"}
    if record.source_tokens is not None and source == layer.k_len:
        return "source"
    if read:
        return "own" if length == own and length not in read else None
    causal = {other.length("keys") for other in others if other.role == "causal self"}
    lengths = causal or {other.length("keys") for other in others}
    fits = length in causal if causal else length == own or lengths <= {length}
    return "own" if fits else None
