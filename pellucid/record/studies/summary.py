"""Every head of a record in numbers, each with the sink and without, and its kind: `record.summary()`.

docs/numerics.md says what each number means. All of them come from what was read in the pass (`summary_readouts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan
from typing import TYPE_CHECKING, Any

from pellucid import legible
from pellucid.record.studies.beyond import summary_readouts
from pellucid.record.studies.head_numbers import HeadNumbers, Pair, Ratio
from pellucid.record.studies.kinds import Rest, kind, kind_beyond_sink

if TYPE_CHECKING:
    from pellucid.record.layer import Layer
    from pellucid.record.record import Record

__all__ = ["PAIRED", "HeadSummary", "Summary", "summary", "summary_readouts"]

# The numbers that are told with the sink and, under `<name>_without_sink`, without it.
PAIRED = (
    "entropy",
    "relative_entropy",
    "previous",
    "distance",
    "nearby",
    "induction",
    "duplicate",
    "concentration",
)
_WITHOUT = "_without_sink"


@dataclass(frozen=True)
class HeadSummary:
    """One head. A number that was not read or means nothing (distance in cross-attention) is NaN."""

    layer: str
    role: str  # "self", "causal self" or "cross"
    head: int  # its number in the model
    rows: int  # queries counted, of all sequences, no padding among them
    sink_mass: float  # mean weight on the learned sink, 0 to 1; 0 where there is none
    first_mass: float  # mean weight on the first key
    entropy: float  # nats
    entropy_without_sink: float
    relative_entropy: float  # over the entropy of equal weights, 0 to 1
    relative_entropy_without_sink: float
    previous: float  # weight on the token before
    previous_without_sink: float
    distance: float  # mean tokens between query and key
    distance_without_sink: float
    nearby: float  # weight on keys at most 4 places away
    nearby_without_sink: float
    induction: float  # weight on what follows another occurrence of the query's token
    induction_without_sink: float
    duplicate: float  # weight on other occurrences of the query's token
    duplicate_without_sink: float
    concentration: float  # of what keys receive: 0 all alike, 1 one takes everything
    concentration_without_sink: float
    kind: str
    because: str  # the number that decided the kind
    kind_without_sink: str
    because_without_sink: str

    @property
    def sink(self) -> float:
        """The weight on the learned sink and on the first key together."""
        return self.sink_mass + self.first_mass


COLUMNS = tuple(field.name for field in fields(HeadSummary))


class Summary(Sequence[HeadSummary]):
    """The heads of a record, layer by layer. Printing it shows a table; `columns()` is what a data frame takes.

    The table's headings are the names that `columns()` has and `sorted` takes: a number whose name ends in
    `_without_sink` is without the learned sink and the first key, any other counts them. Those of whole heads are
    shown, and after `without_sink()`, or sorted by one of those, those without the sink.
    """

    def __init__(self, rows: Iterable[HeadSummary], shown: Sequence[str] | None = None) -> None:
        self.rows = tuple(rows)
        self._shown = tuple(_SHOWN if shown is None else shown)

    def __getitem__(self, index: Any) -> Any:
        return Summary(self.rows[index], self._shown) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Summary({len(self)} heads of {len({row.layer for row in self.rows})} layers)"

    def columns(self) -> dict[str, list[Any]]:
        """Each number's values, in the order of the heads: `pandas.DataFrame(summary.columns())`."""
        return {name: [getattr(row, name) for row in self.rows] for name in COLUMNS}

    def without_sink(self) -> Summary:
        """The same heads; what is printed is what they do with the weight that they do not put on the sink."""
        return Summary(self.rows, [_without(name) for name in _SHOWN])

    def sorted(self, by: str, *, descending: bool = True) -> Summary:
        """The heads ordered by one number, which the table then shows; where it is NaN, last.

        Raises:
            ValueError: `by` is no number of a head.

        """
        if by not in (*COLUMNS, "sink"):
            raise ValueError(f"by: one of {', '.join((*COLUMNS, 'sink'))}, got {by!r}")
        known = [row for row in self.rows if not _is_nan(getattr(row, by))]
        unknown = [row for row in self.rows if _is_nan(getattr(row, by))]
        ordered = [*sorted(known, key=lambda row: getattr(row, by), reverse=descending), *unknown]
        return Summary(ordered, self._with(by))

    def _with(self, name: str) -> list[str]:
        """The columns that show a number among others of its kind."""
        shown = list(self._shown)
        if name in PAIRED:
            shown = list(_SHOWN)
        elif name.removesuffix(_WITHOUT) in PAIRED:
            shown = [_without(one) for one in _SHOWN]
        return shown if name in shown else [*shown, name]

    def __str__(self) -> str:
        """A plain table."""
        table = [self._shown, *([_cell(row, name) for name in self._shown] for row in self.rows)]
        return "\n".join(_aligned(table, self._shown))

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(str(self))


