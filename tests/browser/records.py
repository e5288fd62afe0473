"""Records for the page to show: small ones of random queries and keys, made without a model."""

from __future__ import annotations

from dataclasses import replace

import torch

import pellucid
from pellucid.record.observed import record_of

ODD = [
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 2'>",
    "&amp;",
    "👩‍👩‍👧",
    "שלום",
    "\u202eabc",
    "line\nfeed",
    "\ud800",
    "x" * 10_000,
    "",
    " ",
    "</script>",
    "${broken}",
    "' onmouseover='window.broken = 3",
    "\x00",
    "é",
]
TEXT = "the old man and the sea saw the young man at the sea and said to the man : the sea is old"
WORDS = TEXT.split()


def layer(name: str, heads: int, q_len: int, k_len: int, causal: bool = False, role: str | None = None, seed: int = 1):
    """An observed layer; its last head looks at the token before, its first at what is alike."""
    torch.manual_seed(seed)
    query, key = torch.randn(heads, q_len, 8) * 2, torch.randn(heads, k_len, 8) * 2

    def before(score, b, h, q, k):
        return score + torch.where((h == heads - 1) & (k == q - 1), 12.0, 0.0)

    readouts = [pellucid.Entropy(), pellucid.Received(), pellucid.TopK(min(5, k_len))]
    _, seen = pellucid.observe(query, key, key, is_causal=causal, score_mod=before, readouts=readouts)
    found = record_of(seen, role=role)[0]
    return replace(found, name=name)


def sentence(tokens: list[str] | None = None) -> pellucid.Record:
    """An encoder, a decoder and its cross-attention over some words."""
    own = WORDS if tokens is None else tokens
    source = own[::-1][: max(1, len(own) - 3)]
    layers = [
        layer("encoder.0", 3, len(source), len(source)),
        layer("decoder.0.self", 4, len(own), len(own), causal=True, seed=2),
        layer("decoder.0.cross", 4, len(own), len(source), role="cross", seed=3),
    ]
    record = pellucid.Record("Tiny", {one.name: one for one in layers}, tokens=[own], source_tokens=[source])
    record.notes = ["made for a test"]
    record.missed = [pellucid.Missed("decoder.1", "its softmax is hidden")]
    return record


def long(length: int = 3000) -> pellucid.Record:
    """One head over thousands of tokens."""
    found = layer("long", 1, length, length, causal=True)
    texts = [f"w{number}" if number % 7 else " the" for number in range(length)]
    return pellucid.Record("Long", {found.name: found}, tokens=[texts])
