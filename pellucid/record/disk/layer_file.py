"""One layer on disk: its tensors in a file, and what the manifest says of them."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid import legible
from pellucid.language import INPUTS, walk
from pellucid.readouts.topk import TopKeys
from pellucid.record import runs
from pellucid.record.disk import schema
from pellucid.record.disk.expression_json import Captured, from_json, to_json
from pellucid.record.disk.manifest import Json, RecordError
from pellucid.record.disk.tensor_file import TensorFile, described_tensors, read_tensors, write_tensors
from pellucid.record.layer import Layer, Padding
from pellucid.record.part import Part
from pellucid.record.studies.allowed import Allowed
from pellucid.record.studies.repeats import Repeats

LARGEST = 1 << 27  # of a length or position, in tokens
MOST_KEYS = 1 << 28  # of all sequences together: what the summary has a flag for

_length = schema.whole(0, LARGEST)
_PLAIN = {
    "name": schema.name,
    "role": schema.one_of("self", "causal self", "cross"),
    "batch": schema.whole(1, LARGEST),
    "heads": schema.whole(1, LARGEST),
    "kv_heads": schema.whole(1, LARGEST),
    "q_len": schema.whole(1, LARGEST),
    "k_len": _length,
    "head_dim": _length,
    "value_dim": _length,
    "scale": schema.number,
    "has_sink": schema.flag,
    "calls": schema.whole(1),
    "start": _length,
    "head_numbers": schema.list_of(_length),
}
# Not in records of the first releases.
_NAMES = schema.list_of(schema.text)
_RUNS = schema.list_of(schema.list_of(schema.whole(1, LARGEST), 2))
_SINCE = {
    "by_hand": schema.flag,
    "complete": schema.flag,
    "sums": _NAMES,
    "over_heads": _NAMES,
    "call_rows": _RUNS,
}
_PART = {
    "start": _length,
    "k_start": _length,
    "k_len": _length,
    "scale": schema.number,
    "query": schema.text,
    "key": schema.text,
    "sinks": schema.nullable(schema.text),
    "score": schema.list_of(schema.anything, 1),  # expression_json looks into them
    "mask": schema.list_of(schema.anything, 1),
}
_FIELDS = {"type": schema.identifier, "fields": schema.list_of(schema.identifier, 1)}
_KINDS = {"tensor": {}, "top keys": {}, "tuple": _FIELDS}


def _reading_kind(value: Json, field: str) -> None:
    schema.fields({"kind": schema.one_of(*_KINDS)})(value, field)
    schema.fields(_KINDS[value["kind"]])(value, field)


_ENTRY = schema.fields(
    {
        **_PLAIN,
        "readings": schema.map_of(_reading_kind),
        "padding": schema.fields(dict.fromkeys(Padding._fields, schema.flag)),
        "parts": schema.list_of(schema.fields(_PART)),
    },
    {**_SINCE, "kept": schema.flag},
)


class _Shape(NamedTuple):
    """What a tensor of a known name is: a layer's sizes by name, and the dtypes that it may have."""

    sizes: tuple[str, ...]  # "some" for any size, "one or heads" for either
    dtypes: str


_FLOAT, _INT, _BOOL = "float", "int", "bool"
_ROWS = ("batch", "heads", "q_len")
_KNOWN = {
    r"reading/lse": _Shape(_ROWS, _FLOAT),
    r"reading/(entropy|renyi|sink_mass|max_scores)": _Shape(_ROWS, _FLOAT),
    r"reading/head_max_scores": _Shape(("heads",), _FLOAT),
    r"reading/(beyond_first.*|segment .*)": _Shape(_ROWS, _FLOAT),
    r"reading/allowed/(keys|beyond_first)": _Shape(("batch", "one or heads", "q_len"), _INT),
    r"reading/repeats/(seen|of_first)": _Shape(("batch", "one or heads", "q_len"), _BOOL),
    r"reading/received": _Shape(("batch", "heads", "k_len"), _FLOAT),
    r"reading/pooled(_max)?": _Shape(("batch", "heads", "some", "some"), _FLOAT),
    r"padding/queries": _Shape(("batch", "q_len"), _BOOL),
    r"padding/keys": _Shape(("batch", "k_len"), _BOOL),
}
_TOP_KEYS = ("keys", "log_weights")
_MADE_OF = {"topk": _TOP_KEYS, "allowed": Allowed._fields, "repeats": Repeats._fields}  # those of several tensors


