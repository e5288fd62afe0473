"""Answers a path and a query, whoever asks: the server, a widget's kernel side, or what writes a saved page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.record.layer import Layer
from pellucid.record.record import Record
from pellucid.viewer.browser import describe
from pellucid.viewer.browser.asked import Asked, RefusedError
from pellucid.viewer.browser.tiles import tile
from pellucid.viewer.browser.values import MOST, Answer, exact, joined_heads, logs, values
from pellucid.viewer.record_map import all_maps


class Answers:
    """What can be asked of some records.

    Args:
        records: by the ids that requests name.
        lesson: what `info` says of a lesson, if there is one.

    """

    def __init__(self, records: Mapping[str, Record], lesson: dict[str, Any] | None = None) -> None:
        self.records = dict(records)
        self.lesson = lesson

    def get(self, path: str, query: Mapping[str, str]) -> Answer:
        """The answer to a request; of one that cannot be answered, a status and a sentence."""
        try:
            if path not in _ROUTES:
                raise RefusedError(f"{path}: there is no such address; there are {', '.join(_ROUTES)}", 404)
            return _ROUTES[path](self, Asked(query))
        except RefusedError as refused:
            return as_json({"error": str(refused)}, refused.status)

    def record(self, asked: Asked) -> Record:
        """The record that is asked for. Raises RefusedError."""
        name = asked.query.get("record", next(iter(self.records), ""))
        if name not in self.records:
            raise RefusedError(f"record: there is no {name!r}; there are {', '.join(self.records)}", 404)
        return self.records[name]


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer in JSON; a lone surrogate is written as an escape."""
    return Answer(json.dumps(value, allow_nan=False).encode("ascii"), "application/json", status)


def _info(answers: Answers, asked: Asked) -> Answer:
    return as_json(describe.info(answers.records, answers.lesson))


def _tokens(answers: Answers, asked: Asked) -> Answer:
    return as_json(describe.tokens(answers.record(asked), asked.whole("sequence", 0, 1 << 27, 0)))


def _numbers(answers: Answers, asked: Asked) -> Answer:
    return as_json(describe.numbers(answers.record(asked)))


def _of_layer(answer: Callable[[Layer, Asked], Answer]) -> Callable[[Answers, Asked], Answer]:
    return lambda answers, asked: answer(asked.layer(answers.record(asked)), asked)


def _thumbs(layer: Layer, asked: Asked) -> Answer:
    maps = all_maps(layer, asked.whole("most", 1, 256, 48), asked.sequence(layer.batch))
    if maps is None:
        raise RefusedError("thumbs: the layer kept neither query and key nor a pooled map", 404)
    return logs(maps, "f16", maps.shape[1:] == (layer.q_len, layer.k_len))


def _overview(layer: Layer, asked: Asked) -> Answer:
    maps = all_maps(layer, 256, asked.sequence(layer.batch))
    if maps is None:
        raise RefusedError("overview: the layer kept neither query and key nor a pooled map", 404)
    chosen = joined_heads(maps[asked.heads(layer)], asked.one_of("over", ("mean", "max")))
    return logs(chosen, "f32", chosen.shape == (layer.q_len, layer.k_len))


def _window(layer: Layer, asked: Asked) -> Answer:
    queries, keys = asked.span("queries", layer.q_len), asked.span("keys", layer.k_len)
    return logs(_exact(layer, asked, queries, keys), "f32", True)


def _row(layer: Layer, asked: Asked) -> Answer:
    query = asked.whole("query", 0, layer.q_len - 1)
    return logs(_exact(layer, asked, slice(query, query + 1), slice(0, layer.k_len))[0], "f32", True)


def _column(layer: Layer, asked: Asked) -> Answer:
    key = asked.whole("key", 0, layer.k_len - 1)
    return logs(_exact(layer, asked, slice(0, layer.q_len), slice(key, key + 1))[:, 0], "f32", True)


def _exact(layer: Layer, asked: Asked, queries: slice, keys: slice) -> Tensor:
    if not layer.has_weights:
        raise RefusedError("the layer kept no query and key to compute exact weights from", 404)
    size = (queries.stop - queries.start) * (keys.stop - keys.start)
    if size > MOST:
        raise RefusedError(f"queries, keys: {size} weights are asked for at once, and {MOST} are the most")
    heads, over = asked.heads(layer), asked.one_of("over", ("mean", "max"))
    return exact(layer, asked.sequence(layer.batch), heads, queries, keys, over)


def _strip(layer: Layer, asked: Asked) -> Answer:
    names = tuple(strip["name"] for strip in describe.strips(layer))
    if asked.query.get("name") not in names:
        raise RefusedError(f"name: the layer has {', '.join(names)}, got {asked.query.get('name')!r}", 404)
    reading = layer.readings[asked.query["name"]][asked.sequence(layer.batch)][asked.heads(layer)].float()
    return values(joined_heads(reading, asked.one_of("over", ("mean", "max"))), "f32")


def _top(layer: Layer, asked: Asked) -> Answer:
    heads, sequence = asked.heads(layer), asked.sequence(layer.batch)
    if "topk" not in layer.readings or len(heads) != 1:
        raise RefusedError("top: the layer read no TopK, or heads is not one", 404)
    top = layer.topk
    keys, weights = top.keys[sequence, heads[0]].int(), top.weights[sequence, heads[0]].float().log()
    first, second = values(keys, "i32"), values(weights, "f32")
    return Answer(first.body + second.body, headers=first.headers)


def _align(answers: Answers, asked: Asked) -> Answer:
    record = answers.record(asked)
    layer = asked.layer(record)
    try:
        found = record.align([(layer.name, head) for head in asked.heads(layer)], sequence=asked.sequence(layer.batch))
    except (ValueError, IndexError) as error:
        raise RefusedError(f"align: {error}", 404) from error
    fields = ("rows", "keys", "starts", "stops")
    return as_json({name: torch.as_tensor(getattr(found, name)).tolist() for name in fields})


_ROUTES: dict[str, Callable[[Answers, Asked], Answer]] = {
    "api/info": _info,
    "api/tokens": _tokens,
    "api/numbers": _numbers,
    "api/thumbs": _of_layer(_thumbs),
    "api/overview": _of_layer(_overview),
    "api/tile": _of_layer(tile),
    "api/window": _of_layer(_window),
    "api/row": _of_layer(_row),
    "api/column": _of_layer(_column),
    "api/strip": _of_layer(_strip),
    "api/top": _of_layer(_top),
    "api/align": _align,
}
