"""What is said of a profile once it is written."""

from __future__ import annotations

import shlex
from pathlib import Path

from pellucid.capture.run.progress import in_words
from pellucid.profiles.corpus import Corpus
from pellucid.profiles.profile import Profile


def told_profile(path: Path, profile: Profile) -> str:
    """A profile that is written, in a sentence or some."""
    tokens = sum(corpus.tokens for corpus in profile.corpora)
    size = in_words(path.stat().st_size)
    parts = [f"wrote {path}: {profile.documents:,} documents, {tokens:,} tokens, {len(profile.heads)} heads, {size}"]
    for corpus in profile.corpora:
        parts += _of_corpus(corpus)
    return "; ".join([*parts, f"pellucid show {shlex.quote(str(path))}"])


def _of_corpus(corpus: Corpus) -> list[str]:
    told = []
    if corpus.unread_count:
        first = corpus.unread[0]
        are = "document was" if corpus.unread_count == 1 else "documents were"
        told.append(f"{corpus.unread_count:,} {are} not read, the first {first.name}, which {first.reason}")
    if corpus.cut:
        are = "was" if corpus.cut == 1 else "were"
        told.append(f"{corpus.cut:,} {are} cut, by {corpus.cut_tokens:,} tokens in all")
    return told
