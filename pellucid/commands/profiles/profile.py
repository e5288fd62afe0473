"""`pellucid profile`: a model run over a corpus, and what every head does summed up in one file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pellucid import legible
from pellucid.commands.console import bar, tell
from pellucid.commands.errors import InputError, about
from pellucid.commands.profiles import ranks
from pellucid.commands.profiles.reader import CorpusReader, load_reader
from pellucid.commands.profiles.telling import told_profile
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.disk.form import ProfileError
from pellucid.profiles.measuring.classes import TokenClasses
from pellucid.profiles.profile import Profile
from pellucid.profiles.reading.texts import Texts
from pellucid.profiles.running.keeping import Kept, resumed
from pellucid.profiles.running.reader import fingerprint
from pellucid.profiles.running.run import Progress
from pellucid.profiles.running.run import run as run_shard
from pellucid.profiles.running.work import Missed, Work

Told = Callable[[Progress], None]

_EVERY = 60.0  # seconds between lines of progress where there is no terminal


def run(options: argparse.Namespace) -> int:
    """Run the model over the corpus and write the profile; the exit status.

    Raises:
        InputError: the corpus, the model, the file's place or an option cannot be used.

    """
    with about(f"--texts {options.texts}: "):
        texts = Texts(options.texts, options.field, options.target_field)
        corpus = Corpus(texts.name, texts.identity())
    with about("--pattern: "):
        _patterns(options)
    with ranks.held(options, texts) as place:
        return _run(options, texts, corpus, place)


def _run(options: argparse.Namespace, texts: Texts, corpus: Corpus, place: ranks.Place) -> int:
    if options.ray and (place.is_part or options.shard):
        raise InputError("--ray: shares the corpus out itself; leave out --shard, and torchrun")
    reader = load_reader(options.model, options.max_tokens, writes=options.target_field is not None)
    work = _work(options, corpus, reader, texts)
    _begin(texts, reader, options)
    with _as_input_errors(place.path):
        kept = resumed(place.path, work.blank()) if place.goes_on else Kept(place.path, work.blank())
        missed = _read(_way(options, work, reader, texts, place), kept, texts)
        written = place.ended(kept.profile)
    _tell_missed(missed)
    if written is not None:
        _tell_written(*written)
    return 0


def _tell_written(path: Path, profile: Profile) -> None:
    """Say what was written. A profile of a whole corpus of which nothing could be read is none."""
    corpus = profile.corpora[0]
    if profile.documents or not profile.complete:
        tell(told_profile(path, profile))
        return
    path.unlink(missing_ok=True)
    first = corpus.unread[0]
    count = f"none of its {corpus.unread_count:,} documents" if corpus.unread_count > 1 else "its only document"
    could = "could" if corpus.unread_count > 1 else "could not"
    raise InputError(
        f"--texts {corpus.name}: {count} {could} be read, so there is no profile; "
        f"{'the first, ' if corpus.unread_count > 1 else ''}{first.name}, {first.reason}"
    )


def _work(options: argparse.Namespace, corpus: Corpus, reader: CorpusReader, texts: Texts) -> Work:
    settings = {"documents": texts.way, "field": options.field, "max_tokens": reader.limit, "dtype": _dtype(reader)}
    if options.target_field is not None:
        settings["target_field"] = options.target_field
    return Work(
        corpus,
        reader.name,
        fingerprint(reader.model),
        settings,
        _patterns(options),
        options.long,
        options.batch_tokens,
        options.examples,
    )


def _patterns(options: argparse.Namespace) -> dict[str, str]:
    """The user's token classes. Raises ValueError for a name that is given twice or is taken."""
    given = options.pattern or ()
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{legible.name(name)}: is given {names.count(name)} times; give each class its own name")
    found = dict(given)
    TokenClasses(found)
    return found


def _dtype(reader: CorpusReader) -> str:
    return str(next(iter(reader.model.parameters())).dtype).removeprefix("torch.")


def _begin(texts: Texts, reader: CorpusReader, options: argparse.Namespace) -> None:
    for note in reader.loaded.notes:
        tell(f"warning: {note}")
    way = "are cut to that" if options.long == "cut" else "are left out"
    longer = "" if reader.limit is None else f"; documents of more than {legible.several(reader.limit, 'token')} {way}"
    tell(f"{texts.name}: a document is {texts.way}{longer}")


def _way(
    options: argparse.Namespace, work: Work, reader: CorpusReader, texts: Texts, place: ranks.Place
) -> Callable[[Kept, Told], tuple[int, Missed]]:
    """What reads the corpus into what is kept."""
    if options.ray:
        from pellucid.commands.profiles import on_ray

        given = on_ray.Given(_everywhere(options.model), options.max_tokens, work)
        return lambda kept, told: on_ray.run(given, texts, kept, options.ray, told)
    elsewhere = place.elsewhere()
    return lambda kept, told: run_shard(
        work, reader, texts, kept,
        shard=place.shard, elsewhere=elsewhere, keeps_nothing=not place.is_part, told=told,
    )  # fmt: skip


def _everywhere(model: str) -> str:
    """A model's name as other processes find it: a folder's from the root on."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _read(way: Callable[[Kept, Told], tuple[int, Missed]], kept: Kept, texts: Texts) -> Missed:
    """Read the corpus; the attention modules that were not observed."""
    try:
        with _progress(texts.name) as told:
            total, missed = way(kept, told)
    except KeyboardInterrupt:
        kept.save()
        raise KeyboardInterrupt(_held(kept)) from None
    except ProfileError as error:  # a full disk
        raise ProfileError("; ".join([str(error), *([_held(kept)] if kept.held else [])])) from error
    if not total:
        raise InputError(f"--texts {texts.path}: holds no document; give texts")
    return missed


def _held(kept: Kept) -> str:
    return f"{kept.path} holds {legible.several(kept.held, 'document')}, --resume goes on with the others"


def _tell_missed(missed: Missed) -> None:
    if missed.reasons:
        few = "; ".join(f"{name}: {reason}" for name, reason in [*missed.reasons.items()][:3])
        tell(f"warning: {len(missed.reasons)} attention modules were not observed: {few}")


@contextmanager
def _progress(name: str) -> Iterator[Told]:
    """What tells how far a run is: a bar in a terminal, elsewhere a line a minute."""
    if sys.stderr.isatty():
        with bar(legible.name(name)) as told:
            yield lambda progress: told(progress.share)
        return
    start = last = time.monotonic()

    def line(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY or not progress.share:
            return
        last = now
        left = round((now - start) * (1 - progress.share) / progress.share / 60)
        told = f"about {left} min left" if left else "less than a minute left"
        tell(f"{legible.several(progress.documents, 'document')}, {progress.share:.0%} of {legible.name(name)}, {told}")

    yield line


@contextmanager
def _as_input_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ProfileError as error:
        raise InputError(f"--out {error}") from error
    except ModuleNotFoundError as error:
        raise InputError(f"--texts: needs {error.name}, which is not installed; pip install {error.name}") from error
    except ValueError as error:
        raise InputError(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(
            f"there is not enough memory; --resume goes on with {path}, and fewer --max-tokens need less"
        ) from error
