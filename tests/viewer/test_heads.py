import io
from math import exp

import pytest
import torch
from rich.console import Console

from pellucid.viewer.heads import head_table, summarize
from pellucid.viewer.selection import select


def dense_means(weights):
    """The means over the queries by their definition: weights [heads, queries, keys]."""
    heads, queries, keys = weights.shape
    distance = (torch.arange(queries)[:, None] - torch.arange(keys)).abs()
    return [
        (
            torch.special.entr(weights[head]).sum(-1).mean().item(),
            weights[head, :, 0].mean().item(),
            (weights[head] * distance).sum(-1).mean().item(),
        )
        for head in range(heads)
    ]


@pytest.mark.parametrize("kind", ["cross", "encoder", "decoder"])
def test_summaries_are_those_of_the_matrix(read, kind):
    observation = read("3 mars 1997").attention[kind][1]
    *heads, mean = summarize(observation)
    expected = dense_means(observation.weights()[0])
    assert [head.head for head in heads] == [0, 1, 2]
    for head, numbers in zip(heads, expected, strict=True):
        assert (head.entropy, head.mass_on_first, head.mean_distance) == pytest.approx(numbers, abs=1e-5)
    assert mean.head is None
    assert mean.entropy == pytest.approx(sum(numbers[0] for numbers in expected) / 3, abs=1e-5)
    assert mean.mean_distance == pytest.approx(sum(numbers[2] for numbers in expected) / 3, abs=1e-5)
    assert mean.keys_in_use == pytest.approx(exp(mean.entropy))


@pytest.mark.parametrize(("head", "marked"), [(None, "mean"), (1, "1")])
def test_table(read, head, marked):
    selection = select(read("3 mars 1997"), "cross", head=head)
    file = io.StringIO()
    Console(file=file, width=80, color_system=None).print(head_table(selection))
    header, *rows = file.getvalue().splitlines()
    assert header.split("  ")[0] == "head"
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "mean"]
    assert [row.split()[0] for row in rows if "◂" in row] == [marked]
    summary = summarize(selection.observation)[0]
    expected = [f"{summary.entropy:.2f}", f"{summary.keys_in_use:.1f}"]
    expected += [f"{summary.mass_on_first:.2f}", f"{summary.mean_distance:.1f}"]
    assert [cell for cell in rows[0].split() if cell != "◂"][1:] == expected
