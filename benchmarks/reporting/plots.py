"""The results as pictures, from the same document that is written as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Document = dict[str, Any]
# Colour-blind safe (Okabe and Ito), ours the strongest.
COLOURS = {
    "pellucid": "#D55E00",
    "torch SDPA": "#0072B2",
    "FlexAttention, compiled": "#56B4E9",
    "eager": "#999999",
    "ONNX Runtime": "#009E73",
    "OpenVINO": "#CC79A7",
    "JAX": "#E69F00",
}


def draw(document: Document, directory: Path) -> list[Path]:
    """Write a PNG for each picture that there is something to draw for; gives their paths."""
    import matplotlib

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {"benchmark-attention": _attention, "benchmark-decode": _decode, "benchmark-goals": _goals}
    made = []
    for name, picture in pictures.items():
        figure = picture(document)
        if figure is not None:
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
            made.append(path)
    return made


def _attention(document: Document) -> Any:
    """GFLOP/s of every contender, a panel for each precision, the machine's peak as a line."""
    groups = {group: rows for group in ("float32", "bfloat16") if (rows := _rows(document, group)) and _timed(rows)}
    if not groups:
        return None
    figure, axes = _panels(len(groups))
    for axis, (group, rows) in zip(axes, groups.items(), strict=True):
        _bars(axis, rows, [row["name"].removeprefix(group).strip() for row in rows])
        limit = document["limits"]["per_second"].get(rows[0]["limit"])
        if limit:
            axis.axvline(limit / 1e9, color="black", linewidth=1, linestyle=":")
            axis.text(limit / 1e9, -0.7, rows[0]["limit"], ha="center", va="bottom", fontsize=8)
        axis.set_title(group, loc="left", fontweight="bold", pad=18)
        axis.set_xlabel("GFLOP/s (causal counts half of the matrix)")
    return _finished(figure, axes, document)


def _decode(document: Document) -> Any:
    """GB/s over the number of keys, a panel for each precision, the memory's speed as a line."""
    rows = _timed(_rows(document, "decode"))
    if not rows:
        return None
    kinds = ("bfloat16", "float32")
    figure, axes = _panels(len(kinds), height=4)
    for axis, kind in zip(axes, kinds, strict=True):
        for name, colour in COLOURS.items():
            points = [
                (_keys(row), contender["rate"] / 1e9)
                for row in rows
                if kind in row["name"]
                for contender in row["contenders"]
                if contender["name"] == name and contender.get("rate")
            ]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
        memory = document["limits"]["per_second"]["memory read"] / 1e9
        axis.axhline(memory, color="black", linewidth=1, linestyle=":")
        axis.text(0.01, memory, "memory", transform=axis.get_yaxis_transform(), va="bottom", fontsize=8)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_xlabel("keys")
        axis.set_title(f"decode, {kind}", loc="left", fontweight="bold")
    axes[0].set_ylabel("GB/s of keys and values")
    return _finished(figure, axes, document)


def _goals(document: Document) -> Any:
    """Every goal: what was measured as a multiple of it, so that all right of 1 is met."""
    told = [
        (f"{row['name']}: {goal['goal']}", _met_by(goal), goal["met"])
        for row in document["rows"]
        for goal in row["goals"]
        if goal["measured"]
    ]
    if not told:
        return None
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 1 + 0.22 * len(told)))
    colours = ["#009E73" if met else "#D55E00" for *_, met in told]
    places = range(len(told))
    axis.hlines(places, 1, [factor for _, factor, _ in told], color=colours)
    axis.scatter([factor for _, factor, _ in told], places, color=colours, s=18, zorder=3)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(places, [name for name, *_ in told], fontsize=7)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g} ×")
    axis.set_ylim(len(told) - 0.5, -0.5)
    axis.set_xlabel("measured / goal: right of the line is better than asked")
    _plain(axis)
    return figure


def _met_by(goal: dict[str, Any]) -> float:
    """Above 1 where the goal is met: what was measured as a multiple of an "at least", an "at most" of what was."""
    bound = float(goal["bound"])
    return float(goal["measured"]) / bound if goal["at_least"] else bound / float(goal["measured"])


def _bars(axis: Any, rows: list[Document], names: list[str]) -> None:
    present = [name for name in COLOURS if any(_rate(row, name) for row in rows)]
    height = 0.8 / len(present)
    for number, name in enumerate(present):
        places = [row_number - 0.4 + (number + 0.5) * height for row_number in range(len(rows))]
        axis.barh(places, [_rate(row, name) / 1e9 for row in rows], height, color=COLOURS[name], label=name)
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.invert_yaxis()


def _rate(row: Document, name: str) -> float:
    """0 for a contender without a number."""
    return next((c.get("rate") or 0.0 for c in row["contenders"] if c["name"] == name), 0.0)


def _rows(document: Document, group: str) -> list[Document]:
    return [row for row in document["rows"] if row["group"] == group and "contenders" in row]


def _timed(rows: list[Document]) -> list[Document]:
    return [row for row in rows if any("median_s" in contender for contender in row["contenders"])]


def _keys(row: Document) -> int:
    return int(row["name"].split("heads, ")[1].split()[0])


def _panels(count: int, height: float = 6.5) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(6.2 * count, height), squeeze=False)
    return figure, list(axes[0])


def _finished(figure: Any, axes: list[Any], document: Document) -> Any:
    """One legend for all the panels, below them; the machine in small print."""
    named: dict[str, Any] = {}
    for axis in axes:
        _plain(axis)
        handles, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.tight_layout()
    figure.legend(named.values(), named, loc="upper center", ncols=4, bbox_to_anchor=(0.5, 0.0), frameon=False)
    machine = document["machine"]
    threads = machine["threads"].split()[0]
    figure.text(0.5, -0.13, f"{machine['processor']}, {threads} threads", ha="center", fontsize=8, color="#555555")
    return figure


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
