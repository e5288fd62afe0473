import os
import warnings

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from pellucid.viewer.pictures import fonts, picture
from pellucid.viewer.selection import select

BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("extension", BEGINNINGS)
def test_a_file_of_each_kind(read, tmp_path, extension):
    path = tmp_path / f"picture{extension}"
    picture.save(read("3 mars"), "cross", path)
    assert path.read_bytes().startswith(BEGINNINGS[extension])
    assert os.listdir(tmp_path) == [path.name]


def test_capitals_in_the_extension(read, tmp_path):
    path = tmp_path / "PICTURE.PNG"
    picture.check_path(path)
    picture.save(read("3 mars"), "cross", path)
    assert matplotlib.image.imread(path).shape[2] == 4


@pytest.mark.parametrize("extension", BEGINNINGS)
def test_the_same_reading_gives_the_same_bytes(read, tmp_path, extension):
    first, second = tmp_path / f"a{extension}", tmp_path / f"b{extension}"
    picture.save(read("3 mars"), "cross", first)
    picture.save(read("3 mars"), "cross", second)
    assert first.read_bytes() == second.read_bytes()


def test_panels_hold_the_weights_of_every_head(read):
    reading = read("3 mars 1997")
    figure = picture.draw(reading, "encoder")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * 3
    for number, panel in enumerate(panels):
        layer, head = divmod(number, 3)
        weights = reading.attention["encoder"][layer].weights(heads=head)[0, 0].numpy()
        np.testing.assert_array_equal(panel.images[0].get_array(), weights)
    assert len({panel.images[0].get_clim() for panel in panels}) == 1
    largest = max(float(observation.weights().max()) for observation in reading.attention["encoder"])
    assert panels[0].images[0].get_clim() == pytest.approx((0.0, largest))


def test_masked_weights_are_left_out(read):
    panel = picture.draw(read("3 mars"), "decoder").axes[0]
    shown = panel.images[0].get_array()
    queries = shown.shape[0]
    assert queries > 2
    assert shown.mask[np.triu_indices(queries, k=1)].all()
    assert not shown.mask[:, 0].any()


def test_tokens_are_on_both_axes(read):
    reading = read("3 mars")
    panels = [axes for axes in picture.draw(reading, "cross").axes if axes.images]
    bottom_left = panels[3]
    assert [label.get_text() for label in bottom_left.get_xticklabels()] == list("3␣mars")
    assert [label.get_text() for label in bottom_left.get_yticklabels()] == reading.target


def test_the_title_tells_text_and_answer(read):
    reading = read("3 mars")
    figure = picture.draw(reading, "cross")
    assert figure.get_suptitle() == f"3 mars\nread as {reading.answer}: cross-attention"


def test_a_long_text_is_shortened_in_the_title(read):
    assert picture.draw(read("3 " * 40), "cross").get_suptitle().split("\n")[0] == ("3 " * 40)[:59] + "…"


def test_characters_without_a_font_are_numbers_and_the_package_that_has_them_is_named_once(read, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_families", list)
    with pytest.warns(UserWarning, match=r"no installed font has 年 𠀀, .* install fonts-noto-cjk \(Debian") as warned:
        picture.save(read("1997年 𠀀"), "cross", tmp_path / "picture.png")
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="no installed font"):
        figure = picture.draw(read("1997年 𠀀"), "cross")
    labels = [label.get_text() for label in figure.axes[3].get_xticklabels()]
    assert labels == ["1", "9", "9", "7", "U+5E74", "␣", "U+20000"]


def test_text_of_an_svg_stays_text(read, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_families", list)
    path = tmp_path / "picture.svg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture.save(read("1997年 𠀀"), "cross", path)
    written = path.read_text(encoding="utf-8")
    assert all(f">{character}</text>" in written for character in "年𠀀␣")
    assert "U+5E74" not in written


def test_one_head_of_a_reading(read):
    reading = read("3 mars 1997")
    drawn = picture.of_head(reading, select(reading, "decoder", 1, 2))
    figure = drawn.draw()
    (panel,) = [axes for axes in figure.axes if axes.images]
    expected = reading.attention["decoder"][1].weights(heads=2)[0, 0].numpy()
    np.testing.assert_array_equal(panel.images[0].get_array().filled(0.0), expected)
    assert figure.get_suptitle() == f"3 mars 1997, read as {reading.answer}"
    assert panel.get_title() == "causal self-attention of the decoder, its layer 1, head 2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("picture", r"must end in \.png, \.svg, \.pdf, got '.*picture'"),
        ("picture.jpeg", r"must end in \.png, \.svg, \.pdf, got '.*picture\.jpeg'"),
        ("none/picture.png", r"the folder '.*none' does not exist; create it first"),
        ("folder.png", r"'.*folder\.png' is a folder; name a file"),
    ],
)
def test_paths_that_cannot_be_a_picture(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=f"^{message}$"):
        picture.check_path(tmp_path / name)


def test_a_failure_leaves_what_was_there(read, tmp_path, monkeypatch):
    def write_half(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", write_half)
    path = tmp_path / "picture.png"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left"):
        picture.save(read("3 mars"), "cross", path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["picture.png"]


def test_a_picture_takes_the_place_of_the_old_one_at_once(read, tmp_path):
    path, other_name = tmp_path / "picture.png", tmp_path / "other.png"
    path.write_bytes(b"before")
    os.link(path, other_name)
    picture.save(read("3 mars"), "cross", path)
    assert path.read_bytes().startswith(BEGINNINGS[".png"])
    assert other_name.read_bytes() == b"before"
