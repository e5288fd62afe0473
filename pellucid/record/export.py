"""A record for other people's tools: Parquet tables, HeadVis's data tree, BertViz's arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid._version import __version__
from pellucid.legible import encodable
from pellucid.readouts.topk import TopKeys
from pellucid.record.studies.summary import COLUMNS, HeadSummary
from pellucid.record.texts import lists_of

if TYPE_CHECKING:
    from os import PathLike

    from pellucid.record.layer import Layer
    from pellucid.record.record import Record

MOST_ON_A_PAGE = 5_000_000  # weights that BertViz writes into a page, at some 23 bytes each
_ROWS_AT_ONCE = 1 << 20
_TEXTS = ("layer", "role", "kind", "because", "kind_without_sink", "because_without_sink")


# Parquet.


def to_parquet(record: Record, path: str | PathLike[str]) -> list[Path]:
    """Write the summary as a table of heads, and the top keys, where they were read, as another beside it.

    `heads.parquet` has a row a head and the columns of `record.summary()`. `heads.topk.parquet` has a row for each of
    the k strongest keys of each query: layer, head, sequence, query, query_token, rank, key, key_token, weight.

    Args:
        record: what was watched.
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
    columns = record.summary().columns()
    columns["layer"] = [encodable(name) for name in columns["layer"]]
    parquet.write_table(pyarrow.table(columns, schema=_schema(pyarrow)), heads)
    read = [name for name in record.layers if "topk" in record[name].readings]
    if not read:
        return [heads]
    keys = heads.with_name(f"{heads.stem}.topk.parquet")
    with parquet.ParquetWriter(keys, _schema_of_keys(pyarrow)) as writer:
        for name in read:
            for rows in _rows_of_keys(record, record[name]):
                writer.write_table(pyarrow.table(rows, schema=_schema_of_keys(pyarrow)))
    return [heads, keys]


def _schema(pyarrow: Any) -> Any:
    whole = {name: pyarrow.int32() for name in ("head", "rows")}
    kinds = {name: pyarrow.string() for name in _TEXTS} | whole
    return pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in COLUMNS])


def _schema_of_keys(pyarrow: Any) -> Any:
    text, number = pyarrow.string(), pyarrow.int32()
    return pyarrow.schema(
        [
            ("layer", text), ("head", number), ("sequence", number), ("query", number), ("query_token", text),
            ("rank", number), ("key", number), ("key_token", text), ("weight", pyarrow.float32()),
        ]
    )  # fmt: skip


