"""Two profiles as one: the same whichever is the first, and in whatever order several are merged, to the bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pellucid import legible
from pellucid.profiles import excerpts, sums
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.layout import Layout

if TYPE_CHECKING:
    from pellucid.profiles.profile import Profile

_SPARE = 256  # documents that no list names any more, before they are left out


class Sides(NamedTuple):
    """Which heads attend from, and to, the text that cross-attention looks at: bool [heads]."""

    reads_source: Tensor
    sees_source: Tensor


def sides(layout: Layout) -> Sides:
    """Of each head. Beside cross-attention, self-attention that is not causal is that of the source."""
    roles = [head.role for head in layout.heads]
    reads = [role == "self" and "cross" in roles for role in roles]
    sees = [role == "cross" or own for role, own in zip(roles, reads, strict=True)]
    return Sides(*(torch.tensor(flags, dtype=torch.bool, device="cpu") for flags in (reads, sees)))


def merged(one: Profile, other: Profile) -> Profile:
    """The profile of the documents of both.

    Raises:
        ValueError: they are of different models or settings, or a document is in both.

    """
    if one.identity != other.identity:
        raise ValueError(f"they are of different models: {_model(one)} and {_model(other)}")
    layout = one.layout.joined(other.layout)
    found = replace(
        one if one.layout.layers else other,
        model=min(one.model, other.model),
        layout=layout,
        corpora=_corpora([*one.corpora, *other.corpora]),
        written_by=tuple(sorted({*one.written_by, *other.written_by})),
    )
    if not one.layout.layers or not other.layout.layers:
        return found
    return _thinned(
        replace(
            _listed(found, one, other),
            sums=sums.merged(one.sums, other.sums),
            sketch=one.sketch.merged(other.sketch),
        )
    )


def without_spare(profile: Profile) -> Profile:
    """The same with no document, and no token, that its lists do not name."""
    reads, sees = sides(profile.layout)
    codes = [excerpts.needed(entries, reads, sees) for entries in profile.lists.values()]
    kept, places = excerpts.kept(
        list(profile.excerpts), torch.unique(torch.cat(codes)) if codes else torch.zeros(0, device="cpu")
    )
    lists = {name: entries.of_documents(places) for name, entries in profile.lists.items()}
    return replace(profile, excerpts=tuple(kept), lists=lists)


def _thinned(profile: Profile) -> Profile:
    """The same, with spare documents left out if there are many."""
    named = torch.unique(torch.cat([entries.document.flatten() for entries in profile.lists.values()]))
    return profile if len(profile.excerpts) <= 2 * len(named) + _SPARE else without_spare(profile)


def _listed(found: Profile, one: Profile, other: Profile) -> Profile:
    """A profile with the lists of both, and the documents that they name."""
    documents = sorted({*one.excerpts, *other.excerpts})
    place = {document: number for number, document in enumerate(documents)}
    moved = [
        {name: entries.of_documents(_places(profile, place)) for name, entries in profile.lists.items()}
        for profile in (one, other)
    ]
    lists = {name: moved[0][name].merged(moved[1][name]) for name in moved[0]}
    return replace(found, excerpts=tuple(documents), lists=lists)


def _places(profile: Profile, place: dict[excerpts.Excerpt, int]) -> Tensor:
    return torch.tensor([place[document] for document in profile.excerpts], dtype=torch.int64, device="cpu")


def _corpora(corpora: list[Corpus]) -> tuple[Corpus, ...]:
    found = []
    for _, same in groupby(sorted(corpora, key=_identity), _identity):
        first, *rest = same
        for corpus in rest:
            first = first.merged(corpus)
        found.append(first)
    return tuple(found)


def _identity(corpus: Corpus) -> str:
    return corpus.identity


def _model(profile: Profile) -> str:
    identity = f" ({profile.identity})" if profile.identity else ""
    return legible.name(profile.model or "one without a name") + identity
