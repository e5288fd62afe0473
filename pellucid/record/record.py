"""The Record of a watched run: its layers by name, and what can be made of them.

How it is filled is capture's work. What it can be asked for stands in modules below, which know it by its type alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from pellucid import legible, showing
from pellucid.record import belonging, export
from pellucid.record.belonging import Axis, Outline
from pellucid.record.disk import writer
from pellucid.record.frames import Frames
from pellucid.record.images import Image
from pellucid.record.layer import Layer, Missed, Span
from pellucid.record.studies import align as alignment
from pellucid.record.studies import beams, packed, segments
from pellucid.record.studies import summary as summaries

if TYPE_CHECKING:
    from os import PathLike

    from pellucid.record.sharing.ranks import Ranks
    from pellucid.viewer.viewing.viewer import Viewer

T = TypeVar("T", Image, Frames)


class Record(Mapping[str, Layer]):
    """The layers of one watched run, by name and in the order of their first call; also by number.

    Args:
        layers: those that it has from the beginning, by name. The others are the attributes of their names.

    Attributes:
        model: what was watched, the class and if known the checkpoint's name.
        tokens: the tokens of each sequence, if given: a list for each of the batch. Of the queries' sequence.
        source_tokens: the same of the sequence that cross-attention looks at.
        token_ids: the ids that the model was called with, int64 [batch, length], if they are known.
        segments: named ranges of tokens, a slice, or a list of them for the sequences of the batch.
        images: the pictures whose patches are tokens, an Image each.
        frames: the sound whose frames are tokens, a Frames for each stretch.
        readouts: what was asked to be read, in words.
        notes: what else is to be known of the run, in sentences.
        missed: the attention modules that ran and were not observed, each with the reason.
        planned_bytes: the memory that readings and what is kept will take, computed at the first call.
        graph_bytes: the memory that the graph of readings with gradients will hold beside that, until backward.
        complete: whether the `with` was left without an exception.
        ranks: the ranks that the run is divided among, as `watch` was told; None if it was not.

    """

    def __init__(
        self,
        model: str = "",
        layers: Mapping[str, Layer] | None = None,
        *,
        tokens: list[list[str]] | None = None,
        source_tokens: list[list[str]] | None = None,
        segments: Mapping[str, Span] | None = None,
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.source_tokens = source_tokens
        self.token_ids: Tensor | None = None
        self.segments: dict[str, Span] = dict(segments or {})
        self.readouts: list[str] = []
        self.notes: list[str] = []
        self.missed: list[Missed] = []
        self.planned_bytes = 0
        self.graph_bytes = 0
        self.complete = True
        self.ranks: Ranks | None = None
        self._layers: dict[str, Layer] = dict(layers or {})
        self._changes = 0
        self._images: list[Image] = []
        self._frames: list[Frames] = []

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in the order of their first call."""
        return list(self._layers)

    @property
    def images(self) -> list[Image]:
        """The pictures whose patches are tokens.

        Set, they must each belong to a layer, if there are layers.

        Raises:
            TypeError, ValueError: on setting, for what is no list of Image, or belongs to no layer.

        """
        return self._images

    @images.setter
    def images(self, images: Iterable[Image]) -> None:
        self._images = belonging.listed("images", images, Image)
        belonging.check("images", self._images, self.outlines())

    @property
    def frames(self) -> list[Frames]:
        """The sound whose frames are tokens. Set, and refused, as `images`."""
        return self._frames

    @frames.setter
    def frames(self, frames: Iterable[Frames]) -> None:
        self._frames = belonging.listed("frames", frames, Frames)
        belonging.check("frames", self._frames, self.outlines())

    def images_of(self, layer: str | int | Layer, sequence: int = 0, axis: Axis | None = None) -> list[Image]:
        """The pictures whose patches are among a layer's queries or keys.

        Args:
            layer: one of the record's, by name, by number or itself.
            sequence: number of the sequence in the batch.
            axis: "queries" or "keys"; either if None. Patches are counted in positions, as keys are; row i of the
                weights is the query at position `layer.start + i`.

        """
        return self._on(self._images, layer, sequence, axis)

    def frames_of(self, layer: str | int | Layer, axis: Axis, sequence: int = 0) -> list[Frames]:
        """The sound whose frames are among a layer's queries or keys; takes what `images_of` does."""
        return self._on(self._frames, layer, sequence, axis)

    def _on(self, items: list[T], layer: str | int | Layer, sequence: int, axis: Axis | None) -> list[T]:
        outline = Outline.of(self[layer] if isinstance(layer, str | int) else layer)
        return belonging.those_on(items, outline, sequence, axis, self.outlines())

    def outlines(self) -> list[Outline]:
        """What is known of each layer without reading it."""
        return [Outline.of(layer) for layer in self._layers.values()]

    def add(self, layer: Layer) -> None:
        """Put a layer into the record, in the place of one of its name."""
        self._layers[layer.name] = layer
        self._changes += 1

    def remove(self, name: str) -> None:
        """Take a layer out of the record, if it is there."""
        self._layers.pop(name, None)
        self._changes += 1

    @property
    def edition(self) -> str:
        """What is another once a layer was put in or taken out, or the files are those of another run."""
        return str(self._changes)

    def max_scores(self) -> Tensor:
        """The largest score of each head, [layers, heads], over all rows that are no padding: for one all-reduce.

        Calls of one module are a layer here, in the order of their first calls; where a layer has fewer heads than
        others, -inf follows. Read by `MaxScore(per_head=True)`, or from `MaxScore()`.

        Raises:
            ValueError: a layer has neither.

        """
        return packed.max_scores(self)

    def detached(self) -> Record:
        """The record with readings that carry no gradient, to be kept when what they were trained on is to go."""
        made = copy(self)
        made._layers = {name: layer.detached() for name, layer in self._layers.items()}
        return made

    def __getitem__(self, name: str | int) -> Layer:
        """The layer called `name`, or with that number. Raises KeyError, naming what is there, or IndexError."""
        if isinstance(name, int):
            try:
                return self._layers[self.layers[name]]
            except IndexError:
                raise IndexError(f"layer {name}: the record has {len(self)}") from None
        if name not in self._layers:
            raise KeyError(self._unknown(name))
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        missed = f", {len(self.missed)} missed" if self.missed else ""
        return f"Record({legible.name(self.model)}, {len(self)} layers{missed})"

    def _unknown(self, name: str) -> str:
        missed = next((missed for missed in self.missed if missed.name == name), None)
        if missed is not None:
            return legible.message(f"{name!r} was not observed: {missed.reason}")
        few = self.layers if len(self) <= 8 else [*self.layers[:4], "...", *self.layers[-3:]]
        known = ", ".join(map(legible.name, few)) or "none"
        return f"{legible.quoted(name)} is no layer of the record, which has {known}"

    # Each takes the record first, and says what else it takes and gives.
    summary = summaries.summary
    segment_mass = segments.segment_mass
    align = alignment.align
    to_parquet = export.to_parquet
    to_headvis = export.to_headvis
    to_bertviz = export.to_bertviz

    def save(self, path: str | PathLike[str], *, overwrite: bool = False, resume: bool = False) -> Path:
        """Write the whole record to the folder `path`.

        Where the run is divided among ranks, all of them call this, and the record is that of all. Each writes files of
        its own, of whole layers, one after another, so that whenever it ends the folder is a record of the layers so
        far. All ranks must see the folder.

        Args:
            path: where; `name.attn` by custom.
            overwrite: whether a record that is there already is replaced.
            resume: whether one that is there is gone on with: the layers that it has whole are not written again.

        Returns:
            The folder.

        Raises:
            LostRankError: another rank has died, or does not come to the call.
            RecordError: it cannot be written; the layers that were are a record that can be opened.
            ValueError: what the ranks have are not parts of one record.

        """
        if not self.ranks:
            return writer.save(self, path, overwrite=overwrite, resume=resume)
        from pellucid.record.sharing.saving import save

        return save(self, self.ranks, Path(path), overwrite=overwrite, resume=resume)

    def gather(self, to: int | None = None) -> Record | None:
        """The record of all ranks that the run is divided among, in memory; all of them call this.

        Args:
            to: the number of the one rank, among all, that gets it; every rank if None.

        Returns:
            A Record; None on another rank than `to`. Query and key, where they were kept, come along. Where sequences
            are of different lengths on the ranks, what a shorter one lacks is padding, sums over bins are left out.

        Raises:
            LostRankError: another rank has died, or does not come to the call.
            ValueError: `watch` was not told the ranks, or what they have are not parts of one record.

        """
        if self.ranks is None:
            raise ValueError("gather: the ranks are not known; name them, watch(model, ranks={'heads': group})")
        from pellucid.record.sharing.gather import gather

        return gather(self, self.ranks, to)

    def view(self, **options: Any) -> Viewer:
        """Show the record in the notebook's cell, or in the browser: `pellucid.view`, which says what it takes.

        Returns:
            A Viewer: `.url`, `.save("page.html")`, `.wait()`, `.close()`.

        Raises:
            ImportError: what serves the page is not installed.

        """
        return showing.view(self, **options)

    def of_beams(self, generated: Any, *, prompt: int | None = None) -> Record:
        """The record of the sequences that a beam search has returned, a sequence of the batch each.

        Args:
            generated: what `generate(num_beams=..., return_dict_in_generate=True)` gave.
            prompt: positions before the first generated token; where None, as many as `sequences` has before it. To be
                given where the prompt was not one of tokens (`inputs_embeds`).

        Returns:
            A Record in memory. A sequence that ended before others has padding after its end. What keys received is
            computed where query and key were kept, else it is left out, and so are maps over bins of queries.

        Raises:
            ValueError: `generated` does not say which beams were taken, or the record is not of this generation.

        """
        found = beams.followed(self, generated, prompt)
        record = Record(self.model, {layer.name: layer for layer in found.layers}, segments=self.segments)
        record.tokens, record.source_tokens, record.token_ids = found.tokens, found.source_tokens, found.token_ids
        record._images, record._frames = found.images, found.frames
        record.readouts, record.notes = self.readouts, self.notes
        record.missed, record.complete = self.missed, self.complete
        return record
