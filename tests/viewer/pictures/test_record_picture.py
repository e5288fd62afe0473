"""The wall of heads: what is written lies inside the picture, however small."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import pellucid
from pellucid.viewer.pictures.record_picture import draw


def wall(layers, **options):
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, num_layers=layers).eval()
    with torch.no_grad(), pellucid.watch(model, **options) as record:
        model(torch.randn(1, 13, 16))
    return draw(record, record.summary())


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


def test_a_record_without_maps_says_how_to_have_them():
    with pytest.raises(ValueError, match=r"draw; watch with keep=True or more=\[pellucid.Pooled\(64, 64\)\]"):
        wall(1)
