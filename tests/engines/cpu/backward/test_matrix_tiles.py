"""Gradients of bfloat16 on matrix tiles, soft ones where the processor has none."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given

from tests.cases import examples
from tests.engines.cpu.backward import test_captured as captured
from tests.engines.cpu.backward.calls import KINDS, OWN_DIMS, Shape, assert_right, gradients, sizes, tensors
from tests.engines.cpu.backward.test_dropout import gradients as with_dropout
from tests.engines.cpu.backward.test_protected_page import stays_inside
from tests.engines.cpu.forked import exit_code, forked
from tests.engines.cpu.soft_tiles import needs_tiles
from tests.engines.cpu.test_protected_page import EDGES
from tests.thorough import thorough

pytestmark = [needs_tiles, pytest.mark.usefixtures("tiles")]


@pytest.mark.parametrize("kind", thorough(["plain", "causal", "window", "scale", "sinks"], ["sinks"], share=5))
def test_any_call(kind: str) -> None:
    @examples(4)
    @given(shape=sizes(kind))
    def right(shape: Shape) -> None:
        made = tensors(shape, torch.bfloat16)
        call = KINDS[kind](shape[0], *shape[2:4])
        exact = gradients("reference", [tensor.double() for tensor in made], call)
        assert_right(gradients("cpu", made, call), exact, made, gradients("reference", made, call))

    right()


def test_dropout() -> None:
    made = tensors((4, 2, 130, 300, *OWN_DIMS["causal"]), torch.bfloat16)
    exact = with_dropout("reference", [tensor.double() for tensor in made], {"is_causal": True}, 0.3)
    peer = with_dropout("reference", made, {"is_causal": True}, 0.3)
    assert_right(with_dropout("cpu", made, {"is_causal": True}, 0.3), exact, made, peer)


@pytest.mark.parametrize("kind", thorough(captured.WAYS, ["several"], share=7))
def test_captured_tensors(kind: str) -> None:
    captured.assert_gradients(kind, (4, 2, 61, 519, 24, 16), torch.bfloat16)


@pytest.mark.parametrize("dtype", thorough([torch.float32, torch.float16], [torch.float32]), ids=str)
def test_what_is_split_forward(dtype: torch.dtype) -> None:
    """Of numbers in parts the forward kernel's scores are made on tiles, the backward kernel's by vectors."""
    made = tensors((4, 2, 83, 300, 64, 48), dtype)
    exact = gradients("reference", [tensor.double() for tensor in made], {"is_causal": True})
    own = gradients("cpu", made, {"is_causal": True})
    assert_right(own, exact, made, gradients("reference", made, {"is_causal": True}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("edge", EDGES)
def test_nothing_outside(edge: str) -> None:
    child = forked(lambda: stays_inside((49, 257, 64, 32), torch.bfloat16, EDGES[edge], [1]))
    assert exit_code(child, 200) == 0
