"""One layer on disk: its tensors in a file, and what the manifest says of them."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.readouts.topk import TopKeys
from pellucid.watch.expression_json import Captured, from_json, to_json
from pellucid.watch.manifest import Json
from pellucid.watch.part import Part
from pellucid.watch.record import Layer, Padding
from pellucid.watch.tensor_file import read_tensors, write_tensors

_PLAIN = (
    "name", "role", "batch", "heads", "kv_heads", "q_len", "k_len", "head_dim", "value_dim", "scale", "has_sink",
    "calls", "start", "head_numbers",
)  # fmt: skip
_SINCE = ("by_hand", "complete", "sums")  # not in records of the first releases


def write_layer(folder: Path, file: str, layer: Layer) -> Json:
    """Write a layer's tensors into `file` of a folder, and return what the manifest is to say of it.

    Raises:
        OSError: it cannot be written.

    """
    tensors: dict[str, Tensor] = {}
    entry: Json = {name: getattr(layer, name) for name in (*_PLAIN, *_SINCE)}
    entry["readings"] = {name: _reading_entry(name, value, tensors) for name, value in layer.readings.items()}
    entry["padding"] = _padding_entry(layer.padding, tensors)
    entry["parts"] = _part_entries(layer.parts, tensors)
    size, checksum = write_tensors(folder / file, tensors)
    return {"file": file, "bytes": size, "crc32": checksum} | entry


def read_layer(folder: Path, entry: Json) -> Layer:
    """The layer that an entry of the manifest describes; its tensors are read from the disk as they are used.

    Raises:
        ValueError: file and entry do not fit.
        OSError: the file cannot be read.

    """
    tensors = read_tensors(folder / entry["file"])
    try:
        since = {name: entry[name] for name in _SINCE if name in entry}
        layer = Layer(**{name: entry[name] for name in _PLAIN}, **since)
        layer.readings = {name: _reading(name, one, tensors) for name, one in entry["readings"].items()}
        layer.padding = Padding(*(tensors.get(f"padding/{axis}") for axis in Padding._fields))
        layer.parts = [_part(part, tensors) for part in entry["parts"]]
    except KeyError as error:
        raise ValueError(f"holds no {error.args[0]!r}, which the manifest speaks of") from error
    _check_sizes(layer)
    return layer


def _check_sizes(layer: Layer) -> None:
    """Raise ValueError unless the tensors have the sizes that the manifest says."""
    rows, keys = (layer.batch, layer.heads, layer.q_len), (layer.batch, layer.k_len)
    found = [(layer.readings["lse"], rows), (layer.padding.queries, (layer.batch, layer.q_len))]
    found += [(layer.padding.keys, keys), *((part.query[..., 0], (*rows[:2], part.q_len)) for part in layer.parts)]
    for tensor, shape in found:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"a tensor is {list(tensor.shape)} where the manifest says {list(shape)}")


# Readings.


def _reading_entry(name: str, value: Any, tensors: dict[str, Tensor]) -> Json:
    if isinstance(value, Tensor):
        tensors[f"reading/{name}"] = value
        return {"kind": "tensor"}
    if isinstance(value, TopKeys):
        tensors[f"reading/{name}/keys"] = value.keys.to(torch.int32)
        tensors[f"reading/{name}/log_weights"] = value.weights.log()
        return {"kind": "top keys"}
    for field, tensor in zip(value._fields, value, strict=True):
        tensors[f"reading/{name}/{field}"] = tensor
    return {"kind": "tuple", "type": type(value).__name__, "fields": list(value._fields)}


def _reading(name: str, entry: Json, tensors: Mapping[str, Tensor]) -> Any:
    if entry["kind"] == "tensor":
        return tensors[f"reading/{name}"]
    if entry["kind"] == "top keys":
        keys, log_weights = (tensors[f"reading/{name}/{field}"] for field in ("keys", "log_weights"))
        return TopKeys(log_weights.exp(), keys.to(torch.int64))
    made = namedtuple(entry["type"], entry["fields"])  # type: ignore[misc]
    return made(*(tensors[f"reading/{name}/{field}"] for field in entry["fields"]))


def _padding_entry(padding: Padding, tensors: dict[str, Tensor]) -> Json:
    known = {axis: tensor for axis, tensor in padding._asdict().items() if tensor is not None}
    tensors.update({f"padding/{axis}": tensor for axis, tensor in known.items()})
    return {axis: axis in known for axis in Padding._fields}


# What exact weights are computed from.


def _part_entries(parts: list[Part], tensors: dict[str, Tensor]) -> list[Json]:
    captured = Captured()
    keys = _Keys(parts)
    entries = [_part_entry(number, part, keys, captured, tensors) for number, part in enumerate(parts)]
    tensors.update(keys.tensors)
    tensors.update(captured.tensors)
    return entries


def _part_entry(number: int, part: Part, keys: _Keys, captured: Captured, tensors: dict[str, Tensor]) -> Json:
    tensors[f"query/{number}"] = part.query
    if part.sinks is not None:
        tensors[f"sinks/{number}"] = part.sinks
    return {
        "query": f"query/{number}",
        "key": keys.name_of(part),
        "start": part.start,
        "k_start": part.k_start,
        "k_len": part.k_len,
        "scale": part.scale,
        "score": to_json(part.score, captured),
        "mask": to_json(part.mask, captured),
        "sinks": None if part.sinks is None else f"sinks/{number}",
    }


def _part(entry: Json, tensors: Mapping[str, Tensor]) -> Part:
    return Part(
        entry["start"],
        entry["k_start"],
        tensors[entry["query"]],
        tensors[entry["key"]][:, :, : entry["k_len"]],
        entry["scale"],
        from_json(entry["score"], tensors),
        from_json(entry["mask"], tensors),
        None if entry["sinks"] is None else tensors[entry["sinks"]],
    )


class _Keys:
    """The keys of a layer's parts, each memory once: the earlier steps of decoding see the beginning of the last's."""

    def __init__(self, parts: list[Part]) -> None:
        longest: dict[tuple[Any, ...], Tensor] = {}
        for part in parts:
            place = _place_of(part)
            if place not in longest or longest[place].shape[-2] < part.k_len:
                longest[place] = part.key
        self._names = {place: f"key/{number}" for number, place in enumerate(longest)}
        self.tensors = {self._names[place]: key for place, key in longest.items()}

    def name_of(self, part: Part) -> str:
        return self._names[_place_of(part)]


def _place_of(part: Part) -> tuple[Any, ...]:
    return part.key.data_ptr(), part.key.dtype, part.key.stride(), part.key.shape[:2]
