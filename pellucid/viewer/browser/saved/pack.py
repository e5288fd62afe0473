"""What a saved page holds: answers, each asked once, packed while there is room."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Mapping
from typing import Any

from pellucid.viewer.browser.values import Answer, Answering

_PAUSE = 0.1  # seconds until something that is being built is asked for again


class Pack:
    """Answers by the names that the saved page looks them up by (embedded.js), within a number of bytes.

    Args:
        answers: what is asked.
        limit: bytes in all.

    Attributes:
        held: what the page is given.
        used: bytes that it takes.

    """

    def __init__(self, answers: Answering, limit: int) -> None:
        self.answers = answers
        self.limit = limit
        self.held: dict[str, dict[str, str]] = {}
        self.used = 0

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self.limit - self.used

    def ask(self, path: str, query: Mapping[str, Any]) -> Answer:
        """The answer, once it is built."""
        text = {name: str(value) for name, value in query.items()}
        while (answer := self.answers.get(path, text)).status == 202:
            time.sleep(_PAUSE)
        return answer

    def take(self, parts: Mapping[str, tuple[str, Mapping[str, Any]]], most: int | None = None) -> bool:
        """Hold the answers to some questions, all of them or, where they are too large or one is refused, none.

        Args:
            parts: path and query of each, by its name in the page.
            most: bytes that they may take; all that are left if None.

        Returns:
            Whether they are held.

        """
        room = self.left if most is None else min(most, self.left)
        packed: dict[str, dict[str, str]] = {}
        for name, (path, query) in parts.items():
            if name in self.held:
                continue
            answer = self.ask(path, query)
            if answer.status != 200:
                return False
            packed[name] = packed_of(answer)
            room -= size_of(name, packed[name])
            if room < 0:
                return False
        self.held |= packed
        self.used += sum(size_of(name, one) for name, one in packed.items())
        return True


def packed_of(answer: Answer) -> dict[str, str]:
    """An answer as text: its bytes deflated, in base64."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = base64.b64encode(packer.compress(answer.body) + packer.flush()).decode("ascii")
    named = {"shape": "X-Shape", "dtype": "X-Dtype", "exact": "X-Exact", "bins": "X-Bins"}
    return {name: answer.headers.get(header, "") for name, header in named.items()} | {"body": body}


def size_of(name: str, packed: Mapping[str, str]) -> int:
    """About what it takes in the page."""
    return len(name) + sum(map(len, packed.values())) + 60
