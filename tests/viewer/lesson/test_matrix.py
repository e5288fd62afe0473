import io

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from pellucid.viewer.lesson.matrix import Matrix, SideBySide


def printed(*matrices, width=80):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(SideBySide(matrices), crop=False)
    return file.getvalue().splitlines()


def test_a_small_matrix():
    values = torch.tensor([[0.5, -1.25], [10.0, 0.0625]])
    assert printed(Matrix("x", values, ["a", "月"])) == [
        "  x [2, 2]",
        "   a  0.500 -1.250",
        "  月 10.000  0.062",
    ]


def test_columns_and_sums():
    values = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert printed(Matrix("weights", values, ["0", "1"], ["p", "q"], sums=True)) == [
        "  weights [2, 2]",
        "        p     q     sum",
        "  0 0.250 0.750   1.000",
        "  1 1.000 0.000   1.000",
    ]


def test_neighbours_share_their_labels():
    one, two = torch.ones(2, 1), torch.ones(3, 1)
    lines = printed(Matrix("Q", one, ["a", "b"]), Matrix("K", one, ["a", "b"]), Matrix("V", two, ["c", "d", "e"]))
    assert lines == [
        "  Q [2, 1]  K [2, 1]  V [3, 1]",
        "  a 1.000   1.000     c 1.000",
        "  b 1.000   1.000     d 1.000",
        "                      e 1.000",
    ]


def test_many_rows_are_left_out_in_the_middle():
    values = torch.arange(31.0)[:, None]
    lines = printed(Matrix("x", values, [str(row) for row in range(31)]))
    assert [line.split()[0] for line in lines[1:]] == [*map(str, range(8)), "⋮", *map(str, range(24, 31))]
    assert lines[-1] == "  30 30.000"


def test_sixteen_rows_are_all_shown():
    assert len(printed(Matrix("x", torch.ones(16, 1), ["r"] * 16))) == 17


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("sums", [False, True])
def test_wide_matrices_are_cut_to_the_width(width, sums):
    values = torch.arange(97.0).expand(3, 97)
    lines = printed(Matrix("x", values, ["a", "b", "c"], [str(n) for n in range(97)], sums=sums), width=width)
    assert max(map(cell_len, lines)) <= width
    row = lines[2].split()
    assert row[1] == "0.000"
    assert "…" in row
    assert row[-2 if sums else -1] == "96.000"
    assert sums == (row[-1] == "4656.000")
    assert lines[1].split()[0] == "0"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_three_wide_matrices_fit_any_width(width):
    matrices = [Matrix(name, torch.ones(5, 128), ["a", "b", "c", "d", "e"]) for name in "QKV"]
    lines = printed(*matrices, width=width)
    assert max(map(cell_len, lines)) <= width
    side_by_side = width == 120
    assert len(lines) == (6 if side_by_side else 3 * 6 + 2)
    assert ("K [5, 128]" in lines[0]) == side_by_side


def test_huge_numbers_keep_their_columns():
    lines = printed(Matrix("x", torch.tensor([[123456.0, 1.0], [-1e9, 2.0]]), ["a", "b"]))
    assert lines[1:] == ["  a  1.23e+05     1.000", "  b    -1e+09     2.000"]
