"""One watched run: each call of attention is read, and joined to the layer that it continues."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pellucid.capture.calls import carried, reading
from pellucid.capture.calls.beside import Beside
from pellucid.capture.calls.call import Call, HeadsFrom
from pellucid.capture.calls.keeping import kept_bytes, kept_part_of
from pellucid.capture.calls.roles import forbids_ahead, role_of
from pellucid.capture.media.media import Media
from pellucid.capture.run.caches import Caches
from pellucid.capture.run.going_back import taken_back
from pellucid.capture.run.last_call import LastCall
from pellucid.capture.run.layering import Place, continues, joined, layer_of
from pellucid.capture.run.modules import Modules
from pellucid.capture.run.own_heads import heads_from
from pellucid.capture.run.placing import placed, placed_by_mask
from pellucid.capture.run.progress import Listener, Progress
from pellucid.capture.run.tokens import TokenIds
from pellucid.nn import KeyValueCache
from pellucid.observation import Observation
from pellucid.problem import Result
from pellucid.readouts import ColumnReadout, Readout
from pellucid.record.layer import Layer, Missed, OnLayer
from pellucid.record.record import Record
from pellucid.record.studies import sums
from pellucid.record.studies.beyond import summary_readouts
from pellucid.record.studies.segments import segment_readouts


class Seen(NamedTuple):
    """What a call gives back."""

    output: Tensor  # [batch, heads, q_len, value_dim]
    observation: Observation | None


@dataclass(eq=False)
class Session:
    """The state of one watched run."""

    modules: Modules
    record: Record
    readouts: tuple[Readout, ...] | None  # None: what the summary needs
    observes: Callable[[str], bool]
    keeps: Callable[[str], bool]
    heads: Tensor | None
    on_layer: OnLayer | None = None
    listener: Listener | None = None
    more: tuple[Readout, ...] = ()  # beside what the summary needs
    gradients: bool = False  # whether readings carry gradients; the record is then of the model's last call
    media: Media | None = None  # None: nobody asks for pictures and sound
    tokens: TokenIds = field(default_factory=TokenIds)
    caches: Caches = field(default_factory=Caches)
    captured: Counter[str] = field(default_factory=Counter)  # calls of each module
    refused: dict[str, str] = field(default_factory=dict)
    capture: Callable[[], AbstractContextManager[Any]] = nullcontext  # what sees the functions of a running module
    turn: threading.RLock = field(default_factory=threading.RLock)  # had by the one context that runs the model
    generating: int = 0
    drafting: int = 0  # whether the model proposes candidates to itself: they are no rows of a text
    stored: frozenset[str] = frozenset()  # layers that `on_layer` has from an earlier run: they are not read again
    _handed: set[str] = field(default_factory=set)
    _self: tuple[int, Call] | None = None  # the last self-attention: its start, and the call
    _default: tuple[Any, list[Readout]] | None = None
    _layer_bytes: dict[str, tuple[int, int]] = field(default_factory=dict)  # kept, and held by the graph
    _last: LastCall = field(default_factory=LastCall)
    _done: int = 0
    _firsts: dict[str, Tensor | None] = field(default_factory=dict)
    _last_first: tuple[Tensor, Tensor | None] | None = None  # padding of keys, and the first keys beside it
    _beside: Beside = field(default_factory=Beside)
    _sums: dict[str, ColumnReadout] = field(default_factory=dict)  # the sums over queries that were read
    _heads_from: dict[tuple[str, int], HeadsFrom] = field(default_factory=dict)  # of modules, by how many a call has
    _lost: set[str] = field(default_factory=set)  # layers of which what the keys received is not known any more
    _stretches: set[str] = field(default_factory=set)  # layers whose sums are of all ranks
    _ids: Tensor | None = None  # of the sequence that the call at hand attends in

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], is_pass: bool) -> None:
        """Note that a module's forward begins, and whether a pass of the model does.

        Args:
            module: what is called.
            args: what it is called with.
            kwargs: the same, by name.
            is_pass: whether no other module of the model is running around it.

        """
        if is_pass:
            self.caches.next_pass()
            self.take_back()
            if not self.generating and not carried.in_backward():
                self._last.begin(module is self.modules.root)
        if not carried.in_backward() or not self.modules.ran[self.modules.name_of(module) or ""]:
            self.modules.begin(module)
        self.tokens.begin(module, args)
        if self.media is not None:
            self.media.begin(module, args, kwargs)
        self.caches.handed(module, args, kwargs)

    @contextmanager
    def generation(self, options: dict[str, Any]) -> Iterator[None]:
        """The time of a `generate` with these options: a layer is complete only after it."""
        if not self.generating:
            self._last.begin(True)
        is_draft = bool(self.generating and getattr(options.get("generation_config"), "is_assistant", False))
        self.generating += 1
        self.drafting += is_draft
        try:
            yield
        finally:
            self.generating -= 1
            self.drafting -= is_draft
        if not self.generating:
            self.take_back()

    def see(self, module: nn.Module, call: Call) -> Seen:
        """The call's output; read on the way and entered into the record.

        Raises:
            IndexError: a head was asked for that the module does not have.

        """
        base = self.modules.name_of(module) or type(module).__name__
        self.captured[base] += 1
        if self.drafting:
            return Seen(reading.run(call.problem).output, None)
        if not self.observes(base):
            self._pass_over(base, module, call)
            return Seen(reading.run(call.problem).output, None)
        if self.gradients and not self.has_seen(module):
            carried.check_mode(base)
        again = self.record.get(base) if carried.in_backward() else None
        if again is not None:  # the same operations once more, for their gradients: seen already
            if self.gradients:
                return Seen(reading.run(call.problem).output, None)
            place = Place(again.name, again.role, again.start, again)
            readouts = self._readouts(place, call)
            return Seen(reading.read(call, readouts, place.start, self._padded(place, call))[0], None)
        own = self._own_heads(base, module, call)
        if self.heads is not None and int(self.heads.max()) >= own.of:
            raise IndexError(f"heads: {int(self.heads.max())} is beyond the heads, of which {base} has {own.of}")
        chosen = None if self.heads is None else _within(self.heads, own.first, call.heads)
        if chosen is not None and not len(chosen):  # they lie on other ranks
            self._pass_over(base, module, call)
            return Seen(reading.run(call.problem).output, None)
        call = self._placed(base, module, call)
        place = self._place(base, module, call)._replace(first_head=own.first, heads=chosen)
        if self.media is not None:
            self.media.enter(place.name, place.role, place.start, call)
        padded = self._padded(place, call)
        readouts = self._readouts(place, call)
        if place.name in self.stored:
            return self._only_counted(place, call, padded)
        self._plan(place, call, readouts)
        output, readings = self._read(call, readouts, place.start, padded)
        if call.whole is not None:
            output = reading.run(call.whole.problem).output
        self._enter(place, call, readings, readouts, padded)
        return Seen(output, observation(call, output, readings, readouts))

    def has_seen(self, module: nn.Module) -> bool:
        """Whether a call is one that autograd makes again, for its gradients, of a module that has its layer."""
        return carried.in_backward() and self.record.get(self.modules.name_of(module) or "") is not None

    def _own_heads(self, base: str, module: nn.Module, call: Call) -> HeadsFrom:
        """Which of a module's heads a call has; looked for at its first call alone, for the ranks may have to tell."""
        if call.heads_from is not None:
            return call.heads_from
        known = self._heads_from.get((base, call.heads))
        if known is None:
            known = self._heads_from[base, call.heads] = heads_from(base, module, call, self.record.ranks)
        return known

    def _read(
        self, call: Call, readouts: Sequence[Readout], start: int, padded: Tensor | None
    ) -> tuple[Tensor, reading.Readings]:
        """The call's output and readings; where a checkpoint makes it again, the readings of a graph of their own."""
        if not (self.gradients and carried.is_replayed()):
            return reading.read(call, readouts, start, padded, self.gradients)
        with carried.kept_whole():
            readings = reading.read(replace(call, dropout_p=0.0), readouts, start, padded, True)[1]
        return reading.run(call.problem).output, readings

    def _only_counted(self, place: Place, call: Call, padded: Tensor | None) -> Seen:
        """The call's output; of its layer, which is stored, nothing but the sizes is entered."""
        output = reading.run((call.whole or call).problem).output
        layer = layer_of(place, call, {}, padded)
        self._add(layer if place.continued is None else joined(place.continued, layer, {}), place)
        self._follow(place, call)
        return Seen(output, None)

    def _pass_over(self, base: str, module: nn.Module, call: Call) -> None:
        """Note where the queries stand: cross-attention, which may be observed, does not say it of its own."""
        call = placed(call, module, self.caches.of(module))
        if role_of(base, module, call, True) != "cross":
            behind = max(0, call.k_start + call.k_len - call.q_len)
            self._self = (behind if call.start is None else call.start, call)

    def _placed(self, base: str, module: nn.Module, call: Call) -> Call:
        """The call with its positions, if its cache says them, or a mask that goes on where a layer ends."""
        call = placed(call, module, self.caches.of(module))
        if call.start is not None or call.q_len >= call.k_len:
            return call
        layers = self._layers(base)
        role = layers[0].role if layers else role_of(base, module, call, True)
        return call if role == "cross" else placed_by_mask(call, {0, *(layer.end for layer in layers)})

    def _layers(self, base: str) -> list[Layer]:
        return [layer for name, layer in self.record.items() if name.split("#")[0] == base]

    def _place(self, base: str, module: nn.Module, call: Call) -> Place:
        layers = self._layers(base)
        role = layers[0].role if layers else role_of(base, module, call, True)
        cache = self.caches.of(module)
        start = self._start(base, role, layers, call, cache)
        if role != "cross":
            self._self = (start, call)
        if not start:
            self.caches.begins(cache, base)
        continues = start and call.stretch is None  # what ranks have of another sequence may begin where theirs ended
        continued = self._continued(layers, call, role, start, cache) if continues else None
        if continued is None and self.gradients:
            self._leave(self._last.outdated(base))
            layers = self._layers(base)
        name = base if not layers else f"{base}#{len(layers) + 1}"
        return Place(name if continued is None else continued.name, role, start, continued, base, cache)

    def _leave(self, names: list[str]) -> None:
        """Take layers that are outdated out of the record."""
        for name in names:
            self.record.remove(name)
            self._handed.discard(name)
            self._lost.discard(name)
            self._firsts.pop(name, None)
            self._done -= self._layer_bytes.pop(name, None) is not None
            if self.media is not None:
                self.media.cut(name, 0)

    def _continued(self, layers: list[Layer], call: Call, role: str, start: int, cache: Any) -> Layer | None:
        """The layer that a call continues, without the rows that it replaces; None if there is none."""
        fitting = {layer.name: layer for layer in layers if layer.name not in self._handed}
        fitting = {name: layer for name, layer in fitting.items() if continues(layer, call, role, start)}
        ending = {name: layer for name, layer in fitting.items() if layer.end == start}
        if cache is None:
            return next(iter(ending.values()), None)
        own = self.caches.names(cache)
        for name in own:
            if name in ending:
                return ending[name]
        for name in own:
            if name in fitting and (cut := self._taken_back(fitting[name], start, cache)) is not None:
                return cut
        return None

    def _taken_back(self, layer: Layer, start: int, cache: Any) -> Layer | None:
        """A layer without its rows from a position on; None if rows before it looked at the keys there."""
        recent = self.caches.recent(cache, layer.name)
        if not layer.start < start < layer.end or (layer.role != "cross" and not recent.is_closed(start)):
            return None
        cut = taken_back(layer, start, recent, self._sums)
        if "received" in layer.readings and "received" not in cut.readings:
            self._lost.add(layer.name)
        if self.media is not None:
            self.media.cut(layer.name, start)
        return cut

    def take_back(self) -> None:
        """Remove the rows that the last cache has taken back since its last pass, and let go of it."""
        cache, count = self.caches.taken_back()
        for name in self.caches.names(cache) if count > 0 else ():
            layer = self.record.get(name)
            if layer is not None and name not in self._handed and (layer.role != "cross" or not _is_own(cache)):
                cut = self._taken_back(layer, layer.end - count, cache)
                if cut is not None:
                    self.record.add(cut)
                    self._cut_tokens(cut, cache)
        self.caches.release()

    def _cut_tokens(self, layer: Layer, cache: Any) -> None:
        if layer.role != "cross":
            self.tokens.cut(cache, layer.end)
            self.record.token_ids = self.tokens.ids

    def _start(self, base: str, role: str, layers: list[Layer], call: Call, cache: Any) -> int:
        """The position of the call's first query."""
        if call.stretch is not None:
            return call.stretch.queries.start
        if role == "cross":  # its queries are those of the self-attention before it
            last = self._self
            return last[0] if last is not None and last[1].q_len == call.q_len else 0
        if call.start is not None:
            return call.start
        behind = call.k_start + call.k_len - call.q_len
        own = self.caches.names(cache)
        is_known = any(behind == layer.end or (layer.name in own and behind < layer.end) for layer in layers)
        if is_known:
            return behind
        if call.q_len < call.k_len and not forbids_ahead(call):
            self._note_unplaced(base)
        return 0

    def _note_unplaced(self, base: str) -> None:
        note = f"{base}: where its queries stand among its keys is not known in every call; there they count from 0"
        if note not in self.record.notes:
            self.record.notes.append(note)

    def _padded(self, place: Place, call: Call) -> Tensor | None:
        """Which queries are padding."""
        if place.role != "cross":
            return call.padded_queries
        last = self._self
        same = last is not None and last[1].q_len == call.q_len and last[1].batch == call.batch
        return last[1].padded_queries if last is not None and same else None

    def _readouts(self, place: Place, call: Call) -> Sequence[Readout]:
        self._ids = ids = None
        if self.readouts is not None:
            return self.readouts
        if place.role != "cross" and call.stretch is not None:
            ids = self.tokens.of_all(call.stretch, call.batch)
        elif place.role != "cross":
            in_order = partial(self._is_in_order, place, call)
            ids = self.tokens.at(place.start, call.q_len, call.batch, place.cache, in_order)
        self._ids = ids
        first = self._first_keys(place, call)
        known = (ids, place.role, first)
        if self._default is None or any(a is not b for a, b in zip(self._default[0], known, strict=True)):
            named = segment_readouts(self.record.segments, place.role)
            self._default = (known, [*summary_readouts(ids, role=place.role, first=first), *named, *self.more])
        return self._default[1]

    def _is_in_order(self, place: Place, call: Call) -> bool:
        """Whether the sequences of the batch are those of the layer's last call, by their keys."""
        return call.batch == 1 or self.caches.recent(place.cache, place.name).is_on(call, place.start)

    def _first_keys(self, place: Place, call: Call) -> Tensor | None:
        """The first key of each sequence that is no padding, known since its first call: a window may have left it."""
        if place.continued is not None:
            return self._firsts.get(place.name)
        if call.padded_keys is None:
            return None
        if self._last_first is None or self._last_first[0] is not call.padded_keys:
            self._last_first = (call.padded_keys, _first_tokens(call.padded_keys, call.k_start))
        self._firsts[place.name] = first = self._last_first[1]
        return first

    def _plan(self, place: Place, call: Call, readouts: Sequence[Readout]) -> None:
        """Say what memory the record will take, before the first layer takes it."""
        if place.continued is not None:
            return
        rows = call.batch * (call.heads if place.heads is None else len(place.heads)) * call.q_len
        size = rows * 4 * (len(readouts) + 1)
        if self.keeps(place.name):
            size += kept_bytes(call, place.heads)
        self._layer_bytes[place.name] = size, carried.graph_bytes(call, readouts) if self.gradients else 0
        expected = max(self._expected(), len(self._layer_bytes))
        record, rest = self.record, expected - len(self._layer_bytes)
        planned = [sum(known) + rest * known[-1] for known in zip(*self._layer_bytes.values(), strict=True)]
        record.planned_bytes, record.graph_bytes = planned
        self._done += 1
        if self.listener is not None:
            self.listener(Progress(place.name, self._done, expected, record.planned_bytes, record.graph_bytes))

    def _expected(self) -> int:
        return sum(self.observes(name) for name in self.modules.expected)

    def _enter(
        self, place: Place, call: Call, readings: reading.Readings, readouts: Sequence[Readout], padded: Tensor | None
    ) -> None:
        """Put what was read into the record."""
        lookup = {readout.name: readout for readout in readouts}
        self._sums |= {name: readout for name, readout in lookup.items() if isinstance(readout, ColumnReadout)}
        if place.heads is not None:
            readings = reading.of_heads(readings, lookup, place.heads)
        layer = layer_of(place, call, readings, padded)
        if call.stretch is not None:
            self._stretches.add(place.name)
            carried.note_sums(self.record, self.gradients, lookup.values())
        layer.over_heads = [name for name, readout in lookup.items() if not readout.per_head]
        self._beside.add(layer, call, place.start, place.heads, self._ids)
        if self.keeps(place.name):
            layer.parts = [kept_part_of(call, place.start, place.heads)]
        if place.continued is not None:
            layer = joined(place.continued, layer, lookup)
        self._last.enter(place.name)
        self._add(layer, place)

        self._follow(place, call)

    def _follow(self, place: Place, call: Call) -> None:
        """Remember the cache that a layer was read through, and what may have to be taken out of its sums."""
        if place.cache is None or call.stretch is not None:
            return
        recent = self.caches.recent(place.cache, place.name).before(place.start)
        self.caches.note(place.cache, place.base, place.name, recent.extended(call, place.start))

    def _add(self, layer: Layer, place: Place) -> None:
        self.record.add(layer)
        if place.role != "cross":
            self.record.token_ids = self.tokens.ids
        if self.on_layer is not None and not self.generating:
            self.hand_over(layer)

    def hand_over(self, layer: Layer) -> None:
        """Give a finished layer to `on_layer`, and keep what it gives back instead."""
        self._sum_up(layer)
        if self.on_layer is None or layer.name in self._handed:
            return
        self._handed.add(layer.name)
        stored = self.on_layer(layer)
        if stored is not None:
            self.record.add(stored)

    def _sum_up(self, layer: Layer) -> None:
        """Read what cannot be joined from call to call, sums over bins of queries, from all queries that were kept."""
        is_whole = layer.name not in self._stretches  # else this rank has kept its own queries
        missing = [own for name, own in self._sums.items() if is_whole and name not in layer.readings]
        found = sums.of_parts(layer, missing)
        if found and self.gradients:
            note = f"gradients: {', '.join(found)} of {layer.name}, read from all its calls together, carries none"
            self.record.notes.append(note)
        layer.readings |= found
        layer.sums = [name for name in layer.readings if name in self._sums]
        if "received" in layer.readings:
            self._lost.discard(layer.name)

    def salvage(self) -> None:
        """Hand over what an interrupted run has so far, as long as it is taken: what ended the run is raised anyway."""
        with suppress(Exception):
            for layer in [layer for name, layer in self.record.items() if name not in self._handed | self.stored]:
                layer.complete = False
                self.hand_over(layer)

    def finish(self) -> None:
        """Close the record: hand over what is left, and list what was missed."""
        self.take_back()
        for layer in list(self.record.values()):
            self.hand_over(layer)
        if self._lost:
            few = ", ".join(sorted(self._lost)[:3])
            warnings.warn(
                f"watch: {few} {'and others ' if len(self._lost) > 3 else ''}have no `received`: their cache took back "
                "queries that were not held any more; keep=True keeps them",
                stacklevel=5,
            )
        if self.gradients:
            carried.note_without(self.record)
        self.record.missed = [Missed(*missed) for missed in self.modules.missed(self.captured, self.refused)]


