"""A Profile: what every head did over a corpus, as sums, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid import legible, showing
from pellucid.profiles import exact, listing, merging, summing, sums
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.disk import write
from pellucid.profiles.entries import Entries
from pellucid.profiles.excerpts import Excerpt
from pellucid.profiles.layout import SAME, HeadName, Layout
from pellucid.profiles.listing import Example
from pellucid.profiles.numbers import NUMBERS, edges, number_of
from pellucid.profiles.sketch import Sketch, empty
from pellucid.profiles.studies import comparing, corpus_kinds, headvis, parquet
from pellucid.profiles.sums import BANDS, Sums
from pellucid.record.disk import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from pellucid.record.studies.summary import Summary


class Statistics(NamedTuple):
    """A number of each head over the documents, [heads]."""

    documents: Tensor  # int64, those in which it means something
    mean: Tensor  # float64; this and the rest NaN where there is none
    variance: Tensor  # over these documents
    least: Tensor
    most: Tensor


class Histogram(NamedTuple):
    """How many documents have a number in each bin."""

    edges: Tensor  # float64 [bins + 1]
    counts: Tensor  # int64 [heads, bins]


class Masses(NamedTuple):
    """The mean weight of a row on each of some kinds of keys, [heads, kinds]; NaN where no row was read."""

    names: tuple[str, ...]
    mass: Tensor  # float64
    equal: Tensor  # float64, what equal weights on all keys that each query may look at would put there


@dataclass(frozen=True)
class Profile:
    """What every head of a model did over documents. Profiles of different documents merge to that of all of them.

    Every number of the summary stands for one document first: its statistics, quantiles and histogram are over the
    documents. `summary()` is of all rows of all documents together, as of one record that has them all.

    Attributes:
        model: what was watched.
        identity: a text that is another for other weights; "" where that is not known.
        layout: the heads, the token classes and what else the numbers depend on.
        corpora: what was read, and what could not be.
        written_by: the versions of what made it.

    """

    model: str
    identity: str
    layout: Layout
    corpora: tuple[Corpus, ...]
    written_by: tuple[str, ...]
    sums: Sums = field(repr=False)
    sketch: Sketch = field(repr=False)
    lists: Mapping[str, Entries] = field(repr=False)
    excerpts: tuple[Excerpt, ...] = field(repr=False)

    @property
    def heads(self) -> list[HeadName]:
        """Every head, in the order of whatever is [heads]."""
        return self.layout.heads

    @property
    def complete(self) -> bool:
        """Whether every corpus was read to its end."""
        return all(corpus.is_complete for corpus in self.corpora)

    @property
    def documents(self) -> int:
        """How many documents were read."""
        return sum(corpus.documents for corpus in self.corpora)

    def __repr__(self) -> str:
        unread = sum(corpus.unread_count for corpus in self.corpora)
        rest = f", {unread} not read" if unread else ""
        return f"Profile({legible.name(self.model)}, {len(self.heads)} heads, {self.documents} documents{rest})"

    # The numbers of the summary.

    def summary(self) -> Summary:
        """Each head's numbers and kind, of all rows of all documents together."""
        return summing.summary(self)

    def statistics(self, number: str) -> Statistics:
        """A number of the summary over the documents: how many, mean, variance, the least and the most."""
        place = number_of(number)
        count, total = self.sums["count"][:, place], self.sums["sum"][:, place]
        none = count == 0
        return Statistics(
            count,
            exact.mean(total, count),
            exact.variance(total, self.sums["squares"][:, place], count),
            *(self.sums[name][:, place].masked_fill(none, torch.nan) for name in ("least", "most")),
        )

    def quantiles(self, number: str, shares: Sequence[float]) -> Tensor:
        """The values below which these shares of the documents lie, float64 [heads, shares], each within 1 % of itself.

        None lies below the least of the documents or above the most.

        Raises:
            ValueError: there is no such number, or a share is not from 0 to 1.

        """
        place = number_of(number)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares: numbers from 0 to 1 are needed, got {list(shares)}")
        columns = range(place, len(self.heads) * len(NUMBERS), len(NUMBERS))
        found = [self.sketch.quantiles(column, list(shares)) for column in columns]
        values = torch.tensor(found, dtype=torch.float64, device="cpu").reshape(len(self.heads), len(shares))
        return values.clamp(self.sums["least"][:, place, None], self.sums["most"][:, place, None])

    def sketch_of(self, head: int, number: str) -> Any:
        """A head's number as a `ddsketch.DDSketch`, the library's own. Raises ModuleNotFoundError without it."""
        return self.sketch.library(head * len(NUMBERS) + number_of(number))

    def histogram(self, number: str) -> Histogram:
        """How many documents have a number in each of 64 bins."""
        return Histogram(edges(number), self.sums["histogram"][:, number_of(number)])

    def kinds(self, *, without_sink: bool = False) -> Tensor:
        """In how many documents each head is of each of `pellucid.profiles.sums.KINDS`, int64 [heads, kinds]."""
        return self.sums["kinds_without_sink" if without_sink else "kinds"]

    # Where the weight goes.

    def by_distance(self) -> Masses:
        """The mean weight of a row by distance, one of `pellucid.profiles.sums.BANDS` a column."""
        names = tuple(f"{band.least}..{band.most}" if band.least != band.most else str(band.least) for band in BANDS)
        rows = self.sums["map_rows"][:, None]
        return Masses(names, *(exact.mean(self.sums[name], rows) for name in ("distance", "distance_equal")))

    def by_position(self) -> Tensor:
        """The mean weight of the rows of each sixteenth of a document on the keys of each, float64 [heads, 16, 16].

        NaN where no document has such a row; a document of fewer tokens leaves sixteenths out.
        """
        return exact.mean(self.sums["position"], self.sums["position_rows"][..., None])

    def on_classes(self) -> Masses:
        """The mean weight of a row on each token class; what equal weights put on the "same token" is not known."""
        rows = self.sums["rows"][:, None]
        mass, equal = (exact.mean(self.sums[name], rows) for name in ("classes", "classes_equal"))
        equal[:, self.layout.classes.index(SAME)] = torch.nan
        return Masses(self.layout.classes, mass, equal)

    # The strongest.

    def strongest_documents(self, head: int, number: str) -> list[Example]:
        """The documents in which a head has most of a number, each with its strongest query by that number."""
        return self._examples("documents", head, number_of(number))

    def strongest_queries(self, head: int, number: str) -> list[Example]:
        """The queries of which a head has most of a number, one a document."""
        return self._examples("queries", head, number_of(number))

    def strongest_keys(self, head: int) -> list[Example]:
        """The keys that receive most of a head, one a document; the value is their share of all that keys receive."""
        return self._examples("keys", head)

    def sequences(self, head: int) -> list[Example]:
        """Stretches of 48 queries that put most beyond the sink, one a document, with the strongest keys of each."""
        return self._examples("sequences", head)

    def _examples(self, name: str, *place: int) -> list[Example]:
        if name not in self.lists:
            raise IndexError(f"head: the profile has {len(self.heads)}, got {place[0]}")
        own = Entries(*(part[place] for part in self.lists[name]))
        reads, sees = (bool(flags[place[0]]) for flags in merging.sides(self.layout))
        return listing.examples(own, self.excerpts, reads, sees)

    def merged(self, *others: Profile) -> Profile:
        """The profile of the documents of all.

        Raises:
            ValueError: they are of different models or settings, or a document is in two of them.

        """
        found = self
        for other in others:
            found = merging.merged(found, other)
        return found

    def view(self, **options: Any) -> Any:
        """Show the profile in the notebook's cell, or in the browser: `pellucid.view`, which says what it takes.

        Returns:
            A ProfileViewer: `.url`, `.save("page.html")`, `.wait()`, `.close()`.

        Raises:
            ImportError: what serves the page is not installed.

        """
        return showing.view(self, **options)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write it to a file, by custom `name.heads`, whole or not at all.

        Raises:
            ProfileError: there is a file and it is not to be overwritten, or it cannot be written.

        """
        write.save(self, path, overwrite=overwrite)

    corpus_kinds = corpus_kinds.corpus_kinds
    compared = comparing.compared
    to_parquet = parquet.to_parquet
    to_headvis = headvis.to_headvis


def nothing(model: str, identity: str, layout: Layout, corpora: tuple[Corpus, ...] = ()) -> Profile:
    """The profile of no document that was read.

    Args:
        model: what is watched.
        identity: a text that is another for other weights.
        layout: the heads, the token classes and the settings.
        corpora: which corpora there are.

    """
    none = sums.nothing(len(layout.heads), len(layout.classes))
    return Profile(model, identity, layout, corpora, versions(), none, empty(), layout.lists(), ())


def versions() -> tuple[str, ...]:
    """What makes a profile here, as a file names it."""
    return tuple(f"{name} {version}" for name, version in sorted(manifest.versions().items()))
