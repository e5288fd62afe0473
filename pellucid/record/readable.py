r"""Tokens as they read, made of their ids by the tokenizer that knows how they are written.

Tokenizers of bytes write each byte as some printable character (für as fÃ¼r, a space as Ġ), others write a space as ▁.
Which of it a tokenizer does it says itself, by its decoder or pre-tokenizer; it is never guessed from a token.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

Bytes = Callable[[str], bytes | None]  # the bytes that a token stands for, None where it is text


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    r"""The texts of a sequence's tokens, a space before a word as a space.

    A character whose bytes are shared out over several tokens is that of the last of them, and those before have no
    text of their own; joined, the texts are what was written. Bytes that are no UTF-8 read \xNN.

    Args:
        tokenizer: of transformers, or of the tokenizers library.
        ids: of one sequence.

    """
    numbers = [int(number) for number in ids]
    writing = _Writing.of(tokenizer)
    texts: list[str] = []
    decoder = _Decoder(texts)
    for number, name in zip(numbers, _names(tokenizer, numbers), strict=True):
        if name is None:
            decoder.add_text(f"[{number}]")
            continue
        own = None if number in writing.added else writing.bytes_of(name)
        if own is None:
            decoder.add_text(name if number in writing.added else writing.text_of(name))
        else:
            decoder.add_bytes(own)
    decoder.end()
    return texts


def _names(tokenizer: Any, ids: list[int]) -> list[str | None]:
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return list(tokenizer.convert_ids_to_tokens(ids))
    return [tokenizer.id_to_token(number) for number in ids]


class _Decoder:
    """Puts texts at the end of a list, one a token."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._last = -1  # the last token of bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def add_bytes(self, own: bytes) -> None:
        self._last = len(self._texts)
        self._texts.append(self._utf8.decode(own))

    def add_text(self, text: str) -> None:
        self.end()
        self._texts.append(text)

    def end(self) -> None:
        """Tell the bytes that were to be continued and are not, at the token that had them."""
        if left := self._utf8.decode(b"", final=True):
            self._texts[self._last] += left


@dataclass(frozen=True)
class _Writing:
    """How a tokenizer writes its tokens."""

    bytes_of: Bytes
    space: str | None  # what stands for a space
    added: frozenset[int]  # ids of tokens that are written as they read

    @classmethod
    def of(cls, tokenizer: Any) -> _Writing:
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        parts = [part for name in ("decoder", "pre_tokenizer") for part in _parts(getattr(backend, name, None))]
        kinds = {part.get("type") for part in parts}
        if "ByteLevel" in kinds or hasattr(tokenizer, "byte_decoder"):
            bytes_of: Bytes = partial(_of_alphabet, _BYTE_LEVEL)
        elif hasattr(tokenizer, "_utf_vocab_size"):  # ByT5 and its like, of which each token is a byte
            bytes_of = partial(_of_alphabet, _LATIN)
        else:
            bytes_of = _of_number if "ByteFallback" in kinds or hasattr(tokenizer, "sp_model") else _of_nothing
        return cls(bytes_of, _space(parts, tokenizer), _added(tokenizer))

    def text_of(self, name: str) -> str:
        return name if self.space is None else name.replace(self.space, " ")


def _parts(part: Any) -> list[dict[str, Any]]:
    """What a part of a tokenizer says of itself, and of those that it is put together of."""
    if part is None or not hasattr(part, "__getstate__"):
        return []
    try:
        state = json.loads(part.__getstate__())
    except (TypeError, ValueError):  # a part that is written in Python
        return []
    return list(_within(state))


def _within(state: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield state
    for name in ("decoders", "pretokenizers"):
        for inner in state.get(name, ()):
            yield from _within(inner)


def _space(parts: list[dict[str, Any]], tokenizer: Any) -> str | None:
    for part in parts:
        if part.get("type") == "Metaspace":
            return str(part.get("replacement", "▁"))
        if part.get("type") == "Replace" and part.get("content") == " ":
            pattern = part.get("pattern", {}).get("String")
            if pattern:
                return str(pattern)
    return "▁" if hasattr(tokenizer, "sp_model") else None


def _added(tokenizer: Any) -> frozenset[int]:
    if hasattr(tokenizer, "get_added_vocab"):
        return frozenset(tokenizer.get_added_vocab().values())
    return frozenset(getattr(tokenizer, "get_added_tokens_decoder", dict)())


# The bytes that a token stands for.


def _alphabet() -> dict[str, int]:
    """The characters of GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_LEVEL = _alphabet()
_LATIN = {chr(byte): byte for byte in range(256)}


def _of_alphabet(alphabet: dict[str, int], name: str) -> bytes | None:
    try:
        return bytes([alphabet[character] for character in name])
    except KeyError:
        return None


def _of_number(name: str) -> bytes | None:
    """The byte that is written <0xNN>."""
    is_byte = len(name) == 6 and name.startswith("<0x") and name.endswith(">")
    try:
        return bytes([int(name[3:5], 16)]) if is_byte else None
    except ValueError:
        return None


def _of_nothing(name: str) -> bytes | None:
    return None
