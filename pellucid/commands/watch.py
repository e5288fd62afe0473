"""`pellucid watch`: runs a model over a text, and keeps what its attention did as a record on disk."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pellucid
from pellucid.capture.run.choice import Chosen
from pellucid.capture.run.modules import Modules
from pellucid.capture.run.progress import in_words
from pellucid.commands.console import tell, warnings_told
from pellucid.commands.errors import InputError, about
from pellucid.commands.reader import embedded_reader
from pellucid.demo.model.vocabulary import START, encode_target
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.writer import RecordWriter
from pellucid.record.layer import Span
from pellucid.record.record import Record

LARGEST_TEXT = 1 << 26  # bytes
KEPT_UP_TO = 4096  # tokens: longer texts keep query and key only if asked
MAP = 64  # bins either way of the pooled maps
LONG_MAP = 256  # of texts whose query and key are not kept, so that no finer map can be computed later
TOP = 8  # keys a query


@dataclass(frozen=True)
class Run:
    """A model that is ready to run, and the tokens of what it runs over.

    Attributes:
        model: what is watched.
        run: calls it once.
        tokens: what it reads, or, of a model that reads one text and writes another, what it writes.
        source_tokens: what such a model reads; None of any other.
        name: what the record calls it.

    """

    model: nn.Module
    run: Callable[[], Any]
    tokens: list[str]
    source_tokens: list[str] | None
    name: str
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the longer text."""
        return max(len(self.tokens), len(self.source_tokens or ()))


def run(options: argparse.Namespace) -> int:
    """Watch the model and write the record; the exit status.

    Raises:
        InputError: a text, the model, the record's place or an option cannot be used, or there is not enough memory.

    """
    text, target = _read("--text", options.text), _read("--target", options.target) if options.target else None
    segments = dict(options.segment or ())
    _check_place(options)
    prepared = embedded(text, target) if options.model is None else _of_transformers(options, text, target)
    _check_segments(segments, prepared)
    record = Record(prepared.name, tokens=[prepared.tokens], source_tokens=_as_batch(prepared.source_tokens))
    record.segments, record.notes = segments, [*prepared.notes]
    for note in prepared.notes:
        tell(f"warning: {note}")
    with _as_input_errors():
        keeps = Modules(prepared.model).chooser("keep", _keep(options, prepared))
        writer = RecordWriter(options.out, record, overwrite=options.overwrite, resume=options.resume, keeps=keeps)
    if not options.layers and _holds_all(writer, prepared.model):
        writer.finish(record)
        tell(f"{options.out} holds every layer already")
        return 0
    with _closing(writer, record), _as_input_errors(), warnings_told(), torch.inference_mode():
        _watch(options, prepared, record, writer)
    _report(options.out, writer)
    return 0


def _watch(options: argparse.Namespace, prepared: Run, record: Record, writer: RecordWriter) -> None:
    bins = MAP if prepared.length <= KEPT_UP_TO else LONG_MAP
    watching = pellucid.watch(
        prepared.model,
        layers=options.layers or True,
        keep=_keep(options, prepared),
        more=[pellucid.TopK(TOP), pellucid.Pooled(bins, bins), pellucid.PooledMax(bins, bins)],
        tokens=record.tokens,
        source_tokens=record.source_tokens,
        segments=record.segments,
        out=writer,
        progress=sys.stderr.isatty(),
    )
    record.complete = False
    with watching as seen:
        prepared.run()
    record.token_ids, record.missed, record.complete = seen.token_ids, seen.missed, True


def _keep(options: argparse.Namespace, prepared: Run) -> Chosen:
    if not options.keep:
        return prepared.length <= KEPT_UP_TO
    return {"all": True, "none": False}.get(options.keep[0], options.keep)


# The models.


def _of_transformers(options: argparse.Namespace, text: str, target: str | None) -> Run:
    from pellucid.commands.models import load_model

    loaded = load_model(options.model)
    if loaded.writes_from_source and target is None:
        raise InputError(f"--target: {options.model} reads one text and writes another; give the one that it writes")
    if target is not None and not loaded.writes_from_source:
        raise InputError(f"--target: {options.model} reads one text only; leave it out")
    given = loaded.given(text, target, truncate=options.truncate)
    return Run(
        loaded.model,
        lambda: loaded.model(**given.inputs),
        given.tokens,
        given.source_tokens,
        f"{type(loaded.model).__name__} {'/'.join(Path(options.model).parts[-2:])}",
        loaded.notes + given.notes,
    )


