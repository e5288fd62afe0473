"""What goes into a saved page, the most needed first, and what is said to be left out.

Names, tokens and numbers are always inside, and the windows that were asked for. Then small layers whole, a map of
every head, and, as far as there is room, what runs along the axes, the strongest keys, alignments, and finer maps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from pellucid import legible
from pellucid.viewer.browser import describe
from pellucid.viewer.browser.answers import Answers, as_json
from pellucid.viewer.browser.saved.pack import Pack, packed_of, size_of
from pellucid.viewer.browser.tiles import SIDE

Json = dict[str, Any]
Window = tuple[str | int, int, slice | None, slice | None]
Told = Callable[[float, str], None]
Parts = dict[str, tuple[str, Json]]

_POOLS = ("mean", "max")
_SIDES = (256, 192, 128, 96, 64, 48)  # bins of a head's map
_TEXT = 1.3  # bytes of base64 for a byte, and what its name takes
_FOR_WHOLE = 0.7  # of what is left, at most, for whole layers; and for maps


class Gathering:
    """Fills a page within a number of bytes.

    Args:
        answers: what is asked.
        limit: bytes of all answers together.
        windows: what is inside exactly in any case.
        told: is called with how much is done, from 0 to 1, and with what is asked for next.

    Raises:
        ValueError: what is always inside does not fit, or a window is none of the first record's.

    """

    def __init__(self, answers: Answers, limit: int, windows: Sequence[Window], told: Told) -> None:
        self.pack = Pack(answers, limit)
        self.told = told
        self.info: Json = json.loads(self.pack.ask("api/info", {}).body)
        self.windows = windows
        self.left_out: list[str] = []
        self._layers = [(record, layer) for record in self.info["records"] for layer in record["layers"]]

    def run(self) -> dict[str, Json]:
        """The answers by name."""
        self.pack.used += size_of("api/info", packed_of(as_json(self.info)))
        first = (self._basics, self._windows, self._whole, self._maps)
        steps = (*first, self._strips, self._top, self._others, self._finer)
        for number, step in enumerate(steps):
            self.told(number / len(steps), "saving")
            step()
        for record in self.info["records"]:
            self._without_place(record)
        self.info["left_out"] = self.left_out
        return {**self.pack.held, "api/info": packed_of(as_json(self.info))}

    def _basics(self) -> None:
        for record in self.info["records"]:
            name = record["id"]
            parts: Parts = {f"api/numbers {name}": ("api/numbers", {"record": name})}
            for sequence in range(max(record["batch"], 1)):
                query = {"record": name, "sequence": sequence}
                parts[f"api/tokens {name} {sequence}"] = ("api/tokens", query)
            if not self.pack.take(parts):
                raise ValueError(f"max_bytes: tokens and numbers of {legible.name(record['title'])} alone do not fit")

    def _windows(self) -> None:
        if self.windows and not self._layers:
            raise ValueError("windows: the record holds no layer")
        for window in self.windows:
            if not self.pack.take(self._parts_of(window)):
                raise ValueError(
                    f"max_bytes: the window {_shown(window)} does not fit, or its layer has no exact weights"
                )

    def _parts_of(self, window: Window) -> Parts:
        which, head, *spans = window
        record = self.info["records"][0]
        found = [layer for layer in record["layers"] if which in (layer["name"], layer["number"])]
        if not found or not isinstance(head, int) or not 0 <= head < found[0]["heads"]:
            raise ValueError(f"windows: no layer and head of {legible.name(record['title'])}: {_shown(window)}")
        lengths = (found[0]["q_len"], found[0]["k_len"])
        rows, columns = (_tiles(span or slice(None), length) for span, length in zip(spans, lengths, strict=True))
        return _exact(record, found[0], [head], rows, columns)

    def _whole(self) -> None:
        reserved = _TEXT * sum(_map_bytes(layer, _SIDES[-1]) for _, layer in self._layers)
        room = int((self.pack.left - reserved) * _FOR_WHOLE)
        left_out = []
        for record, layer in sorted(self._layers, key=lambda both: _pairs(both[1])):
            if not layer["exact"]:
                continue
            before = self.pack.used
            rows, columns = (range(-(-layer[length] // SIDE)) for length in ("q_len", "k_len"))
            fits = _pairs(layer) < room  # a weight in a byte is less than any takes that is not masked
            parts = _exact(record, layer, range(layer["heads"]), rows, columns) if fits else {}
            layer["exact"] = fits and self.pack.take(parts, room)
            room -= self.pack.used - before
            if not layer["exact"]:
                left_out.append(layer["name"])
        self._say(left_out, "exact weights, but for windows that were chosen" if self.windows else "exact weights")

    def _maps(self) -> None:
        room = self.pack.left * _FOR_WHOLE
        sides = (side for side in _SIDES if _TEXT * sum(_map_bytes(layer, side) for _, layer in self._layers) <= room)
        side = next(sides, _SIDES[-1])
        left_out = []
        for record, layer in self._layers:
            own = _SIDES[-1] if layer["exact"] else side
            if layer["map"]:
                layer["map"] = self.pack.take(_thumbs(record, layer, own)) or layer["exact"]
                left_out += [] if layer["map"] else [layer["name"]]
        self._say(left_out, "maps")

    def _strips(self) -> None:
        left_out = []
        for record, layer in self._layers:
            parts: Parts = {}
            for strip, head, place in product(layer["strips"], range(layer["heads"]), _places(record, layer)):
                query = place | {"heads": head, "name": strip["name"]}
                parts[f"api/strip {_named(place)} {head} {strip['name']}"] = ("api/strip", query)
            if not self.pack.take(parts):
                layer["strips"] = []
                left_out.append(layer["name"])
        self._say(left_out, "readings along the axes")

    def _top(self) -> None:
        left_out = []
        for record, layer in self._layers:
            parts: Parts = {}
            for head, place in product(range(layer["heads"]), _places(record, layer)):
                parts[f"api/top {_named(place)} {head}"] = ("api/top", place | {"heads": head})
            wanted = layer["top"] and not layer["exact"]
            layer["top"] = wanted and self.pack.take(parts)
            left_out += [layer["name"]] if wanted and not layer["top"] else []
        self._say(left_out, "the strongest keys")

    def _others(self) -> None:
        """Alignments of cross-attention, and pictures."""
        for record, layer in self._layers:
            if layer["role"] != "cross":
                continue
            for place in _places(record, layer):
                for heads in ("all", *range(layer["heads"])):
                    self.pack.take({f"api/align {_named(place)} {heads}": ("api/align", place | {"heads": heads})})
        for record in self.info["records"]:
            for number, image in enumerate(record["images"]):
                query = {"record": record["id"], "image": number}
                if not self.pack.take({f"api/picture {record['id']} {number}": ("api/picture", query)}):
                    image["has_picture"] = False

    def _finer(self) -> None:
        """Maps with more and more bins, of layers whose exact weights are not inside."""
        pooled = [(record, layer) for record, layer in self._layers if not layer["exact"] and layer["map"]]
        level = max((_coarsest(layer) for _, layer in pooled), default=0)
        while level > 0 and pooled:
            pooled = [(record, layer) for record, layer in pooled if self._has_level(record, layer, level)]
            level -= 1

    def _has_level(self, record: Json, layer: Json, level: int) -> bool:
        """Whether the page has a layer's maps of one level, or needs none so coarse."""
        if level > _coarsest(layer):
            return True
        rows, columns = (-(-layer[length] // (SIDE << level)) for length in ("q_len", "k_len"))
        if len(_POOLS) * 2 * (_pairs(layer) >> (2 * level)) > self.pack.left:
            return False
        parts: Parts = {}
        for pool, head, place in product(_POOLS, range(layer["heads"]), _places(record, layer)):
            for i, j in product(range(rows), range(columns)):
                query = place | {"heads": head, "pool": pool, "zq": level, "zk": level, "i": i, "j": j, "dtype": "f32"}
                parts[f"api/tile {_named(place)} {head} {pool} {level},{level} {i},{j}"] = ("api/tile", query)
        return self.pack.take(parts)

    def _say(self, names: list[str], what: str) -> None:
        if names:
            few = ", ".join(map(legible.name, names[:3])) + (" and others" if len(names) > 3 else "")
            self.left_out.append(f"{what[0].upper()}{what[1:]} of {len(names)} of {len(self._layers)} layers: {few}.")

    @staticmethod
    def _without_place(record: Json) -> None:
        """Take out where the record lies: whoever is given the page need not know."""
        if record["path"] is not None:
            name = record["path"].replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
            opened = describe.opened(name)
            record |= {
                "path": None,
                "python": opened,
                "opens": f"# {name}: the record's folder\nimport pellucid\nrecord = {opened}",
            }
        record["following"] = False


def _places(record: Json, layer: Json) -> Iterator[Json]:
    for sequence in range(layer["batch"]):
        yield {"record": record["id"], "layer": layer["number"], "sequence": sequence}


def _named(place: Json) -> str:
    return f"{place['record']} {place['layer']} {place['sequence']}"


def _exact(record: Json, layer: Json, heads: Sequence[int], rows: range, columns: range) -> Parts:
    """Tiles of exact weights."""
    parts: Parts = {}
    for head, place in product(heads, _places(record, layer)):
        for i, j in product(rows, columns):
            query = place | {"heads": head, "zq": 0, "zk": 0, "i": i, "j": j, "dtype": "f32"}
            parts[f"api/tile {_named(place)} {head} exact {i},{j}"] = ("api/tile", query)
    return parts


def _thumbs(record: Json, layer: Json, side: int) -> Parts:
    parts: Parts = {}
    for place, pool in product(_places(record, layer), _POOLS):
        parts[f"api/thumbs {_named(place)} {pool}"] = ("api/thumbs", place | {"pool": pool, "most": side})
    return parts


def _pairs(layer: Json) -> int:
    return int(layer["batch"] * layer["heads"] * layer["q_len"] * layer["k_len"])


def _map_bytes(layer: Json, side: int) -> int:
    """What the maps of a layer take, in float16, pooled both ways."""
    rows, columns = min(side, layer["q_len"]), min(side, layer["k_len"])
    return int(layer["batch"] * layer["heads"] * rows * columns * 2 * len(_POOLS))


def _coarsest(layer: Json) -> int:
    """The level at which the whole is one tile."""
    return (-(-max(layer["q_len"], layer["k_len"]) // SIDE) - 1).bit_length()


def _tiles(span: slice, length: int) -> range:
    """The tiles that a span touches."""
    start, stop, step = span.indices(length)
    if step != 1 or start >= stop:
        raise ValueError(f"windows: a slice of neighbours within {length} is needed, got {span}")
    return range(start // SIDE, -(-stop // SIDE))


def _shown(window: Any) -> str:
    return legible.name(repr(window))