def write_layer(folder: Path, file: str, layer: Layer, run: str | None = None) -> Json:
    """Write a layer's tensors into `file` of a folder, and return what the manifest is to say of it.

    Args:
        folder: the record's.
        file: a name in it.
        layer: what is written.
        run: what tells the record from others, to go into the file.

    Raises:
        ValueError: it could not be read again.
        OSError: it cannot be written.

    """
    tensors: dict[str, Tensor] = {}
    entry: Json = {name: getattr(layer, name) for name in (*_PLAIN, *_SINCE)}
    entry["readings"] = {name: _reading_entry(name, value, tensors) for name, value in layer.readings.items()}
    entry["padding"] = _padding_entry(layer.padding, tensors)
    entry["parts"] = _part_entries(layer.parts, tensors)
    _made(entry, tensors, "")
    size, checksum = write_tensors(folder / file, tensors, {} if run is None else {"run": run})
    return {"file": file, "bytes": size, "crc32": checksum} | entry


def read_layer(folder: Path, entry: Json, run: str | None = None) -> Layer:
    """The layer that an entry of the manifest describes; its tensors are read from the disk as they are used.

    Args:
        folder: the record's.
        entry: what the manifest says.
        run: what the file must hold to be of this record, if the record says so.

    Raises:
        ValueError: file and entry do not fit.
        OSError: the file cannot be read.

    """
    return _read(folder, entry, run, read_tensors(folder / entry["file"], entry["bytes"]))


def check_layer(folder: Path, entry: Json, run: str | None = None) -> None:
    """Raise what `read_layer` would, from the file's header alone."""
    _read(folder, entry, run, described_tensors(folder / entry["file"], entry["bytes"]))


def _read(folder: Path, entry: Json, run: str | None, file: TensorFile) -> Layer:
    if file.metadata.get("run") != run:
        raise ValueError("it is of another run, which was written in the record's place; open the record again")
    return _made(entry, file.tensors, f"{folder}: {entry['file']}, layer {legible.name(entry['name'])}")


def _made(entry: Json, tensors: Mapping[str, Tensor], place: str) -> Layer:
    """The layer of an entry that is right in every field, and whose tensors are those that it speaks of.

    Raises:
        ValueError: they are not.

    """
    _ENTRY(entry, "")
    layer = Layer(**{name: entry[name] for name in (*_PLAIN, *_SINCE) if name in entry})
    _check_numbers(layer)
    known = _Known(tensors)
    _check_sizes(layer, known)
    layer.readings = {name: _reading(name, one, layer, known) for name, one in entry["readings"].items()}
    if "lse" not in layer.readings:
        raise ValueError("holds no 'reading/lse'")
    layer.padding = _padding(entry["padding"], tensors)
    layer.parts = [_part(part, layer, known, place) for part in entry["parts"]]
    _check_parts(layer)
    return layer


class _Known(dict[str, Tensor]):
    """The tensors of a file by name."""

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(f"holds no {legible.quoted(name)}, which the manifest speaks of")


# Sizes.