def _is_own(cache: Any) -> bool:
    """Whether a cache is that of a single layer of pellucid.nn: the one of cross-attention holds the context."""
    return isinstance(cache, KeyValueCache)


def observation(call: Call, output: Tensor, readings: reading.Readings, readouts: Sequence[Readout]) -> Observation:
    """What a call's readings are to a user.

    Args:
        call: what was asked for.
        output: [batch, heads, q_len, value_dim].
        readings: what was read, by the readouts' names; lse too, [batch, heads, q_len].
        readouts: by which.

    """
    plain = tuple(readout for readout in readouts if not readout.joins_rows)  # of which an observation makes no more
    problem = replace(call.problem, readouts=plain)
    own = {readout.name: readings[readout.name] for readout in plain if readout.name != "lse"}
    return Observation(problem, Result(output, readings["lse"], own), lambda tensor: tensor)


def _within(heads: Tensor, first: int, count: int) -> Tensor:
    """Those of some heads that are among `count` from a first one on, counted from that one."""
    if not first and int(heads.max()) < count:
        return heads
    return heads[(heads >= first) & (heads < first + count)] - first


def _first_tokens(padded: Tensor, k_start: int) -> Tensor | None:
    """Position of each sequence's first key that is no padding, int64 [batch]; None where it is 0 for all."""
    first = (~padded).to(torch.int8).argmax(-1) + k_start
    return first if bool(first.any()) else None
