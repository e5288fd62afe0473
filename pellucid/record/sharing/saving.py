"""One record on disk of all ranks: a layer's parts go to one of them, which writes its file; the first names it.

The ranks go through the layers in rounds of as many as there are ranks, so that all of them write. What is named is
whole, and so whenever this ends, by a full disk or the death of a rank, the folder is a record of the layers so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid import legible
from pellucid.record.disk import manifest as manifests
from pellucid.record.disk.faults import opened
from pellucid.record.disk.layer_file import write_layer
from pellucid.record.disk.manifest import Json, RecordError, described, layer_entries
from pellucid.record.disk.writer import Keeps, RecordWriter
from pellucid.record.layer import Layer, Padding
from pellucid.record.sharing.exchange import agree, at, everywhere, listed, told
from pellucid.record.sharing.ranks import Ranks
from pellucid.record.sharing.whole import Piece, emptied, joined, layer_of, on_cpu, piece_of

if TYPE_CHECKING:
    from pellucid.record.record import Record


def save(record: Record, ranks: Ranks, path: Path, *, overwrite: bool, resume: bool) -> Path:
    """Write the record of all ranks to one folder, and return that; all of them call this.

    Args:
        record: this rank's.
        ranks: among which the run is divided.
        path: see `Record.save`, which says too what is raised, like those that follow.
        overwrite: see `Record.save`.
        resume: see `Record.save`.

    """
    agree(ranks, call="save(...)", path=path.name, overwrite=overwrite, resume=resume)
    outline = everywhere(ranks, piece_of(record).outline(), joined).record
    with SharedWriter(path, outline, ranks, overwrite=overwrite, resume=resume) as writer:
        writer.compare(outline.values())
        here = set(everywhere(ranks.inner, list(record), listed))
        left = [name for name in outline if name not in writer.written]
        size = ranks.count
        for start in range(0, len(left), size):
            writer.add_all([(name, record.get(name), name in here) for name in left[start : start + size]])
        writer.finish(outline)
    return path


@contextmanager
def writing(path: Path, record: Record, ranks: Ranks, *, resume: bool, keeps: Keeps) -> Iterator[SharedWriter]:
    """A writer of a watched run that ranks divide, who all have the same layers.

    On leaving, the manifest is completed; left by an exception, which other ranks may not have, nothing is sent.

    Args:
        path: the folder, which all ranks see.
        record: what is known of the run already.
        ranks: among which it is divided.
        resume: whether a record that is there is continued.
        keeps: see `RecordWriter`.

    Raises:
        RecordError: as RecordWriter, on every rank.
        ValueError: ranks that name different folders, or do not all resume.

    """
    agree(ranks, call="watch(out=...)", path=path.name, resume=resume)
    outline = everywhere(ranks, piece_of(record).outline(), joined).record
    with SharedWriter(path, outline, ranks, resume=resume, keeps=keeps) as writer:
        yield writer
        whole = everywhere(ranks, writer.beside(record), joined).record
        whole.notes = list(dict.fromkeys([*whole.notes, *outline.notes]))
        writer.finish(whole)


class _Written(NamedTuple):
    """What a rank has written of a round."""

    number: int
    entry: Json
    notes: list[str]


class SharedWriter:
    """Writes a record of which each rank has a part; all ranks call each method together.

    Args:
        path: the folder, which all ranks see.
        outline: the record of all ranks without its numbers, which is the same on each.
        ranks: among which it is divided.
        overwrite: whether a record that is there already is replaced.
        resume: whether one that is there is continued.
        keeps: see `RecordWriter`.

    Attributes:
        written: the names of the layers that the folder holds.

    Raises:
        RecordError: as RecordWriter, on every rank.

    """

    def __init__(
        self,
        path: Path,
        outline: Record,
        ranks: Ranks,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keeps: Keeps | None = None,
    ) -> None:
        self._folder, self._ranks, self._outline, self._keeps = path, ranks, outline, keeps
        self._batch = 0  # sequences of this rank
        self._writer: RecordWriter | None = None
        state: Any = None
        if ranks.is_first:
            try:
                self._writer = RecordWriter(path, outline, overwrite=overwrite, resume=resume, keeps=keeps)
                state = self._writer.written, self._writer.run
            except RecordError as error:
                state = error
        try:
            self.written, self._run = self._agreed(state)[0]
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> SharedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def _agreed(self, own: Any) -> list[Any]:
        """What the ranks say that say anything; the first error is raised on all."""
        every = told(self._ranks, own)
        self._raise(every)
        return [one for one in every if one is not None]

    def compare(self, layers: Iterable[Layer]) -> None:
        """Raise RecordError, on every rank, for layers that are written already, of another run."""
        fault = None
        try:
            for layer in layers:
                if self._writer is not None and layer.name in self.written:
                    self._writer.compare(layer)
        except RecordError as error:
            fault = error
        self._agreed(fault)

    def add(self, layer: Layer) -> Layer:
        """Write one layer, of which each rank has a part, and give each the whole, as it is on the disk.

        Raises:
            LostRankError: a rank is not reached.
            RecordError: it cannot be written, or is written already, of another run; on every rank.
            ValueError: what the ranks have are not parts of one layer; on every rank.

        """
        self._batch = max(self._batch, layer.batch)
        if layer.name in self.written:
            bare = replace(layer, readings={}, parts=[], padding=Padding())
            self.compare([everywhere(self._ranks, bare, lambda axis, parts: layer_of(axis, layer.name, parts, []))])
        else:
            self.add_all([(layer.name, layer, True)])
        manifest = manifests.read(self._folder)
        return opened(self._folder, layer_entries(manifest)[layer.name], self._run)

    def beside(self, record: Record) -> Piece:
        """What a rank knows of the run beside its layers, of which it has the whole by now."""
        known = record.token_ids if record.token_ids is not None else record.tokens
        return Piece(emptied(record), self._batch if known is None else len(known))

    def add_all(self, layers: Sequence[tuple[str, Layer | None, bool]]) -> None:
        """Write some layers, at most as many as there are ranks.

        Args:
            layers: of each its name, what this rank has of it, and whether ranks that have parts of the same layers do.

        Raises:
            LostRankError: a rank is not reached.
            RecordError: one cannot be written; on every rank.
            ValueError: what the ranks have are not parts of one layer; on every rank.

        """
        results = []
        for number, (name, layer, is_here) in enumerate(layers, len(self.written)):
            if is_here:
                results += self._written(number, name, None if layer is None else on_cpu(layer))
        every = [one for of_rank in told(self._ranks, results) for one in of_rank]
        self._raise(every)
        fault = None
        if self._writer is not None:
            try:
                for written in sorted(every, key=lambda one: one.number):
                    known = self._outline.notes
                    known += [note for note in written.notes if note not in known]
                    self._writer.enter(written.entry)
            except RecordError as error:
                fault = error
        self._agreed(fault)
        self.written += [name for name, _, _ in layers]

    def finish(self, record: Record) -> None:
        """Write what is known of the run at its end; RecordError on every rank if it cannot be."""
        fault = None
        if self._writer is not None:
            try:
                self._writer.finish(record)
            except RecordError as error:
                fault = error
        self._agreed(fault)

    def _written(self, number: int, name: str, own: Layer | None) -> list[Any]:
        """What this rank writes of a layer, or why it cannot; nothing where another rank does."""
        notes: list[str] = []
        has_it, whole = at(
            self._ranks.inner, self._place_of(number), own, lambda axis, parts: layer_of(axis, name, parts, notes)
        )
        if not has_it:
            return []
        if isinstance(whole, Exception):
            return [whole]
        try:
            return [_Written(number, self._write(number, whole), notes)]
        except RecordError as error:
            return [error]

    def _place_of(self, number: int) -> dict[str, int]:
        """Which of the ranks that have parts of a layer writes it: each in turn."""
        places = {}
        for axis in self._ranks.inner.groups:
            size = self._ranks.place(axis)[1]
            number, places[axis] = divmod(number, size)
        return places

    def _write(self, number: int, layer: Layer) -> Json:
        what = f"layer {legible.name(layer.name)}"
        try:
            if not self._sees_it:
                raise RecordError(
                    f"{self._folder}: the first rank has made it, and rank {self._ranks.number} does not see it; name "
                    "a folder that all ranks see"
                )
            kept = {} if self._keeps is None else {"kept": self._keeps(layer.name)}
            return write_layer(self._folder, manifests.file_of(number), layer, self._run) | kept
        except OSError as error:
            raise RecordError(
                f"{self._folder}: {described(error)} while writing {what}; the record of the layers before it can be "
                "opened"
            ) from error
        except RecordError:
            raise
        except ValueError as error:
            raise RecordError(
                f"{self._folder}: {what} could not be read again, so it is not written: {error}"
            ) from error

    @property
    def _sees_it(self) -> bool:
        try:
            return manifests.read(self._folder).get("run") == self._run
        except RecordError:
            return False

    def _raise(self, every: Sequence[Any]) -> None:
        fault = next((one for one in every if isinstance(one, Exception)), None)
        if fault is not None:
            raise fault
