"""What is said of a profile once it is written."""

from __future__ import annotations

import shlex
from pathlib import Path

from pellucid.capture.run.progress import in_words
from pellucid.legible import several
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.profile import Profile


def told_profile(path: Path, profile: Profile) -> str:
    """A profile that is written, in a sentence or some."""
    tokens = sum(corpus.tokens for corpus in profile.corpora)
    size = in_words(path.stat().st_size)
    parts = [
        f"wrote {path}: {several(profile.documents, 'document')}, {several(tokens, 'token')}, "
        f"{several(len(profile.heads), 'head')}, {size}"
    ]
    for corpus in profile.corpora:
        parts += _of_corpus(corpus)
    return "; ".join([*parts, f"pellucid show {shlex.quote(str(path))}"])


def _of_corpus(corpus: Corpus) -> list[str]:
    told = []
    if corpus.unread_count:
        first = corpus.unread[0]
        are = "was" if corpus.unread_count == 1 else "were"
        told.append(
            f"{several(corpus.unread_count, 'document')} {are} not read, the first {first.name}, which {first.reason}"
        )
    if corpus.cut:
        are = "was" if corpus.cut == 1 else "were"
        told.append(f"{corpus.cut:,} {are} cut, by {several(corpus.cut_tokens, 'token')} in all")
    return told
