"""A call's readings as a Layer, and the layers of calls that continue one another as one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.capture.calls import reading
from pellucid.capture.calls.call import Call
from pellucid.capture.calls.keeping import extended
from pellucid.readouts import Readout
from pellucid.record import runs
from pellucid.record.layer import Layer, Padding


class Place(NamedTuple):
    """Where a call belongs."""

    name: str
    role: str
    start: int  # position of its first query
    continued: Layer | None  # the layer that it continues
    base: str = ""  # the module's name
    cache: Any = None  # what holds the keys before its own, where that is known
    first_head: int = 0  # the number of the call's first head
    heads: Tensor | None = None  # those that are observed, counted from that one; all if None


def layer_of(place: Place, call: Call, readings: reading.Readings, padded: Tensor | None) -> Layer:
    """The layer that one call is, of the heads that are observed.

    Args:
        place: where the call belongs.
        call: what was asked for.
        readings: what was read of it, of these heads.
        padded: which queries are padding, bool [batch, q_len], or None.

    """
    heads = place.heads
    chosen = range(call.heads) if heads is None else heads.tolist()
    numbers = [place.first_head + head for head in chosen]
    keys = _padded_keys(place.continued, call)
    return Layer(
        name=place.name,
        role=place.role,
        batch=call.batch,
        heads=len(numbers),
        kv_heads=call.key.shape[1] if heads is None else len(numbers),
        q_len=call.q_len,
        k_len=call.k_start + call.k_len,
        head_dim=call.query.shape[-1],
        value_dim=call.value.shape[-1],
        scale=call.scale,
        has_sink=call.sinks is not None,
        by_hand=call.by_hand,
        call_rows=[[call.q_len, 1]],
        start=place.start,
        head_numbers=numbers,
        readings=readings,
        padding=Padding(padded, keys),
    )


def _padded_keys(earlier: Layer | None, call: Call) -> Tensor | None:
    """Which keys of all positions are padding, bool [batch, keys], those that a window has left among them."""
    length = call.k_start + call.k_len
    known = None if earlier is None else earlier.padding.keys
    found = None if known is None else torch.nn.functional.pad(known[:, :length], (0, max(0, length - known.shape[1])))
    if call.padded_keys is None:
        return found
    own = torch.nn.functional.pad(call.padded_keys, (call.k_start, 0))
    return own if found is None else own | found


def joined(earlier: Layer, later: Layer, lookup: dict[str, Readout]) -> Layer:
    """A layer and the one that continues it as one; `lookup` has what each reading was read by."""
    k_len = max(earlier.k_len, later.k_len)
    readings = {
        name: _joined(lookup.get(name), earlier.readings[name], later.readings[name], k_len)
        for name in later.readings
        if name in earlier.readings
    }
    later.readings = {name: value for name, value in readings.items() if value is not None}
    later.padding = Padding(
        _both(earlier.padding.queries, later.padding.queries, (later.batch, earlier.q_len), (later.batch, later.q_len)),
        later.padding.keys if later.k_len == k_len else earlier.padding.keys,
    )
    later.parts = extended(earlier.parts, later.parts[0]) if later.parts and earlier.parts else []
    later.q_len, later.k_len, later.start = earlier.q_len + later.q_len, k_len, earlier.start
    later.calls, later.call_rows = earlier.calls + 1, runs.joined(earlier.call_rows, later.call_rows)
    return later


def _joined(readout: Readout | None, earlier: Any, later: Any, k_len: int) -> Any:
    """Two readings as one; what no readout was asked for, such as lse, is of rows."""
    if readout is not None:
        return readout.joined(earlier, later, k_len)
    if isinstance(earlier, Tensor):
        return torch.cat((earlier, later), 2)
    return type(earlier)(*(torch.cat(pair, 2) for pair in zip(earlier, later, strict=True)))


def _both(
    earlier: Tensor | None, later: Tensor | None, its_shape: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor | None:
    """Padding of earlier and later queries, bool [batch, q_len]; None if none is."""
    if earlier is None and later is None:
        return None
    device = (earlier if earlier is not None else later).device  # type: ignore[union-attr]
    first = torch.zeros(its_shape, dtype=torch.bool, device=device) if earlier is None else earlier
    second = torch.zeros(shape, dtype=torch.bool, device=device) if later is None else later
    return torch.cat((first, second), 1)


def continues(layer: Layer, call: Call, role: str, start: int) -> bool:
    """Whether a call whose first query is at `start` may be of the same sequences as a layer, by its sizes.

    Args:
        layer: of the record.
        call: what a module asks for.
        role: "self", "causal self" or "cross".
        start: a position, in tokens.

    """
    if layer.batch != call.batch:
        return False
    if role == "cross":
        return layer.k_len == call.k_len
    return call.k_start + call.k_len >= (layer.k_len if layer.end == start else start)
