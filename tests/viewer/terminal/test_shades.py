import matplotlib
import pytest

from pellucid.viewer.terminal.shades import ASCII, Shading, viridis


def test_viridis_is_matplotlibs():
    colours = matplotlib.colormaps["viridis"]
    for step in range(256):
        expected = [channel * 255 for channel in colours(step)[:3]]
        assert viridis(step / 255) == pytest.approx(expected, abs=6)


def test_viridis_clamps():
    assert viridis(-1.0) == viridis(0.0) == (0x44, 0x01, 0x54)
    assert viridis(2.0) == viridis(1.0) == (0xFD, 0xE7, 0x25)


@pytest.mark.parametrize(
    ("weight", "cell"),
    [(0.0, "  "), (0.001, "· "), (0.1, "· "), (0.2, "░░"), (0.41, "▒▒"), (0.55, "▓▓"), (0.8, "██"), (0.9, "██")],
)
def test_a_cell_is_the_nearest_level(weight, cell):
    assert Shading(top=0.8).cell(weight) == cell


def test_levels_are_drawn_as_they_say():
    shading = Shading(top=0.6, characters=ASCII)
    levels = shading.levels()
    assert [weight for _, weight in levels] == pytest.approx([0, 0.15, 0.3, 0.45, 0.6])
    assert all(shading.cell(weight) == cell for cell, weight in levels[1:])
    assert shading.cell(1e-9) == levels[0][0]


def test_background_spans_the_map():
    shading = Shading(top=0.5)
    assert shading.background(0.5) == "#fde725"
    assert shading.background(1e-9) == "#440154"


def test_a_map_of_zeros_has_a_scale():
    assert Shading(top=0.0).fraction(0.0) == 0.0
    assert Shading(top=0.0).background(0.0) == "#440154"
