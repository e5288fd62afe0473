"""The wall of heads: what is written lies inside the picture, however small."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import pellucid
from pellucid.record.pooling import pooled
from pellucid.viewer.pictures.record_picture import draw
from pellucid.viewer.record_map import Look
from tests.watch.observed import observed_layer, observed_record


def wall(layers, **options):
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, num_layers=layers).eval()
    with torch.no_grad(), pellucid.watch(model, **options) as record:
        model(torch.randn(1, 13, 16))
    return draw(record, record.summary())


@pytest.mark.sampled
@pytest.mark.parametrize("layers", [1, 2, 3, 7])
def test_all_that_is_written_lies_inside(layers):
    figure = wall(layers, keep=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox
    for text in figure.findobj(Text):
        box = text.get_window_extent(canvas.get_renderer())
        if text.get_text() and "mathdefault" not in text.get_text():  # numbers beyond the scale are not drawn
            inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
            assert inside, text.get_text()


def test_a_wall_is_square_with_tokens_where_they_fit():
    figure = wall(2, keep=True, tokens=[list("abcdefghijklm")])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 4
    assert {panel.get_aspect() for panel in panels} == {1.0}
    first = [label.get_text() for label in panels[0].get_xticklabels()]
    assert first == [label.get_text() for label in panels[2].get_yticklabels()] == list("abcdefghijklm")
    assert not panels[1].get_xticks().size


def test_a_wall_of_a_window_by_the_largest_weight():
    layer = observed_layer(q_len=200, batch=1)
    record = observed_record(layer, observed_layer("short", q_len=40, batch=1))
    told = []
    figure = draw(record, record.summary(), Look(None, "max", slice(50, 180), slice(20, 150)), progress=told.append)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == layer.heads  # the short layer has nothing of it
    expected = pooled(layer, q_bin=3, k_bin=3, queries=slice(50, 180), keys=slice(20, 150)).largest
    np.testing.assert_allclose(panels[1].images[0].get_array().filled(0.0), expected[1].numpy())
    assert told == sorted(told)
    assert told[-1] <= 1.0


def test_a_record_without_maps_says_how_to_have_them():
    with pytest.raises(ValueError, match=r"draw; watch with keep=True or more=\[pellucid.Pooled\(64, 64\)\]"):
        wall(1)
