"""What ranks do not agree on, or what one refuses: a message on each, and then they go on together."""

from __future__ import annotations

import re

import pytest

from tests.distributed import faults
from tests.distributed.ranks import Ranks

pytestmark = pytest.mark.sampled

FACES = {"sequence": faults.of_sequence, "DTensors": faults.of_dtensors}
REFUSED = f"attention: rank {faults.ODD} refuses its own arguments, so no rank computes; its error says why"
PLAIN = ("sinks' gradient", "a captured gradient", "a readout's gradient")  # of plain tensors
each_face = pytest.mark.parametrize("face", FACES)


@each_face
@pytest.mark.parametrize("name", faults.DIFFERING)
def test_differing_arguments(ranks: Ranks, face: str, name: str) -> None:
    told = ranks.run(FACES[face], "differing", name, 3, ranks=3)
    said = re.escape(faults.DIFFERING[name][1])
    if face == "DTensors" and name in PLAIN:
        assert_one_refuses(told, "among DTensors one that needs a gradient must be one")
        return
    for text in told:
        assert re.match(rf"ValueError: {said}: the ranks of a sharded call must give the same; rank 0 has ", text)
    assert len(set(told)) == 1


@each_face
@pytest.mark.parametrize("name", faults.WRONG)
def test_a_wrong_argument_on_one_rank(ranks: Ranks, face: str, name: str) -> None:
    assert_one_refuses(ranks.run(FACES[face], "wrong", name, 3, ranks=3), faults.WRONG[name][1])


@pytest.mark.parametrize("name", faults.LAYOUTS)
def test_a_wrong_layout_on_one_rank(ranks: Ranks, name: str) -> None:
    assert_one_refuses(ranks.run(faults.of_sequence, "wrong", name, 2, ranks=2), faults.LAYOUTS[name][1])


def assert_one_refuses(told: list[str], why: str) -> None:
    for rank, text in enumerate(told):
        if rank == faults.ODD:
            assert re.search(why, text), text
        else:
            assert text == f"ValueError: {REFUSED}"


@each_face
@pytest.mark.parametrize("name", faults.PARTIAL)
def test_what_one_rank_alone_would_find(ranks: Ranks, face: str, name: str) -> None:
    told = ranks.run(FACES[face], "partial", name, 2, ranks=2)
    assert re.search(faults.PARTIAL[name][1], told[1]), told
    assert re.search(f"{faults.PARTIAL[name][1]}|{REFUSED}", told[0]), told