def _rows_of_keys(record: Record, layer: Layer) -> Iterator[dict[str, Any]]:
    """The strongest keys of a layer as columns, some queries at a time; no padding, and no place without a key."""
    top: TopKeys = layer.topk
    at_once = max(1, _ROWS_AT_ONCE // (layer.batch * layer.heads * top.keys.shape[-1]))
    numbers = torch.tensor(layer.head_numbers or range(layer.heads), device="cpu")
    for start in range(0, layer.q_len, at_once):
        rows = slice(start, start + at_once)
        keys, weights = top.keys[:, :, rows].cpu(), top.weights[:, :, rows].cpu()
        sequence, head, query, rank = (keys >= 0).nonzero(as_tuple=True)
        query_at, key_at = query + start, keys[keys >= 0]
        yield {
            "layer": [encodable(layer.name)] * len(key_at),
            "head": numbers[head].numpy(),
            "sequence": sequence.numpy(),
            "query": (query_at + layer.start).numpy(),
            "query_token": _tokens_at(record, layer, sequence, query_at + layer.start, of_keys=False),
            "rank": rank.numpy(),
            "key": key_at.numpy(),
            "key_token": _tokens_at(record, layer, sequence, key_at, of_keys=True),
            "weight": weights[keys >= 0].detach().float().numpy(),
        }


def _tokens_at(record: Record, layer: Layer, sequence: Tensor, place: Tensor, *, of_keys: bool) -> list[str | None]:
    known = _tokens(record, layer, of_keys=of_keys)
    if known is None:
        return [None] * len(place)
    pairs = zip(sequence.tolist(), place.tolist(), strict=True)
    return [known[b][at] if b < len(known) and at < len(known[b]) else None for b, at in pairs]


def _tokens(record: Record, layer: Layer, *, of_keys: bool) -> list[list[str]] | None:
    """The tokens that a layer's queries or keys stand for, as any file can hold them."""
    listed = lists_of(record, layer)[of_keys]
    known = {"own": record.tokens, "source": record.source_tokens, None: None}[listed]
    return None if known is None else [[encodable(token) for token in tokens] for tokens in known]


# HeadVis.


def to_headvis(record: Record, path: str | PathLike[str]) -> Path:
    """Write a data tree for HeadVis, of the heads of self-attention: each pattern sparse, its strongest keys alone.

    The tree is `config.json`, `scatter_data.json` and `heads/L<layer>H<head>.json`; docs/records.md says what is in
    them. A pattern is flat: entry `indices[i] = query * length + key` has the weight `values[i]`. Files and flat
    indices are HeadVis's; the names of the fields are ours, and have not been tried with its page.

    Args:
        record: what was watched, with TopK among the readouts.
        path: the folder, HeadVis's `data/`; made if need be.

    Returns:
        The folder.

    Raises:
        ValueError: no layer of self-attention has its top keys.
        OSError: a file cannot be written.

    """
    names = [name for name in record.layers if record[name].role != "cross" and "topk" in record[name].readings]
    if not names:
        raise ValueError("to_headvis: no self-attention with its top keys; watch the model with TopK(8) among readouts")
    folder = Path(path)
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    heads = [(number, row) for number, name in enumerate(names) for row in record.summary(layers=[name])]
    _write_json(folder / "config.json", _config(record, names, heads))
    _write_json(folder / "scatter_data.json", [_scattered(number, row) for number, row in heads])
    for number, name in enumerate(names):
        layer = record[name]
        rows = [row for at, row in heads if at == number]
        for place, row in enumerate(rows):
            content = _scattered(number, row) | {"sequences": _sequences(record, layer, place)}
            _write_json(folder / "heads" / f"L{number}H{row.head}.json", content)
    return folder


def _config(record: Record, names: list[str], heads: list[tuple[int, HeadSummary]]) -> dict[str, Any]:
    return {
        "model": record.model,
        "written_by": f"pellucid {__version__}",
        "layers": [{"layer": number, "module": name} for number, name in enumerate(names)],
        "heads": [f"L{number}H{row.head}" for number, row in heads],
        "metrics": [name for name in COLUMNS if name not in (*_TEXTS, "head", "rows")],
    }


def _scattered(number: int, row: HeadSummary) -> dict[str, Any]:
    """A head's numbers."""
    values = {name: getattr(row, name) for name in COLUMNS if name not in ("layer", "head")}
    plain = {
        name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()
    }
    return {"layer": number, "head": row.head, "module": row.layer, **plain}


def _sequences(record: Record, layer: Layer, head: int) -> list[dict[str, Any]]:
    tokens = _tokens(record, layer, of_keys=True)
    return [
        {
            "length": layer.k_len,
            "tokens": tokens[b] if tokens is not None and b < len(tokens) else None,
            "pattern": _flat(layer, b, head),
        }
        for b in range(layer.batch)
    ]


def _flat(layer: Layer, sequence: int, head: int) -> dict[str, list[float]]:
    top: TopKeys = layer.topk
    keys, weights = top.keys[sequence, head].cpu(), top.weights[sequence, head].cpu()
    known = keys >= 0
    queries = (torch.arange(layer.q_len, device="cpu") + layer.start)[:, None].expand_as(keys)
    indices, order = (queries * layer.k_len + keys)[known].sort()
    return {"indices": indices.tolist(), "values": [round(value, 6) for value in weights[known][order].tolist()]}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(encodable(json.dumps(content, ensure_ascii=False, allow_nan=False)), encoding="utf-8")


# BertViz.


def to_bertviz(
    record: Record, window: slice = slice(None), source_window: slice = slice(None), *, sequence: int = 0
) -> dict[str, Any]:
    """The exact weights of a window, as BertViz's views take them: `head_view(**record.to_bertviz(slice(0, 80)))`.

    Args:
        record: what was watched, query and key kept.
        window: which tokens.
        source_window: which tokens of what an encoder reads.
        sequence: which of the batch.

    Returns:
        `attention`, a list of float32 tensors [1, heads, tokens, tokens], and `tokens`; of an encoder-decoder
        `encoder_attention`, `decoder_attention`, `cross_attention`, `encoder_tokens` and `decoder_tokens`.

    Raises:
        ValueError: no layer kept query and key, or the window is more than a page can hold.

    """
    kept = {name: record[name] for name in record.layers if record[name].parts}
    if not kept:
        raise ValueError("to_bertviz: no layer kept query and key; watch the model with keep=True")
    has_cross = any(layer.role == "cross" for layer in kept.values())
    windows = {name: _windows(layer, has_cross, window, source_window) for name, layer in kept.items()}
    _check_size(kept, windows)
    found: dict[str, list[Tensor]] = {}
    for name, layer in kept.items():
        queries, keys = windows[name]
        weights = layer.weights(queries=queries, keys=keys)[sequence : sequence + 1].float().cpu()
        found.setdefault(_ARGUMENT[layer.role] if has_cross else "attention", []).append(weights)
    return found | _labels(list(kept.values()), record, windows, has_cross, sequence)


_ARGUMENT = {"self": "encoder_attention", "causal self": "decoder_attention", "cross": "cross_attention"}


def _windows(layer: Layer, has_cross: bool, window: slice, source_window: slice) -> tuple[slice, slice]:
    """The windows of a layer's queries and keys."""
    if has_cross and layer.role == "self":
        return source_window, source_window
    return window, source_window if layer.role == "cross" else window


def _check_size(kept: dict[str, Layer], windows: dict[str, tuple[slice, slice]]) -> None:
    sizes = [
        layer.heads * len(range(layer.q_len)[windows[name][0]]) * len(range(layer.k_len)[windows[name][1]])
        for name, layer in kept.items()
    ]
    if sum(sizes) > MOST_ON_A_PAGE:
        raise ValueError(
            f"window: {sum(sizes):,} weights are more than a page holds ({MOST_ON_A_PAGE:,}); "
            "give a smaller one, as to_bertviz(slice(0, 100))"
        )


def _labels(
    layers: list[Layer], record: Record, windows: dict[str, tuple[slice, slice]], has_cross: bool, sequence: int
) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for layer in layers:
        queries, keys = windows[layer.name]
        own = "tokens" if not has_cross else "encoder_tokens" if layer.role == "self" else "decoder_tokens"
        labels[own] = _labelled(_tokens(record, layer, of_keys=False), layer.q_len, queries, sequence)
        if layer.role == "cross":
            labels["encoder_tokens"] = _labelled(_tokens(record, layer, of_keys=True), layer.k_len, keys, sequence)
    return labels


def _labelled(tokens: list[list[str]] | None, length: int, window: slice, sequence: int) -> list[str]:
    known = tokens[sequence] if tokens is not None and sequence < len(tokens) else []
    return [known[at] if at < len(known) else str(at) for at in range(length)[window]]
