"""A profile made of one watched run: `Measuring`, layer by layer, or `profile_of` a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.profiles import merging, sums
from pellucid.profiles.corpus import Corpus, joined
from pellucid.profiles.entries import Entries
from pellucid.profiles.layout import EXAMPLES, Layout, ProfiledLayer
from pellucid.profiles.measuring.batch import Document, Text
from pellucid.profiles.measuring.classes import TokenClasses
from pellucid.profiles.measuring.layers import measured, sums_of
from pellucid.profiles.measuring.strongest import strongest
from pellucid.profiles.profile import Profile, nothing
from pellucid.profiles.sketch import sketch_of
from pellucid.record.layer import Layer
from pellucid.record.record import Record

BY_HAND = "records"  # the corpus of records that are given one by one


@dataclass
class Measuring:
    """The layers of one run over a batch of documents, taken one after another and not kept.

    Args:
        documents: those of the batch, in its order.
        classes: the token classes.
        examples: how long the lists of the strongest are.

    """

    documents: list[Document]
    classes: TokenClasses = field(default_factory=TokenClasses)
    examples: int = EXAMPLES
    _layers: list[ProfiledLayer] = field(default_factory=list)
    _sums: list[dict[str, Tensor]] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)
    _lists: list[dict[str, Entries]] = field(default_factory=list)

    def add(self, layer: Layer) -> None:
        """Take a layer.

        Raises:
            ValueError: its readings are not those that a summary needs, or it is of another batch.

        """
        _check(layer, len(self.documents))
        found = measured(layer)
        heads = tuple(map(int, layer.head_numbers or range(layer.heads)))
        self._layers.append(ProfiledLayer(layer.name, layer.role, heads))
        self._sums.append(sums_of(found, self.documents, self.classes))
        self._values.append(found.values)
        self._lists.append(strongest(found, self.examples))

    def profile(self, blank: Profile, corpus: Corpus) -> Profile:
        """The profile of the documents.

        Args:
            blank: of no document: the model and the settings.
            corpus: what the documents are of, and no others.

        """
        layout = Layout(tuple(self._layers), self.classes.names, blank.layout.settings, self.examples)
        found = {name: torch.cat([of_layer[name] for of_layer in self._sums]) for name in sums.NAMES}
        values = torch.cat(self._values, 1)  # [batch, heads, numbers]
        columns = torch.arange(values[0].numel(), device="cpu").reshape(values.shape[1:]).expand(values.shape)
        order = sorted(range(len(self.documents)), key=lambda place: self.documents[place].number)
        places = torch.tensor(order, device="cpu").argsort()
        lists = {name: _joined([one[name] for one in self._lists]).of_documents(places) for name in self._lists[0]}
        lists = {name: entries.best(entries.size) for name, entries in lists.items()}
        return Profile(
            blank.model,
            blank.identity,
            layout,
            (corpus,),
            blank.written_by,
            found,
            sketch_of(values, columns),
            lists,
            tuple(self.documents[place].excerpt(corpus.identity) for place in order),
        )


def profile_of(
    record: Record,
    *,
    first: int = 0,
    names: Sequence[str] | None = None,
    special: Sequence[Sequence[bool]] | None = None,
    patterns: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
    examples: int = EXAMPLES,
    corpus: str = BY_HAND,
) -> Profile:
    """The profile of a record, whose sequences are documents. Merged, those of many records are that of a corpus.

    Args:
        record: watched with `TopK` among the readouts for the strongest keys, and with `keep=True` for the maps by
            distance and position; what was not read is left out.
        first: the number of its first sequence among all documents.
        names: what the documents are called; their numbers if None.
        special: which tokens of each sequence are special.
        patterns: regular expressions of further token classes, by name.
        settings: what else the numbers depend on; profiles of others do not merge.
        examples: how long the lists of the strongest are.
        corpus: what the documents are of.

    Raises:
        ValueError: the record has no layer, or none that a summary can be made of.

    """
    if not len(record):
        raise ValueError("profile_of: the record has no layer")
    batch = record[0].batch
    numbers = range(first, first + batch)
    called = [str(number) for number in numbers] if names is None else list(names)
    documents = [
        Document(numbers[row], called[row], _text(record, row, special), _source(record, row)) for row in range(batch)
    ]
    measuring = Measuring(documents, TokenClasses(patterns or {}), examples)
    for layer in record.values():
        measuring.add(layer)
    tokens = sum(len(document.text.tokens) for document in documents)
    own = Corpus(corpus, corpus, joined([(first, first + batch)]), None, batch, tokens)
    blank = nothing(record.model, "", Layout(settings=dict(settings or {})))
    return merging.without_spare(measuring.profile(blank, own))


def _check(layer: Layer, documents: int) -> None:
    if layer.batch != documents:
        raise ValueError(f"{layer.name}: has {layer.batch} sequences, and there are {documents} documents")
    missing = [name for name in ("entropy", "beyond_first", "received") if name not in layer.readings]
    if missing:
        raise ValueError(f"{layer.name}: {', '.join(missing)} was not read; watch it without readouts=")


def _text(record: Record, row: int, special: Sequence[Sequence[bool]] | None) -> Text:
    """The tokens of a sequence, without its padding; those that are not known are their numbers."""
    own = [layer for layer in record.values() if layer.role != "cross"]
    layer = next((layer for layer in own if layer.role == "causal self"), own[0] if own else record[0])
    if record.source_tokens is not None:
        layer = next((layer for layer in record.values() if layer.role == "cross"), layer)
    padding = layer.padding.queries
    real = range(layer.q_len) if padding is None else (~padding[row]).nonzero().flatten().tolist()
    known = record.tokens[row] if record.tokens is not None else []
    tokens = tuple(known[place] if place < len(known) else str(place) for place in real)
    flags = special[row] if special is not None else [False] * layer.q_len
    return Text(tokens, tuple(flags[place] for place in real))


def _source(record: Record, row: int) -> Text | None:
    if record.source_tokens is None:
        return None
    tokens = tuple(record.source_tokens[row])
    return Text(tokens, (False,) * len(tokens))


def _joined(entries: list[Entries]) -> Entries:
    return Entries(*(torch.cat(parts) for parts in zip(*entries, strict=True)))
