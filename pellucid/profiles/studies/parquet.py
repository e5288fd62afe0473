"""A profile as tables for others: Parquet, a row a head, a bin, a kind of key, an example."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.legible import encodable
from pellucid.profiles.numbers import NUMBERS
from pellucid.profiles.studies.corpus_kinds import corpus_kinds
from pellucid.profiles.studies.passages import passages
from pellucid.profiles.studies.tables import SHARES, layer_numbers, spreads
from pellucid.profiles.sums import BANDS

if TYPE_CHECKING:
    from os import PathLike

    from pellucid.profiles.listing import Example
    from pellucid.profiles.profile import Profile

Columns = dict[str, list[Any]]
QUANTILE_NAMES = tuple(f"p{round(100 * share):02d}" for share in SHARES)


def to_parquet(profile: Profile, path: str | PathLike[str]) -> list[Path]:
    """Write the heads as a table, and beside it tables of what there is more than one of a head.

    `heads.parquet` has a row a head: its kinds with their confidence, and for each number NAME the columns
    `NAME_documents`, `NAME_mean`, `NAME_spread`, `NAME_least`, `NAME_most` and `NAME_p05` to `NAME_p95`.
    `heads.histograms.parquet` has a row a bin that is not empty; `heads.where.parquet` a row for each distance and
    token class that a head had keys of; `heads.examples.parquet` a row for each of the strongest, with its text.

    Args:
        profile: of a corpus.
        path: the file of heads, by custom `*.parquet`.

    Returns:
        The files written.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        OSError: a file cannot be written.

    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"to_parquet needs {error.name}; pip install pyarrow") from error
    heads = Path(path)
    made = {"": head_columns(profile), "histograms": _histograms(profile), "where": _where(profile)}
    made["examples"] = _examples(profile)
    files = []
    for name, columns in made.items():
        file = heads.with_name(f"{heads.stem}.{name}.parquet") if name else heads
        parquet.write_table(pyarrow.table(columns, schema=_schema(pyarrow, columns)), file)
        files.append(file)
    return files


def head_columns(profile: Profile) -> Columns:
    """The table of heads: what a data frame takes."""
    found: Columns = _named(profile, list(range(len(profile.heads))))
    for suffix, kinds in (
        ("", corpus_kinds(profile)),
        ("_without_sink", corpus_kinds(profile, without_sink=True)),
    ):
        found[f"kind{suffix}"] = [kind.name for kind in kinds]
        for part in ("share", "low", "high", "documents"):
            found[f"kind{suffix}_{part}"] = [getattr(kind, part) for kind in kinds]
    for number in NUMBERS:
        own = spreads(profile, number)
        for part in ("documents", "mean", "spread", "least", "most"):
            found[f"{number}_{part}"] = [getattr(one, part) for one in own]
        for place, name in enumerate(QUANTILE_NAMES):
            found[f"{number}_{name}"] = [one.quantiles[place] for one in own]
    return found


def _named(profile: Profile, places: list[int]) -> Columns:
    """The heads that rows are of."""
    layers, heads = layer_numbers(profile), profile.heads
    return {
        "layer": [layers[place] for place in places],
        "module": [encodable(heads[place].layer) for place in places],
        "role": [heads[place].role for place in places],
        "head": [heads[place].head for place in places],
    }


def _histograms(profile: Profile) -> Columns:
    places: list[int] = []
    own: Columns = {"number": [], "low": [], "high": [], "documents": []}
    for number in NUMBERS:
        edges, counts = profile.histogram(number)
        head, place = counts.nonzero(as_tuple=True)
        places += head.tolist()
        own["number"] += [number] * len(head)
        own["low"] += edges[place].tolist()
        own["high"] += edges[place + 1].tolist()
        own["documents"] += counts[head, place].tolist()
    return _named(profile, places) | own


def _where(profile: Profile) -> Columns:
    """By distance, whose band is `low` to `high` tokens back, and by token class."""
    places: list[int] = []
    own: Columns = {"by": [], "name": [], "low": [], "high": [], "mass": [], "equal": []}
    for by, masses in (("distance", profile.by_distance()), ("class", profile.on_classes())):
        for place, (masses_of, equals) in enumerate(zip(masses.mass.tolist(), masses.equal.tolist(), strict=True)):
            for number, (name, mass, equal) in enumerate(zip(masses.names, masses_of, equals, strict=True)):
                if not isfinite(mass) or equal == 0:
                    continue
                places.append(place)
                band = BANDS[number] if by == "distance" else (None, None)
                for column, value in zip(own, (by, encodable(name), *band, mass, equal), strict=True):
                    own[column].append(value)
    return _named(profile, places) | own


def _examples(profile: Profile) -> Columns:
    places: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for place in range(len(profile.heads)):
        for by, number, found in _lists(profile, place):
            for rank, example in enumerate(found):
                places.append(place)
                rows.append((by, number, rank, *_row(example)))
    columns = zip(*rows, strict=True) if rows else [[] for _ in _EXAMPLE]
    return _named(profile, places) | {name: list(own) for name, own in zip(_EXAMPLE, columns, strict=True)}


def _lists(profile: Profile, place: int) -> Iterator[tuple[str, str | None, list[Example]]]:
    for number in NUMBERS:
        yield "document", number, profile.strongest_documents(place, number)
        yield "query", number, profile.strongest_queries(place, number)
    yield "key", None, profile.strongest_keys(place)
    yield "sequence", None, profile.sequences(place)


_EXAMPLE = (
    "strongest", "number", "rank", "value", "corpus", "document", "document_name", "length", "query", "query_token",
    "key", "key_token", "weight", "text",
)  # fmt: skip


def _row(example: Example) -> tuple[Any, ...]:
    document = example.document
    runs = [one.text for one in passages(example)]
    return (
        example.value, encodable(document.corpus), document.number, encodable(document.name), document.length,
        example.query, _text(example.query_token), example.key, _text(example.key_token), example.weight,
        encodable(" … ".join(runs)),
    )  # fmt: skip


def _text(token: str | None) -> str | None:
    return None if token is None else encodable(token)


_TEXTS = (
    "module", "role", "kind", "kind_without_sink", "number", "by", "name", "strongest", "corpus", "document_name",
    "query_token", "key_token", "text",
)  # fmt: skip
_WHOLE = ("layer", "head", "rank", "document", "length", "query", "key")


def _schema(pyarrow: Any, columns: Columns) -> Any:
    return pyarrow.schema([(name, _type(pyarrow, name, "by" in columns)) for name in columns])


def _type(pyarrow: Any, name: str, of_bands: bool) -> Any:
    if name in _TEXTS:
        return pyarrow.string()
    if name in _WHOLE or name.endswith("documents") or (of_bands and name in ("low", "high")):
        return pyarrow.int64()
    return pyarrow.float64()
