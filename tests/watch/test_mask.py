"""The mask that a model of transformers carries: a function until something computes with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import masking_utils

from pellucid.capture.calls.mask import LazyMask, MaskRule
from pellucid.capture.sources.transformers.functions import mask_function
from pellucid.language import TRUE, evaluate

PADDING = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
WINDOW = masking_utils.sliding_window_causal_mask_function(3)
PACKED = masking_utils.packed_sequence_mask_function(torch.tensor([[0, 0, 0, 1, 1, 2, 2]]).expand(2, -1))


def asked(function: Any = masking_utils.causal_mask_function, **more: Any) -> dict[str, Any]:
    return {"batch_size": 2, "q_length": 7, "kv_length": 7, "mask_function": function, "device": "cpu"} | more


def values(rule: MaskRule) -> Tensor:
    """What the expression of a rule's own indices says, [batch, 1, q_len, k_len]."""
    place = {
        "b": torch.arange(rule.batch)[:, None, None, None],
        "h": torch.zeros(1, dtype=torch.int64)[:, None, None],
        "q": torch.arange(rule.q_len)[:, None],
        "k": torch.arange(rule.k_len),
    }
    (found,) = evaluate(rule.by_index, inputs=place, dtype=torch.float32)
    return found.expand(rule.batch, 1, rule.q_len, rule.k_len)


@pytest.mark.parametrize(
    "arguments",
    [
        asked(),
        asked(attention_mask=PADDING),
        asked(WINDOW, attention_mask=PADDING),
        asked(masking_utils.and_masks(PACKED, masking_utils.causal_mask_function)),
        asked(masking_utils.bidirectional_mask_function, attention_mask=PADDING),
        asked(masking_utils.chunked_causal_mask_function(3, torch.tensor([2, 0])), attention_mask=PADDING),
        asked(WINDOW, q_length=3, q_offset=4, attention_mask=PADDING),
        asked(WINDOW, q_length=1, q_offset=torch.tensor(6), kv_length=3, kv_offset=4, attention_mask=PADDING),
        asked(q_length=1, q_offset=6, attention_mask=PADDING),
        asked(q_length=4, kv_length=9, attention_mask=PADDING[:, :4]),  # a static cache, empty after 4 keys
        asked(lambda b, h, q, k: (k <= q) & torch.tensor([[1, 0, 1, 1, 1, 1, 1]]).bool()[0][k], use_vmap=True),
        asked(lambda b, h, q, k: torch.gcd(q, k) < 3, attention_mask=PADDING),  # not in the score language
    ],
)
def test_the_expression_is_the_librarys_mask(arguments: dict[str, Any]) -> None:
    own = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    expected = masking_utils.sdpa_mask(**(arguments | own))
    lazy = mask_function(**arguments)
    assert isinstance(lazy, LazyMask)
    assert lazy.shape == expected.shape
    found = values(lazy.rule)
    assert torch.equal(found, expected[..., : lazy.rule.k_len])
    assert not expected[..., lazy.rule.k_len :].any()  # what is left out nobody may look at
    assert torch.equal(lazy & True, expected)


def test_full_masks_cost_nothing() -> None:
    bidirectional = asked(masking_utils.bidirectional_mask_function, attention_mask=torch.ones(2, 7))
    assert mask_function(**bidirectional, allow_is_bidirectional_skip=True) is None
    assert mask_function(**bidirectional).rule.by_index is TRUE
    assert mask_function(**asked(q_length=1, q_offset=6)).rule.by_index is TRUE


def test_padding_of_keys_and_queries() -> None:
    rule = mask_function(**asked(attention_mask=PADDING)).rule
    assert torch.equal(rule.padded_keys, PADDING == 0)
    assert torch.equal(rule.padded_queries, PADDING == 0)
    rule = mask_function(**asked(q_length=2, q_offset=5, attention_mask=PADDING)).rule
    assert torch.equal(rule.padded_keys, PADDING == 0)
    assert rule.padded_queries is None
    rule = mask_function(**asked(attention_mask=torch.ones(2, 7))).rule
    assert rule.padding is rule.padded_keys is rule.padded_queries is None


def test_a_lazy_mask_is_one_byte_until_it_is_computed_with() -> None:
    made: list[int] = []

    def materialise() -> Tensor:
        made.append(1)
        return torch.ones(2, 1, 5, 6, dtype=torch.bool).tril()

    rule = MaskRule(lambda b, h, q, k: k <= q, 2, 5, 6, 6, 0, 0, None, torch.device("cpu"), materialise)
    lazy = LazyMask.of(rule)
    assert lazy.untyped_storage().nbytes() == 1
    assert (lazy.shape, lazy.ndim, lazy.dtype, lazy.device.type) == ((2, 1, 5, 6), 4, torch.bool, "cpu")
    assert (lazy.size(-1), lazy.dim(), lazy.is_floating_point()) == (6, 4, False)
    assert lazy.contiguous() is lazy
    assert lazy.to("cpu") is lazy
    assert lazy.to(dtype=torch.bool).rule is rule
    assert repr(lazy) == "LazyMask([2, 1, 5, 6])"
    assert made == []
    whole = torch.ones(2, 1, 5, 6, dtype=torch.bool).tril()
    assert torch.equal(lazy[:, :, :2], whole[:, :, :2])
    assert torch.equal(torch.where(lazy, 0.0, -1.0), torch.where(whole, 0.0, -1.0))
    assert torch.equal(torch.cat([lazy, lazy], 1), torch.cat([whole, whole], 1))
    assert type(lazy.float()) is Tensor
    assert len(made) == 1
