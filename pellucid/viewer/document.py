"""A reading as plain values for JSON: the readouts of every layer and head of one kind, and the chosen map."""

from __future__ import annotations

from typing import Any

from pellucid.observation import Observation
from pellucid.viewer.heads import by_query, summarize
from pellucid.viewer.selection import Reading, Selection


def document(reading: Reading, selection: Selection) -> dict[str, Any]:
    """What `pellucid show --json` prints for one text.

    `heads` lists every head of every layer of the chosen kind: `entropy` in nats, `mass_on_first` from 0 to 1 and
    `mean_distance` in tokens, as means over the queries and, under `by_query`, for each query. `map` has the chosen
    weights [queries, keys]; its head is null for the mean of all heads.
    """
    return {
        "text": reading.text,
        "answer": reading.answer,
        "attention": selection.kind,
        "queries": list(selection.queries),
        "keys": list(selection.keys),
        "heads": [
            {"layer": layer, **head}
            for layer, observation in enumerate(reading.attention[selection.kind])
            for head in _heads(observation)
        ],
        "map": {"layer": selection.layer, "head": selection.head, "weights": selection.weights().tolist()},
    }


def _heads(observation: Observation) -> list[dict[str, Any]]:
    *summaries, _ = summarize(observation)
    rows = {name: values.tolist() for name, values in by_query(observation).items()}
    return [
        {
            "head": summary.head,
            "entropy": summary.entropy,
            "mass_on_first": summary.mass_on_first,
            "mean_distance": summary.mean_distance,
            "by_query": {name: values[index] for name, values in rows.items()},
        }
        for index, summary in enumerate(summaries)
    ]
