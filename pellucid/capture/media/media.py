"""The pictures and the sound of a watched run, put on the layers that attend in them.

A vision tower says at its call what it was given, a language model which of its tokens stand for it. Each of their
layers' calls must then be as long as that says: where it is not, nothing is said of the layer.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import ref

from torch import Tensor, nn

from pellucid.capture.calls.call import Call
from pellucid.capture.media.language import placeholders, shown
from pellucid.capture.media.sound import Ear, ear_of
from pellucid.capture.media.towers import Inputs, Looked, Tower, tower_of
from pellucid.capture.media.turn import Item, Turn, Turns
from pellucid.capture.run.modules import Modules
from pellucid.record.frames import Frames
from pellucid.record.images import Image
from pellucid.record.record import Record
from pellucid.tensors.transformed import is_transformed

Reader = Callable[[Inputs], None]


@dataclass
class _Reading:
    """What a language model reads."""

    tokens: tuple[int, ...]  # that stand for patches
    scope: str  # in which its towers are
    ids: Tensor | None = None
    looked: list[tuple[str, Looked]] = field(default_factory=list)  # by its towers, since it was called last


class Media:
    """What a model is given to look at and to listen to, entered into its record.

    Args:
        modules: of the model.
        record: of the run.
        images: whether pictures are looked for; not where somebody has said which there are.
        frames: whether sound is looked for.

    """

    def __init__(self, modules: Modules, record: Record, *, images: bool = True, frames: bool = True) -> None:
        self._modules, self._record = modules, record
        self._images, self._frames = record.images, record.frames
        self._readers: dict[int, tuple[list[str], list[Reader]]] = {}  # by the id of the module
        self._readings: dict[int, _Reading] = {}  # by the id of the language model
        self._turns: dict[str, Turns] = {}  # by scope
        self._heard: dict[str, Turn] = {}  # by the scope in which cross-attention looks at it
        self._found: dict[tuple[int, int, bool], tuple[Item, Item]] = {}  # as it was told, and as it is in the record
        self._shown: tuple[str, Any] = ("", None)  # the tower called last, and its input, weakly
        for module in list(modules.root.modules()):
            if images:
                self._follow_pictures(module)
            if frames and (ear := ear_of(module)) is not None:
                self._follow(module, partial(self._hear, self._scope(module), ear))

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a module is called with."""
        names, readers = self._readers.get(id(module), ([], []))
        if not readers:
            return
        inputs = dict(zip(names, args, strict=False)) | kwargs
        tensors = [value for value in inputs.values() if isinstance(value, Tensor)]
        is_read = not any(tensor.is_meta or is_transformed(tensor) for tensor in tensors)
        for reader in readers:
            reader(inputs if is_read else {})

    def enter(self, name: str, role: str, start: int, call: Call) -> None:
        """Put on a layer what its call attends in.

        Args:
            name: of the layer.
            role: of the layer.
            start: position of the call's first query.
            call: what it is.

        """
        base, is_cross = name.split("#")[0], role == "cross"
        scopes = [scope for scope in self._turns if base.startswith(scope)]
        turn = self._turns[max(scopes, key=len)].next_of(base, role, call) if scopes else None
        found = [] if turn is None else [turn]
        for scope, heard in self._heard.items() if is_cross else ():
            if base.startswith(scope) and call.k_len == heard.length:
                found.append(heard)
        for one in found:
            for item in one.items:
                self._put(item, name, 0 if is_cross else start, item.source or is_cross)
            if one.note is not None and one.note not in self._record.notes:
                self._record.notes.append(one.note)
        if found:
            self._tell()

    def cut(self, name: str, length: int) -> None:
        """Take from a layer what is beyond a length that it was cut to."""
        for key, (told, item) in list(self._found.items()):
            if name in item.layers and item.limits[1] > length:
                left = tuple(other for other in item.layers if other != name)
                self._found[key] = (told, replace(item, layers=left))
                if not left:
                    del self._found[key]
        self._tell()

    def _put(self, told: Item, name: str, start: int, source: bool) -> None:
        key = (id(told), start, source)
        item = self._found[key][1] if key in self._found else _moved(told, start, source)
        layers = item.layers or ()
        if name not in layers:
            self._found[key] = (told, replace(item, layers=(*layers, name)))

    def _tell(self) -> None:
        items = [item for _, item in self._found.values()]
        self._images[:] = [item for item in items if isinstance(item, Image)]
        self._frames[:] = [item for item in items if isinstance(item, Frames)]

    # What is followed.

    def _scope(self, module: nn.Module) -> str:
        """What the names of a module's own modules begin with."""
        return "" if module is self._modules.root else f"{self._modules.name_of(module)}."

    def _follow(self, module: nn.Module, reader: Reader) -> None:
        self._readers.setdefault(id(module), (_inputs_of(module), []))[1].append(reader)

    def _follow_pictures(self, module: nn.Module) -> None:
        config = getattr(module, "config", None)
        tower, tokens, language = tower_of(config), placeholders(config), getattr(module, "language_model", None)
        if tower is not None and {"pixel_values", "grid_thw"} & set(_inputs_of(module)):
            self._follow(module, partial(self._look, self._scope(module), tower))
        if tokens is None or not isinstance(language, nn.Module) or self._modules.name_of(language) is None:
            return
        if id(language) not in self._readings:
            self._readings[id(language)] = reading = _Reading(tokens, self._scope(module))
            self._follow(language, partial(self._read, self._scope(language), reading))
        self._follow(module, partial(self._note_ids, self._readings[id(language)]))

    def _look(self, scope: str, tower: Tower, inputs: Inputs) -> None:
        """A tower is called. Parts of it, which are towers too, are passed over."""
        shown = inputs.get("pixel_values", inputs.get("hidden_states"))
        outer, before = self._shown
        is_part = scope != outer and scope.startswith(outer)
        if is_part and before is not None and before() is shown:
            return
        looked = tower(inputs)
        self._expect(scope, [] if looked is None else looked.ways)
        if looked is None:
            return
        self._shown = (scope, ref(shown))
        for reading in self._readings.values():
            last = reading.looked[-1][0] if reading.looked else scope
            if scope.startswith(reading.scope) and (scope == last or not scope.startswith(last)):
                reading.looked.append((scope, looked))

    def _note_ids(self, reading: _Reading, inputs: Inputs) -> None:
        ids = inputs.get("input_ids")
        reading.ids = ids.detach() if isinstance(ids, Tensor) else None

    def _read(self, scope: str, reading: _Reading, inputs: Inputs) -> None:
        """A language model is called, after its towers."""
        looked, reading.looked = [one for _, one in reading.looked], []
        turn = shown(reading.ids, reading.tokens, looked)
        reading.ids = None
        self._expect(scope, [] if turn is None else [[turn]])

    def _hear(self, scope: str, ear: Ear, inputs: Inputs) -> None:
        """An encoder of sound is called."""
        heard = ear(inputs)
        self._expect(scope, [] if heard is None else [[heard]])
        outer = re.sub(r"[^.]+\.$", "", scope)
        if heard is None:
            self._heard.pop(outer, None)
        elif scope:
            self._heard[outer] = heard

    def _expect(self, scope: str, ways: list[list[Turn]]) -> None:
        self._turns = {other: turns for other, turns in self._turns.items() if not other.startswith(scope)}
        self._turns[scope] = Turns(ways)


def _inputs_of(module: nn.Module) -> list[str]:
    """The names of what a module's forward takes, in their order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def _moved(item: Item, start: int, source: bool) -> Item:
    """An image or frames in a sequence of which the call is the part from `start` on."""
    if isinstance(item, Image) and item.positions is not None:
        return replace(item, positions=[place + start for place in item.positions], source=source)
    first, stop = item.segment
    return replace(item, segment=(first + start, stop + start), source=source)
