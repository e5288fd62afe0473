"""Which heads a profile is of, and how long its lists are: what two profiles must share to become one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pellucid.profiles.entries import Entries, no_entries
from pellucid.profiles.numbers import NUMBERS
from pellucid.record.disk import schema

EXAMPLES = 4  # of each list, for each head and number
MOST_EXAMPLES = 64
TOP = 4  # strongest keys kept of each row
SEQUENCES = 8  # stretches of text, for each head
ROWS = 48  # of a stretch
FIRST, SAME = "first", "same token"  # of the place, and of query and key together: not of a token's text
OF_TEXTS = ("documents", "field", "target_field")  # settings of a corpus: those of different corpora may differ
OWN_CLASSES = (FIRST, SAME, "special", "punctuation", "whitespace", "digits")


class HeadName(NamedTuple):
    """A head."""

    layer: str
    role: str  # "self", "causal self" or "cross"
    head: int  # its number in the model


class ProfiledLayer(NamedTuple):
    """A layer, and the numbers of its heads in the model."""

    name: str
    role: str
    heads: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Everything that profiles which become one must share.

    Attributes:
        layers: in the order in which they run; none where no document was read.
        classes: the token classes.
        settings: what else the numbers depend on, by name: texts, numbers, lists and objects as JSON has them.
        examples: how long the lists of the strongest are.

    """

    layers: tuple[ProfiledLayer, ...] = ()
    classes: tuple[str, ...] = OWN_CLASSES
    settings: dict[str, Any] = field(default_factory=dict)
    examples: int = EXAMPLES

    @property
    def heads(self) -> list[HeadName]:
        """Every head, in the order of the rows of all tensors."""
        return [HeadName(layer.name, layer.role, head) for layer in self.layers for head in layer.heads]

    def lists(self, device: str = "cpu") -> dict[str, Entries]:
        """The lists that a profile has, empty; on the device "meta" their shapes alone."""
        heads = sum(len(layer.heads) for layer in self.layers)
        by_number = (heads, len(NUMBERS), self.examples)
        return {
            "documents": no_entries(*by_number, top=TOP, device=device),
            "queries": no_entries(*by_number, top=TOP, device=device),
            "keys": no_entries(heads, self.examples, top=TOP, device=device),
            "sequences": no_entries(heads, SEQUENCES if self.examples else 0, rows=ROWS, top=TOP, device=device),
        }

    def joined(self, other: Layout) -> Layout:
        """The layout of both.

        A document of one token does not show whether a layer is causal: it is where any document shows it.

        Raises:
            ValueError: they differ, which the message says.

        """
        for name, one, two in (
            *_differences(self.settings, other.settings),
            ("the token classes", self.classes, other.classes),
            ("the number of examples", self.examples, other.examples),
        ):
            if one != two:
                raise ValueError(f"{name} differ: {one} and {two}")
        settings = self.settings | _of_texts(self.settings, other.settings)
        if not self.layers or not other.layers:
            return replace(self if self.layers else other, settings=settings)
        plain = [[(layer.name, layer.heads) for layer in layout.layers] for layout in (self, other)]
        if plain[0] != plain[1]:
            raise ValueError(f"the layers differ: {_told(self.layers)} and {_told(other.layers)}")
        pairs = zip(self.layers, other.layers, strict=True)
        layers = tuple(one._replace(role=_role(one, two)) for one, two in pairs)
        return replace(self, layers=layers, settings=settings)


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted({*one, *other} - {*OF_TEXTS})
    return [(f"the settings {name!r}", one.get(name), other.get(name)) for name in names]


def _of_texts(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What settings say of how texts are read: each of what two profiles say, in order."""
    found = {}
    for name in OF_TEXTS:
        own = [settings[name] for settings in (one, other) if name in settings]
        texts = [text for value in own for text in (value if isinstance(value, list) else [value])]
        each = sorted({text for text in texts if isinstance(text, str)})
        if each:
            found[name] = each[0] if len(each) == 1 else each
    return found


def _role(one: ProfiledLayer, other: ProfiledLayer) -> str:
    if "cross" in (one.role, other.role) and one.role != other.role:
        raise ValueError(f"the layers differ: {one.name} is {one.role} in one and {other.role} in the other")
    return min(one.role, other.role)  # "causal self" before "self"


def _told(layers: tuple[ProfiledLayer, ...]) -> str:
    return f"{len(layers)} with {sum(len(layer.heads) for layer in layers)} heads, from {layers[0].name} on"


# In a file.

_HEAD = schema.whole(0, 1 << 27)
SCHEMA = schema.fields(
    {
        "layers": schema.list_of(
            schema.fields(
                {
                    "name": schema.name,
                    "role": schema.one_of("self", "causal self", "cross"),
                    "heads": schema.list_of(_HEAD, 1),
                }
            )
        ),
        "classes": schema.list_of(schema.name),
        "settings": schema.map_of(schema.anything),
        "examples": schema.whole(0, MOST_EXAMPLES),
    }
)


def as_json(layout: Layout) -> dict[str, Any]:
    """What a file says of a layout."""
    layers = [layer._asdict() | {"heads": list(layer.heads)} for layer in layout.layers]
    return {
        "layers": layers,
        "classes": list(layout.classes),
        "settings": layout.settings,
        "examples": layout.examples,
    }


def layout_of(entry: dict[str, Any]) -> Layout:
    """What a file, of which SCHEMA was asked, says of it.

    Raises:
        ValueError: a layer or class is there twice.

    """
    layers = tuple(ProfiledLayer(one["name"], one["role"], tuple(one["heads"])) for one in entry["layers"])
    for names in ([layer.name for layer in layers], entry["classes"], *(layer.heads for layer in layers)):
        if len(set(names)) != len(names):
            raise ValueError("a layer, head or class is there twice")
    return Layout(layers, tuple(entry["classes"]), entry["settings"], entry["examples"])
