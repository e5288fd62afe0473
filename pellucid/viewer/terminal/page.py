"""What `pellucid show` prints for one text: the answer, one attention map, and the heads' readouts beside it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from pellucid.legible import one_line
from pellucid.viewer.heads import head_table
from pellucid.viewer.selection import Reading, Selection
from pellucid.viewer.terminal.attention_map import AttentionMap

_AXES = {
    "cross": ("characters of the answer as they are written, $ for its end", "characters of the text that they read"),
    "encoder": ("characters of the text", "characters of the text that they take in"),
    "decoder": (
        "characters of the answer as they are written, $ for its end",
        "the start mark ^, then what was written before",
    ),
}


def page(reading: Reading, selection: Selection) -> RenderableType:
    """The whole screen for one reading."""
    rows, columns = _AXES[selection.kind]
    return Group(
        Text(f"text     {one_line(reading.text)}"),
        Text.assemble("answer   ", (reading.answer, "bold")),
        Text(),
        Text(selection.title, style="bold"),
        Text(
            f"module   {selection.module[1]}, layer {selection.module[0]} of all in records and pellucid view",
            style="dim",
        ),
        Text(f"rows     {rows}", style="dim"),
        Text(f"columns  {columns}", style="dim"),
        Text(),
        AttentionMap(selection.weights().tolist(), selection.queries, selection.keys),
        Text(),
        head_table(selection),
    )
