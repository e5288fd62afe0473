import io

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from pellucid.viewer.terminal.attention_map import AttentionMap
from pellucid.viewer.terminal.shades import Shading

QUERIES = ["1", "9", "$"]
KEYS = ["3", " ", "m", "a", "r"]
WEIGHTS = [[0.8, 0.0, 0.0, 0.0, 0.2], [0.001, 0.199, 0.4, 0.2, 0.2], [0.0, 0.0, 0.0, 0.6, 0.4]]


def plain(attention_map, width=80, **options):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, **options).print(attention_map, crop=False)
    return file.getvalue().splitlines()


def coloured(attention_map, width=80, terminal="xterm", **options):
    settings = {"color_system": "truecolor", "force_terminal": True, "legacy_windows": False} | options
    console = Console(file=io.StringIO(), width=width, _environ={"TERM": terminal}, **settings)
    return list(console.render(attention_map))


def test_plain_map():
    assert plain(AttentionMap(WEIGHTS, QUERIES, KEYS)) == [
        "  3 ␣ m a r ",
        "1 ██      ░░",
        "9 · ░░▒▒░░░░",
        "$       ▓▓▒▒",
        "",
        "weight  ·  0.00   ░░ 0.20   ▒▒ 0.40   ▓▓ 0.60   ██ 0.80   blank: no weight",
    ]


def test_the_legend_speaks_of_blanks_only_where_there_are_some():
    lines = plain(AttentionMap([[0.5, 0.5]], ["a"], ["b", "c"]))
    assert lines[-1] == "weight  ·  0.00   ░░ 0.12   ▒▒ 0.25   ▓▓ 0.38   ██ 0.50"


def test_wide_characters_keep_the_columns():
    lines = plain(AttentionMap([[0.1, 0.9], [0.9, 0.1]], ["日", "1"], ["年", "7"]))
    assert lines[:3] == ["   年7 ", "日 · ██", " 1 ██· "]


def test_every_line_of_a_panel_is_equally_wide():
    keys = ["م", "\u094d", "月", " ", "e\u0301", "x"]
    lines = plain(AttentionMap(torch.eye(6).tolist(), keys, keys))
    assert {cell_len(line) for line in lines[:7]} == {3 + 2 * 6}


@pytest.mark.parametrize(("width", "panels"), [(80, [36, 37]), (40, [18, 18, 18, 19]), (3, [1] * 73)])
def test_a_wide_map_folds_into_even_panels(width, panels):
    keys = [chr(0x4E00 + number) for number in range(73)]
    lines = plain(AttentionMap([[(number + 1) / 73 for number in range(73)]], ["q"], keys), width)
    headers = lines[0::3][: len(panels)]
    assert [len(line.split()[0]) for line in headers] == panels
    assert "".join(line.strip() for line in headers) == "".join(keys)
    rows = lines[1::3][: len(panels)]
    assert [cell_len(row) for row in rows] == [2 + 2 * size for size in panels]
    assert all(row.startswith("q ") for row in rows)
    assert max(map(cell_len, lines[:-1])) <= max(width, 4)


def test_labels_too_long_for_a_cell_are_written_downwards():
    lines = plain(AttentionMap([[0.5, 0.5]], ["a"], ["<s>", "b"]))
    assert lines[:4] == ["  <   ", "  s   ", "  > b ", "a ████"]


def test_labels_that_fill_their_cells_do_not_run_together():
    lines = plain(AttentionMap([[0.25] * 4], ["a"], ["9", "11", "8", "10"]))
    assert lines[:2] == ["    1   1 ", "  9 1 8 0 "]
    assert plain(AttentionMap([[0.5, 0.5]], ["a"], ["月", "日"]))[0] == "  月日"  # each is one character


def test_a_scale_of_small_weights_tells_its_steps_apart():
    lines = plain(AttentionMap([[0.004, 0.001]], ["a"], ["b", "c"]))
    assert lines[-1] == "weight  ·  0.0e+00   ░░ 1.0e-03   ▒▒ 2.0e-03   ▓▓ 3.0e-03   ██ 4.0e-03"


def test_very_long_labels_are_cut():
    lines = plain(AttentionMap([[1.0]], ["q" * 40], ["k" * 40]))
    header, row = lines[:12], lines[12]
    assert [line.strip() for line in header] == ["k"] * 11 + ["…"]
    assert row == "q" * 11 + "… ██"


def test_a_map_without_keys_draws_none():
    assert plain(AttentionMap([], [], [])) == ["", "weight  ·  0.00   ░░ 0.00   ▒▒ 0.00   ▓▓ 0.00   ██ 0.00"]


def test_colours_are_those_of_the_weights():
    segments = coloured(AttentionMap(WEIGHTS, QUERIES, KEYS))
    cells = [s for s in segments if s.text == "  " and not s.control][1:16]  # the first is the header's margin
    shading = Shading(0.8)
    expected = [None if weight == 0 else shading.background(weight) for row in WEIGHTS for weight in row]
    assert [None if cell.style is None else cell.style.bgcolor.name for cell in cells] == expected


@pytest.mark.parametrize("options", [{"no_color": True}, {"color_system": "standard"}])
def test_without_enough_colours_characters_are_drawn(options):
    text = "".join(segment.text for segment in coloured(AttentionMap(WEIGHTS, QUERIES, KEYS), **options))
    assert "1 ██      ░░" in text


def test_an_output_of_ascii_gets_ascii():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80, color_system=None)
    console.print(AttentionMap([[0.8, 0.2, 0.0]], ["月"], ["a", " ", "é"]), crop=False)
    console.file.flush()
    assert raw.getvalue().decode("ascii").splitlines() == [
        "  a _ ? ",
        "? ##::  ",
        "",
        "weight  .  0.00   :: 0.20   ++ 0.40   ** 0.60   ## 0.80   blank: no weight",
    ]


def test_the_cursor_is_placed_after_labels_of_uncertain_width():
    devanagari_aa = "\u093e"
    segments = coloured(AttentionMap([[0.5, 0.5]] * 2, ["xy", devanagari_aa], ["x", devanagari_aa]))
    assert [segment.text for segment in segments if segment.control] == ["\x1b[8G", "\x1b[4G"]


def test_a_terminal_that_cannot_place_the_cursor_is_not_asked_to():
    segments = coloured(AttentionMap([[0.5]], ["x"], ["\u093e"]), terminal="dumb")
    assert not any(segment.control for segment in segments)


def test_a_pipe_gets_no_escape_codes():
    assert not any("\x1b" in line for line in plain(AttentionMap([[1.0]], ["\u093e"], ["\u093e"])))