def embedded(text: str, target: str | None = None) -> Run:
    """The embedded model and a date. Raises InputError where it cannot read that."""
    if target is not None:
        raise InputError("--target: the embedded model writes the date itself; leave it out, or name a --model")
    reader = embedded_reader()
    with about("--text: "):
        reading = reader.read(text.strip())
    written = [START, *reading.target[:-1]]
    inputs = [reader.vocabulary.encode("".join(reading.source))], [encode_target("".join(written))]
    return Run(
        reader,
        lambda: reader(*map(torch.tensor, inputs)),
        written,
        list(reading.source),
        f"the embedded date reader, which answers {reading.answer}",
    )


# Options.


def _read(option: str, path: str) -> str:
    source = f"{option} {path}: "
    with about(source):
        if path == "-":
            content = sys.stdin.buffer.read(LARGEST_TEXT + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise InputError(f"{source}is larger than {LARGEST_TEXT >> 20} MiB; give a shorter text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}is no UTF-8 text (byte 0x{content[error.start]:02x} at {error.start})") from error
    if not text.strip():
        raise InputError(f"{source}is empty; write a text into it")
    return text


def _check_place(options: argparse.Namespace) -> None:
    """Raise what is wrong with the place of the record before a model is loaded for it."""
    if options.resume or options.overwrite:
        return
    path = Path(options.out)
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file; name a folder, such as run.attn")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"--out {path}: is there already; --overwrite it, --resume it, or name another")


def _check_segments(segments: dict[str, Span], prepared: Run) -> None:
    for name, span in segments.items():
        tokens = prepared.source_tokens if name.startswith("source.") else prepared.tokens
        if tokens is None:
            raise InputError(f"--segment {name}: the model reads one text only; give a name without 'source.'")
        if isinstance(span, slice) and (span.start or 0) >= len(tokens):
            raise InputError(f"--segment {name}: begins at token {span.start}, and the text has {len(tokens)}")
        if isinstance(span, slice) and (span.stop or 0) > len(tokens):
            raise InputError(
                f"--segment {name}: ends at token {span.stop}, and the text has {len(tokens)}; "
                f"to its end is {name}={span.start or 0}:"
            )


def _holds_all(writer: RecordWriter, model: nn.Module) -> bool:
    """Whether a record that is resumed came to its end with every layer of the model."""
    return writer.was_complete and set(Modules(model).expected) <= set(writer.written)


def _as_batch(tokens: list[str] | None) -> list[list[str]] | None:
    return None if tokens is None else [tokens]


# What goes wrong.


@contextmanager
def _closing(writer: RecordWriter, record: Record) -> Iterator[None]:
    """Complete the record however the run ends, and say what is left of one that was interrupted."""
    try:
        yield
    except BaseException as error:
        with _as_input_errors(quiet=True):
            writer.close(record)
        if isinstance(error, KeyboardInterrupt) and writer.written:
            held = f"{writer.folder} holds {len(writer.written)} layers, --resume goes on with the others"
            raise KeyboardInterrupt(held) from None
        raise
    with _as_input_errors():
        writer.close(record)


@contextmanager
def _as_input_errors(quiet: bool = False) -> Iterator[None]:
    try:
        yield
    except RecordError as error:
        if not quiet:
            raise InputError(f"--out {error}") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{error}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError("there is not enough memory; give a shorter text, or --keep none") from error


def _report(path: str, writer: RecordWriter) -> None:
    record = pellucid.open_record(path)
    heads = sum(layer.heads for layer in record.values())
    size = sum(file.stat().st_size for file in writer.folder.iterdir())
    quoted = shlex.quote(path)
    ways = f"pellucid show {quoted}, or in the browser: pellucid view {quoted}"
    tell(f"wrote {path}: {len(record)} layers, {heads} heads, {in_words(size)}; {ways}")
