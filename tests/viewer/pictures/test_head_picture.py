"""A picture of one head: its cells, tokens where they fit, and the diagonal at 45 degrees."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm

from pellucid.record.pooling import pooled
from pellucid.viewer.pictures import head_picture
from pellucid.viewer.pictures.head_picture import of_record
from pellucid.viewer.record_map import Look
from pellucid.viewer.titles import short_model
from tests.watch.observed import observed_layer, observed_record

WORDS = ("the", "cat", "sat", "on", "a", "mat", "of", "9", ",", "11", ",", "8")


def record_of(**options):
    layer = observed_layer(batch=1, **options)
    longest = max(layer.q_len, layer.k_len)
    return observed_record(layer, tokens=[[WORDS[place % len(WORDS)] for place in range(longest)]])


def panel_of(figure):
    (panel,) = [axes for axes in figure.axes if axes.images]
    return panel


def drawn(panel):
    return panel.images[0].get_array().filled(0.0)


def test_a_head_of_a_short_text_has_every_token():
    record = record_of(q_len=13)
    figure = of_record(record, 0, Look(2), summary=record.summary()).draw()
    panel, words = panel_of(figure), record.tokens[0]
    np.testing.assert_allclose(drawn(panel), record[0].weights(heads=2)[0, 0].numpy())
    assert [label.get_text() for label in panel.get_xticklabels()] == words
    assert [label.get_text() for label in panel.get_yticklabels()] == words
    assert panel.get_aspect() == 1.0
    title = f"a model made by hand, layer 0, head 2: {record.summary()[2].kind}"
    assert figure.get_suptitle().replace("\n", " ") == title
    assert panel.get_title() == "model.layers.0.attention, causal self"


def test_a_window_stands_at_its_place_in_the_text():
    record = record_of(q_len=60)
    panel = panel_of(of_record(record, 0, Look(1, queries=slice(40, 52), keys=slice(30, 52))).draw())
    weights = record[0].weights(queries=slice(40, 52), keys=slice(30, 52), heads=1)[0, 0]
    np.testing.assert_allclose(drawn(panel), weights.numpy())
    assert [label.get_text() for label in panel.get_xticklabels()] == record.tokens[0][30:52]
    assert panel.get_xlim() == (29.5, 51.5)
    assert panel.get_ylim() == (51.5, 39.5)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_long_text_is_pooled_and_its_axes_are_positions(pool, monkeypatch):
    monkeypatch.setattr(head_picture, "MOST_CELLS", 50)
    record = record_of(q_len=190)
    panel = panel_of(of_record(record, 0, Look(None, pool)).draw())
    found = pooled(record[0], q_bin=4, k_bin=4)
    expected = found.mean.mean(0) if pool == "mean" else found.largest.amax(0)
    np.testing.assert_allclose(drawn(panel), expected.numpy(), rtol=1e-5, atol=1e-7)
    assert panel.images[0].get_extent() == [-0.5, 191.5, 191.5, -0.5]  # the last cell is cut by the limits
    assert panel.get_xlim() == (-0.5, 189.5)
    assert panel.get_aspect() == 1.0
    assert isinstance(panel.images[0].norm, LogNorm)
    assert "a cell is 4 of queries by 4 of keys" in panel.get_title().replace("\n", " ")


def test_lengths_that_are_unlike_fill_the_picture():
    panel = panel_of(of_record(record_of(role="cross", q_len=9, k_len=120), 0, Look(0)).draw())
    assert panel.get_aspect() == "auto"


@pytest.mark.sampled
@pytest.mark.parametrize("lengths", [(1, 1), (3, 3), (12, 30), (149, 149), (2, 400), (700, 3)])
def test_all_that_is_written_lies_inside(lengths):
    q_len, k_len = lengths
    record = record_of(role="cross", q_len=q_len, k_len=k_len)
    figure = of_record(record, 0, Look(0), summary=record.summary()).draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert found.x0 >= 0
    assert found.y0 >= 0
    assert found.x1 <= width
    assert found.y1 <= height


def test_a_map_without_weights_is_white():
    record = record_of(q_len=5, left_padding=[5])
    assert not drawn(panel_of(of_record(record, 0, Look(0)).draw())).any()


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="layer 0 kept neither query and key nor such a map; watch with keep=True"):
        of_record(record_of(kept=False), 0, Look(0, "max"))


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("BertModel /home/somebody/models/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("LlamaForCausalLM meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
        ("LlamaForCausalLM C:\\models\\Llama\\", "Llama"),
        ("BertModel /home/somebody/all-MiniLM-L6-v2/model", "all-MiniLM-L6-v2/model"),
        ("TransformerEncoder", "TransformerEncoder"),
        ("GPT2LMHeadModel gpt2", "GPT2LMHeadModel gpt2"),
        ("the embedded date reader, which answers 1997-03-03", "the embedded date reader, which answers 1997-03-03"),
    ],
)
def test_a_model_has_a_short_name(model, short):
    assert short_model(model) == short
