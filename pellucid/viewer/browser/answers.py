"""Answers a path and a query, whoever asks: the server, a widget's kernel side, or what writes a saved page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid import legible
from pellucid.record.disk.manifest import RecordError
from pellucid.record.record import Record
from pellucid.record.stored import StoredRecord
from pellucid.viewer.browser import describe, media
from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.place import BuildingError, Place
from pellucid.viewer.browser.pyramid.background import Background
from pellucid.viewer.browser.tiles import tile
from pellucid.viewer.browser.values import MOST, Answer, joined_heads, logs, values
from pellucid.viewer.browser.wholes import overview, thumbs

TOP = 8  # keys a query, where the record has not more


class Answers:
    """What can be asked of some records. To be closed when nobody asks any more.

    Args:
        records: by the ids that requests name.
        lesson: what `info` says of a lesson, if there is one.
        opens: by record, the lines of Python that make `record` of it, of those that no file is known of.

    """

    index = "index.html"  # the page's first file

    def __init__(
        self,
        records: Mapping[str, Record],
        lesson: dict[str, Any] | None = None,
        opens: Mapping[str, str] | None = None,
    ) -> None:
        self.records: dict[str, Record] = dict(records)
        self.lesson = lesson
        self.opens = dict(opens or {})
        self.background = Background()

    def get(self, path: str, query: Mapping[str, str]) -> Answer:
        """The answer to a request; of one that cannot be answered, a status and a sentence."""
        try:
            return _ROUTES.get(path, _unknown)(self, Asked(query, path))
        except BuildingError as building:
            return as_json({"building": building.fraction}, 202)
        except Exception as error:  # whoever asked is told; a page in a browser can do nothing with a traceback
            return as_json({"error": told(error)}, status_of(error))

    def close(self) -> None:
        """End what is computed in the background."""
        self.background.close()

    def follow(self) -> None:
        """Open records again that have been written to, and leave out layers that are damaged by now."""
        for name, record in list(self.records.items()):
            if isinstance(record, StoredRecord):
                newest = record.newest()
                newest.leave_out_damaged()
                self.records[name] = newest

    def record(self, asked: Asked) -> Record:
        """The record that is asked for. Raises RefusedError."""
        name = asked.query.get("record", next(iter(self.records), ""))
        if name not in self.records:
            known = ", ".join(map(legible.name, self.records))
            raise RefusedError(f"record: there is no {legible.quoted(name)}; there are {known}", 404)
        record = self._as_it_is(name)
        if asked.query.get("edition", record.edition) != record.edition:
            raise RefusedError("edition: the record has changed since then; ask for api/info again", 409)
        return record

    def _as_it_is(self, name: str) -> Record:
        """A record, opened again if that of another run has taken its place."""
        record = self.records[name]
        if isinstance(record, StoredRecord) and record.complete and (newest := record.newest()) is not record:
            newest.leave_out_damaged()
            self.records[name] = newest
        return self.records[name]

    def place(self, asked: Asked) -> Place:
        """The layer that is asked for. Raises RefusedError."""
        record = self.record(asked)
        return Place(record, asked.layer(record), asked, self.background)


def told(error: Exception) -> str:
    """What went wrong, in one sentence."""
    if isinstance(error, RefusedError | RecordError):
        return str(error)
    if _is_of_memory(error):
        return "there is not enough memory for this; ask for less at a time"
    words = error.strerror if isinstance(error, OSError) else None
    return legible.message(f"this cannot be answered: {words or f'{type(error).__name__}: {error}'}")


def status_of(error: Exception) -> int:
    """The status of HTTP that says what kind of failure it is."""
    if isinstance(error, RefusedError):
        return error.status
    return 507 if isinstance(error, OSError) or _is_of_memory(error) else 500


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer in JSON; a lone surrogate is written as an escape, and so is what would begin a tag in HTML."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return Answer(text.encode("ascii"), "application/json", status)


def _unknown(answers: Answers, asked: Asked) -> Answer:
    known = ", ".join(_ROUTES)
    raise RefusedError(f"{legible.name(asked.path)}: there is no such address; there are {known}", 404)


def _info(answers: Answers, asked: Asked) -> Answer:
    answers.follow()
    return as_json(describe.info(answers.records, answers.lesson, answers.opens))


def _tokens(answers: Answers, asked: Asked) -> Answer:
    return as_json(describe.tokens(answers.record(asked), asked.whole("sequence", 0, 1 << 27, 0)))


def _numbers(answers: Answers, asked: Asked) -> Answer:
    return as_json(describe.numbers(answers.record(asked)))


def _of_layer(answer: Callable[[Place], Answer]) -> Callable[[Answers, Asked], Answer]:
    return lambda answers, asked: answer(answers.place(asked))


def _window(place: Place) -> Answer:
    queries, keys = place.asked.span("queries", place.layer.q_len), place.asked.span("keys", place.layer.k_len)
    return logs(_exact(place, queries, keys), "f32", True)


def _row(place: Place) -> Answer:
    query = place.asked.whole("query", 0, place.layer.q_len - 1)
    return logs(_exact(place, slice(query, query + 1), slice(0, place.layer.k_len))[0], "f32", True)


def _column(place: Place) -> Answer:
    key = place.asked.whole("key", 0, place.layer.k_len - 1)
    return logs(_exact(place, slice(0, place.layer.q_len), slice(key, key + 1))[:, 0], "f32", True)


def _exact(place: Place, queries: slice, keys: slice) -> Tensor:
    shown = place.shown()
    size = (queries.stop - queries.start) * (keys.stop - keys.start)
    if size > MOST:
        raise RefusedError(f"queries, keys: {size} weights are asked for at once, and {MOST} are the most")
    with place.background.giving_way():
        return shown.exact(queries, keys)


def _strip(place: Place) -> Answer:
    layer, name = place.layer, place.asked.query.get("name", "")
    names = tuple(strip["name"] for strip in describe.strips(layer))
    if name not in names:
        raise RefusedError(f"name: the layer has {', '.join(names)}, got {legible.quoted(name)}", 404)
    reading = layer.readings[name][place.sequence][place.heads].detach().float()
    return values(joined_heads(reading, place.over), "f32")


def _top(place: Place) -> Answer:
    heads, sequence, layer = place.heads, place.sequence, place.layer
    if len(heads) != 1:
        raise RefusedError(f"heads: one head's strongest keys are told at a time, got {len(heads)}")
    if "topk" in layer.readings:
        top = layer.topk
        keys, weights = top.keys[sequence, heads[0]], top.weights[sequence, heads[0]]
    elif describe.has_top(layer):
        weights, keys = place.shown().exact(slice(0, layer.q_len), slice(0, layer.k_len)).topk(min(TOP, layer.k_len))
        keys = keys.masked_fill(weights.isnan(), -1)
    else:
        raise RefusedError("top: the layer read no TopK; watch with more=[pellucid.TopK(8)]", 404)
    first, second = values(keys.int(), "i32"), values(weights.float().log(), "f32")
    return Answer(first.body + second.body, headers=first.headers)


def _align(place: Place) -> Answer:
    layer = place.layer
    try:
        found = place.record.align([(layer.name, head) for head in place.heads], sequence=place.sequence)
    except (ValueError, IndexError) as error:
        raise RefusedError(str(error), 404) from error
    fields = ("rows", "keys", "starts", "stops")
    return as_json({name: torch.as_tensor(getattr(found, name), device="cpu").tolist() for name in fields})


def _picture(answers: Answers, asked: Asked) -> Answer:
    return media.picture(answers.record(asked), asked)


_ROUTES: dict[str, Callable[[Answers, Asked], Answer]] = {
    "api/info": _info,
    "api/tokens": _tokens,
    "api/numbers": _numbers,
    "api/thumbs": _of_layer(thumbs),
    "api/overview": _of_layer(overview),
    "api/tile": _of_layer(tile),
    "api/window": _of_layer(_window),
    "api/row": _of_layer(_row),
    "api/column": _of_layer(_column),
    "api/strip": _of_layer(_strip),
    "api/top": _of_layer(_top),
    "api/align": _of_layer(_align),
    "api/picture": _picture,
}