def _check_numbers(layer: Layer) -> None:
    """Raise ValueError unless a layer's sizes fit one another."""
    if layer.heads % layer.kv_heads:
        raise ValueError(f"kv_heads {layer.kv_heads} must divide heads {layer.heads}")
    if layer.batch * layer.k_len > MOST_KEYS:
        raise ValueError(f"k_len {layer.k_len} of {layer.batch} sequences is more than {MOST_KEYS} keys")
    if layer.call_rows and (
        any(len(run) > 2 for run in layer.call_rows) or runs.rows_of(layer.call_rows) != layer.q_len
    ):
        raise ValueError(f"call_rows must be pairs of rows and times that make q_len {layer.q_len}")
    if len(layer.head_numbers) not in (0, layer.heads):
        raise ValueError(f"head_numbers must be of {layer.heads} heads, got {len(layer.head_numbers)}")


def _check_sizes(layer: Layer, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors of known names have the sizes that the manifest says."""
    for name, tensor in tensors.items():
        if (shape := _known(name)) is not None:
            _check_shape(name, tensor, [_size(layer, size) for size in shape.sizes], shape.dtypes)


def _known(name: str) -> _Shape | None:
    return next((shape for pattern, shape in _KNOWN.items() if re.fullmatch(pattern, name, re.DOTALL)), None)


def _size(layer: Layer, size: str) -> int | tuple[int, ...] | None:
    """What a size may be: a number, one of some, or None for any from 1."""
    if size == "one or heads":
        return 1, layer.heads
    return None if size == "some" else int(getattr(layer, size))


def _check_shape(name: str, tensor: Tensor, wanted: Sequence[int | tuple[int, ...] | None], dtypes: str) -> None:
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or not all(map(_fits, shape, wanted)):
        says = ", ".join(
            "any" if n is None else " or ".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in wanted
        )
        raise ValueError(f"{legible.name(name)}: a tensor is {list(shape)} where the manifest says [{says}]")
    found = _BOOL if tensor.dtype == torch.bool else _FLOAT if tensor.dtype.is_floating_point else _INT
    if found != dtypes:
        raise ValueError(f"{legible.name(name)}: a tensor of {dtypes} is needed, got {tensor.dtype}")


def _fits(size: int, wanted: int | tuple[int, ...] | None) -> bool:
    return size >= 1 if wanted is None else size in wanted if isinstance(wanted, tuple) else size == wanted


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


def _reading(name: str, entry: Json, layer: Layer, tensors: _Known) -> Any:
    fields = _fields_of(entry)
    needed = () if _known(f"reading/{name}") else _MADE_OF.get(name, fields)
    if fields != needed or (name == "topk" and entry["kind"] != "top keys"):
        raise ValueError(f"readings.{legible.name(name)} must be of {', '.join(needed) or 'one tensor'}")
    if name in layer.over_heads:
        _check_over_heads(name, tensors[f"reading/{name}"], layer)
    if not fields:
        return tensors[f"reading/{name}"]
    found = [tensors[f"reading/{name}/{field}"] for field in fields]
    return _top_keys(name, found, layer) if entry["kind"] == "top keys" else namedtuple(entry["type"], fields)(*found)


def _check_over_heads(name: str, tensor: Tensor, layer: Layer) -> None:
    """Raise ValueError unless a reading is of all heads together."""
    if _known(f"reading/{name}"):
        raise ValueError(f"over_heads: {legible.name(name)} is of each head")
    wanted = [layer.batch, layer.q_len, *[None] * (tensor.ndim - 2)]
    _check_shape(f"reading/{name}", tensor, wanted, _FLOAT if tensor.dtype.is_floating_point else _INT)


def _top_keys(name: str, found: list[Tensor], layer: Layer) -> TopKeys:
    keys, log_weights = found
    shape = [layer.batch, layer.heads, layer.q_len, keys.shape[-1] if keys.ndim else None]
    _check_shape(f"reading/{name}/keys", keys, shape, _INT)
    _check_shape(f"reading/{name}/log_weights", log_weights, shape, _FLOAT)
    return TopKeys(log_weights.exp(), keys.to(torch.int64))


def _fields_of(entry: Json) -> tuple[str, ...]:
    """The tensors that a reading is made of, by their own names; none where it is one tensor."""
    if entry["kind"] == "top keys":
        return _TOP_KEYS
    fields = tuple(entry.get("fields", ())) if entry["kind"] == "tuple" else ()
    if len(set(fields)) < len(fields):
        raise ValueError("readings: a field is named twice")
    return fields


def _padding(entry: Json, tensors: Mapping[str, Tensor]) -> Padding:
    found = Padding(*(tensors.get(f"padding/{axis}") for axis in Padding._fields))
    for axis, tensor in found._asdict().items():
        if entry[axis] != (tensor is not None):
            raise ValueError(f"padding.{axis} is {entry[axis]}, which is not what the file says")
    return found


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


@dataclass
class StoredPart(Part):
    """A part that was read from a file, whose place its errors tell."""

    place: str = ""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A context for whatever evaluates the part's functions: what fails there is the record's fault.

        Raises:
            RecordError: in the place of an IndexError or a RuntimeError, unless that is of memory.

        """
        try:
            yield
        except (IndexError, RuntimeError) as error:
            if "memory" in str(error):
                raise
            raise RecordError(f"{self.place}, is damaged: its functions cannot be computed ({error})") from error


def _part(entry: Json, layer: Layer, tensors: _Known, place: str) -> StoredPart:
    query, key = tensors[entry["query"]], tensors[entry["key"]]
    sinks = None if entry["sinks"] is None else tensors[entry["sinks"]]
    _check_shape(entry["query"], query, [layer.batch, layer.heads, None, layer.head_dim], _FLOAT)
    _check_shape(entry["key"], key, [layer.batch, (1, layer.kv_heads, layer.heads), None, layer.head_dim], _FLOAT)
    if sinks is not None:
        _check_shape(entry["sinks"], sinks, [layer.heads], _FLOAT)
    if not 1 <= entry["k_len"] <= key.shape[2] or entry["k_start"] + entry["k_len"] > layer.k_len:
        raise ValueError(f"a part has {entry['k_len']} keys from {entry['k_start']}, beyond those that there are")
    if key.dtype != query.dtype:
        raise ValueError(f"query and key of a part are of {query.dtype} and {key.dtype}")
    part = StoredPart(
        entry["start"],
        entry["k_start"],
        query,
        key[:, :, : entry["k_len"]],
        entry["scale"],
        from_json(entry["score"], tensors, "float"),
        from_json(entry["mask"], tensors, "bool"),
        sinks,
        place,
    )
    _check_functions(part, layer)
    return part


def _check_functions(part: Part, layer: Layer) -> None:
    """Raise ValueError unless each tensor has what is read at the part's own places, and the mask reads no score."""
    ends = {"b": layer.batch, "h": layer.heads, "q": part.start + part.q_len, "k": part.k_start + part.k_len}
    for node in walk(part.score, part.mask):
        pairs = zip(node.value.shape, node.args, strict=True) if node.op == "load" else ()
        if any(index.op == "input" and size < ends[index.value] for size, index in pairs):
            raise ValueError(f"a function reads a tensor {list(node.value.shape)} beyond its end")
    if any(node is INPUTS["score"] for node in walk(part.mask)):
        raise ValueError("a mask is a function of the score")


def _check_parts(layer: Layer) -> None:
    """Raise ValueError unless the parts follow one another over all of the layer's queries, with sinks as it says."""
    end = layer.start
    for part in layer.parts:
        if part.start != end:
            raise ValueError(f"a part begins at query {part.start}, where {end} is the next")
        if (part.sinks is not None) != layer.has_sink:
            raise ValueError("has_sink and the sinks of a part do not fit")
        end += part.q_len
    if layer.parts and end != layer.start + layer.q_len:
        raise ValueError(f"the parts have {end - layer.start} queries of {layer.q_len}")


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