def summary(record: Record, layers: Sequence[str] | None = None) -> Summary:
    """The heads of a record in numbers.

    Args:
        record: what was watched.
        layers: names of the layers; all if None.

    Returns:
        A Summary, one HeadSummary a head.

    Raises:
        KeyError: no layer of that name.

    """
    names = record.layers if layers is None else layers
    observed = [record[name] for name in names]
    return Summary(head for layer in observed for head in _heads(layer, HeadNumbers(layer)))


def _heads(layer: Layer, numbers: HeadNumbers) -> Iterator[HeadSummary]:
    values = {name: number.of_all().tolist() for name, number in numbers_of(numbers).items()}
    rows = int(numbers.rows.sum())
    for index, head in enumerate(layer.head_numbers or range(layer.heads)):
        own = {name: of_heads[index] for name, of_heads in values.items()}
        yield head_summary(layer.name, layer.role, int(head), rows, own)


def numbers_of(numbers: HeadNumbers) -> dict[str, Ratio]:
    """Every number of a layer's heads, by the name that it has in a HeadSummary."""
    found = {"sink_mass": numbers.sink_mass, "first_mass": numbers.first_mass, "sink": numbers.sink}
    pairs: dict[str, Pair] = {name: getattr(numbers, name) for name in PAIRED}
    found |= {name: pair.with_sink for name, pair in pairs.items()}
    return found | {f"{name}{_WITHOUT}": pair.without_sink for name, pair in pairs.items()}


def head_summary(layer: str, role: str, head: int, rows: int, values: Mapping[str, float]) -> HeadSummary:
    """A head of which every number is known, with the kinds that they say.

    Args:
        layer: the name of its layer.
        role: what the layer is.
        head: its number in the model.
        rows: the queries counted.
        values: the numbers, by the names of `numbers_of`.

    """
    used = Rest(**{field.name: values[f"{field.name}{_WITHOUT}"] for field in fields(Rest)})
    of_all, of_rest = kind(values["sink_mass"] + values["first_mass"], used), kind_beyond_sink(used)
    return HeadSummary(
        layer=layer,
        role=role,
        head=head,
        rows=rows,
        kind=of_all.name,
        because=of_all.because,
        kind_without_sink=of_rest.name,
        because_without_sink=of_rest.because,
        **{name: value for name, value in values.items() if name != "sink"},
    )


# As text.

_SHOWN = (
    "layer",
    "role",
    "head",
    "kind",
    "kind_without_sink",
    "sink",
    "entropy",
    "relative_entropy",
    "previous",
    "distance",
    "induction",
    "duplicate",
)
_LEFT = {"head", *(name for name, kind in HeadSummary.__annotations__.items() if kind == "str")}


def _without(name: str) -> str:
    return name + _WITHOUT if name in PAIRED else name


def _cell(row: HeadSummary, name: str) -> str:
    value = getattr(row, name)
    if isinstance(value, str):
        return legible.name(value)
    if isinstance(value, int):
        return str(value)
    return _number(value, digits=1 if name.startswith("distance") else 2)


def _aligned(table: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if name in _LEFT else cell.rjust(width)
            for name, cell, width in zip(names, line, widths, strict=True)
        ).rstrip()
        for line in table
    ]


def _number(value: float, digits: int = 2) -> str:
    return "-" if isnan(value) else f"{value:.{digits}f}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and isnan(value)
