"""Images and frames of a record: what they may be, which layers they belong to, and the disk."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pellucid
from pellucid import Frames, Image
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.writer import RecordWriter
from pellucid.record.record import Record
from pellucid.record.stored import open_record
from tests.watch.observed import observed_layer, observed_record
from tests.watch.test_hostile import changed, refused


def picture(height=4, width=6, seed=0):
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.fixture
def encoder_decoder():
    return observed_record(
        observed_layer("encoder.0", "self", q_len=11),
        observed_layer("decoder.0.own"),
        observed_layer("decoder.0.cross", "cross", k_len=11),
    )


@pytest.fixture
def tower_and_language():
    return observed_record(
        observed_layer("tower.0", "self", q_len=7, batch=3),
        observed_layer("tower.0#2", "self", q_len=7, batch=3),
        observed_layer("language.0"),
    )


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 50))
def test_patches_are_row_by_row(rows, columns, start):
    count = rows * columns
    image = Image(rows, columns, slice(start, start + count))
    assert image.limits == (start, start + count)
    for row in range(rows):
        for column in range(columns):
            assert image.patches[row, column] == start + row * columns + column
    given_each = Image(rows, columns, positions=image.patches)
    assert torch.equal(given_each.patches, image.patches)
    assert given_each.limits == image.limits


def test_rows_that_end_in_a_token_are_positions():
    image = Image(2, 3, positions=[5, 6, 7, 9, 10, 11])
    assert image.patches.tolist() == [[5, 6, 7], [9, 10, 11]]
    assert image.limits == (5, 12)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rows": 2, "columns": 3, "segment": (1, 6)}, "segment: 2 x 3 patches are at 6 positions, got 5"),
        ({"rows": 2, "columns": 2, "positions": [1, 2, 3]}, "positions: 2 x 2 patches are at 4 positions, got 3"),
        ({"rows": 1, "columns": 2, "positions": [3, 3]}, "positions: two patches are at one position"),
        ({"rows": 1, "columns": 1, "positions": [-1]}, "positions: numbers from 0, one for each patch"),
        ({"rows": 1, "columns": 1}, "segment, positions: one of them is needed"),
        ({"rows": 1, "columns": 1, "segment": (0, 1), "positions": [0]}, "segment, positions: one of them is needed"),
        ({"rows": 0, "columns": 1, "segment": (0, 1)}, "rows: a whole number from 1 is needed, got 0"),
        ({"rows": 1, "columns": True, "segment": (0, 1)}, "columns: a whole number from 1 is needed, got True"),
        ({"rows": 1, "columns": 1, "segment": (0, 1), "sequence": -1}, "sequence: a whole number from 0 is needed"),
        ({"rows": 1, "columns": 1, "segment": slice(3, None)}, r"segment: slice\(start, stop\) or \(start, stop\)"),
        ({"rows": 1, "columns": 1, "segment": slice(0, 4, 2)}, r"segment: slice\(start, stop\) or \(start, stop\)"),
        ({"rows": 1, "columns": 1, "segment": (4, 4)}, "segment: must go forward from 0 or later"),
        ({"rows": 1, "columns": 1, "segment": (0, 1), "layers": 3}, "layers: names of layers or patterns"),
        (
            {"rows": 1, "columns": 1, "segment": (0, 1), "picture": torch.zeros(3, 4, 4)},
            r"picture: must be uint8 \[height, width, 3\], got torch.float32 \[3, 4, 4\]",
        ),
        ({"rows": 1, "columns": 1, "segment": (0, 1), "picture": "cat.png"}, "picture: a tensor or numpy.asarray"),
    ],
)
def test_an_image_that_cannot_be_is_refused(values, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Image(**values)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"seconds_per_key": 0}, "seconds_per_key: a number above 0 is needed, got 0"),
        ({"seconds_per_key": float("nan")}, "seconds_per_key: a number above 0"),
        ({"seconds_per_key": 1, "offset": float("inf")}, "offset: a number of seconds"),
        ({"seconds_per_key": 1, "sequence": 1.5}, "sequence: a whole number from 0 is needed, or None for all"),
        ({"seconds_per_key": 1, "segment": (3, 2)}, "segment: must go forward"),
    ],
)
def test_frames_that_cannot_be_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        Frames(**values)


def test_a_frame_begins_when_its_offset_and_place_say():
    frames = Frames(seconds_per_key=0.5, segment=(4, 20), offset=3.0)
    assert [frames.seconds(position) for position in (4, 5, 10)] == [3.0, 3.5, 6.0]
    assert Frames(seconds_per_key=0.5).seconds(3) == 1.5


def test_an_array_is_taken_as_a_picture():
    image = Image(1, 1, (0, 1), picture=picture().numpy())
    assert torch.equal(image.picture, picture())


def test_a_source_is_of_the_encoder_and_of_what_cross_attention_looks_at(encoder_decoder):
    image, text = Image(2, 5, (1, 11), source=True), Image(1, 2, (20, 22))
    encoder_decoder.images = [image, text]
    encoder_decoder.frames = [Frames(seconds_per_key=1, source=True)]
    assert encoder_decoder.images_of("encoder.0") == [image]
    assert encoder_decoder.images_of("decoder.0.cross", axis="keys") == [image]
    assert encoder_decoder.images_of("decoder.0.cross", axis="queries") == [text]
    assert encoder_decoder.images_of("decoder.0.own") == [text]
    frames = {(name, axis): len(encoder_decoder.frames_of(name, axis))
              for name in encoder_decoder for axis in ("queries", "keys")}  # fmt: skip
    assert [place for place, count in frames.items() if count] == [
        ("encoder.0", "queries"), ("encoder.0", "keys"), ("decoder.0.cross", "keys")
    ]  # fmt: skip


def test_layers_are_named_where_sequences_are_of_unlike_lengths(tower_and_language):
    image = Image(2, 3, (1, 7))
    with pytest.raises(ValueError, match=r"sequences of unlike lengths, \[7, 23\]; name those that are meant"):
        tower_and_language.images = [image]
    tower_and_language.images = [replace(image, layers="tower"), replace(image, layers=["lang*"], sequence=1)]
    assert len(tower_and_language.images_of("tower.0")) == 1
    assert tower_and_language.images_of("tower.0#2") == []  # another call, with other pictures
    assert tower_and_language.images_of("language.0") == []
    assert len(tower_and_language.images_of("language.0", 1)) == 1
    tower_and_language.images = [replace(image, layers="tower#2")]
    assert (len(tower_and_language.images_of(0)), len(tower_and_language.images_of(1))) == (0, 1)


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (Image(1, 1, (0, 1), layers="tow"), r"none is named by layers=\('tow',\)"),
        (Image(1, 8, (0, 8), layers="tower"), "positions up to 8 of sequence 0, of 3 sequences of 7"),
        (Image(1, 1, (0, 1), layers="tower", sequence=3), "of sequence 3, of 3 sequences"),
    ],
)
def test_an_image_of_no_layer_is_refused(tower_and_language, image, match):
    with pytest.raises(ValueError, match=rf"images\[0\]: it belongs to no layer of the record: .*{match}"):
        tower_and_language.images = [image]
    with pytest.raises(TypeError, match="images: a list of Image is needed, got str"):
        tower_and_language.images = ["cat.png"]


def test_a_patch_before_the_first_query_is_on_the_keys_alone():
    layer = replace(observed_layer(q_len=5, k_len=23), start=18)
    record = Record(layers={layer.name: layer})
    record.images = [Image(1, 3, (2, 5)), Image(1, 2, (17, 19))]
    assert [len(record.images_of(0, axis=axis)) for axis in ("queries", "keys", None)] == [1, 2, 2]


# On the disk.


@pytest.fixture
def shown():
    record = observed_record(observed_layer("a.layer"), observed_layer("b.layer"))
    same = picture(seed=1)
    record.images = [
        Image(2, 3, (1, 7), picture=picture(), name="a tile"),
        Image(1, 2, positions=[9, 7], sequence=1, layers=["a.layer"], picture=same),
        Image(1, 2, (3, 5), sequence=1, layers="b.layer", picture=same.clone()),
        Image(1, 1, (0, 1)),
    ]
    record.frames = [Frames(seconds_per_key=0.02, offset=-1.5, segment=(2, 9), sequence=1, name="speech")]
    return record


def assert_shows(record, expected):
    assert record.images == expected.images
    assert record.frames == expected.frames
    for one, other in zip(record.images, expected.images, strict=True):
        assert (one.picture is None and other.picture is None) or torch.equal(one.picture, other.picture)


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_written_is_what_is_read(shown, tmp_path, verify):
    opened = open_record(shown.save(tmp_path / "run.attn"), verify=verify)
    assert_shows(opened, shown)
    assert opened.images_of("b.layer", 1) == shown.images_of("b.layer", 1) == [shown.images[2]]
    assert "a.layer" not in opened._layers  # nobody asked for it
    again = open_record(opened.save(tmp_path / "again.attn"), verify=True)
    assert_shows(again, shown)
    assert_shows(pickle.loads(pickle.dumps(again)), shown)
    assert_shows(pickle.loads(pickle.dumps(shown)), shown)


def test_equal_pictures_are_written_once(shown, tmp_path):
    folder = shown.save(tmp_path / "run.attn")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert [image["picture"] for image in manifest["images"]] == ["picture/0", "picture/1", "picture/1", None]


def test_pictures_that_come_later_are_in_a_file_of_their_own(shown, tmp_path):
    images, shown._images = shown.images, shown.images[:1]
    with RecordWriter(tmp_path / "run.attn", shown) as writer:
        writer.add(shown[0])
        shown._images = images
        writer.add(shown[1])
        assert len(open_record(writer.folder, verify=True).images) == len(images)
        writer.finish(shown)
    assert_shows(open_record(writer.folder, verify=True), shown)
    assert len([*writer.folder.glob("pictures-*")]) == 2


def test_a_resumed_writer_keeps_the_pictures_that_are_whole(shown, tmp_path):
    with RecordWriter(tmp_path / "run.attn", shown) as writer:
        writer.add(shown[0])
    (writer.folder / "pictures-0007.safetensors").write_bytes(b"left over")
    with RecordWriter(writer.folder, shown, resume=True) as writer:
        writer.add(shown[1])
        writer.finish(shown)
    assert_shows(open_record(writer.folder, verify=True), shown)
    assert [file.name for file in writer.folder.glob("pictures-*")] == ["pictures-0000.safetensors"]


def test_a_resumed_writer_writes_damaged_pictures_again(shown, tmp_path):
    with RecordWriter(tmp_path / "run.attn", shown) as writer:
        writer.add(shown[0])
    (writer.folder / "pictures-0000.safetensors").write_bytes(b"damaged")
    with RecordWriter(writer.folder, shown, resume=True) as writer:
        writer.add(shown[1])
        writer.finish(shown)
    assert_shows(open_record(writer.folder, verify=True), shown)


def test_a_record_written_over_leaves_no_picture(shown, tmp_path):
    folder = shown.save(tmp_path / "run.attn")
    observed_record(observed_layer()).save(folder, overwrite=True)
    assert not [*folder.glob("pictures-*")]
    assert open_record(folder, verify=True).images == []


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["missing", "short", "a bit"])
def test_damaged_pictures_are_one_error_or_left_out(shown, tmp_path, kind):
    folder = shown.save(tmp_path / "run.attn")
    damage(folder / "pictures-0000.safetensors", kind)
    with pytest.raises(RecordError, match=r"run\.attn: pictures-0000\.safetensors is damaged: .*skip_damaged=True"):
        open_record(folder, verify=True)
    opened = open_record(folder, verify=True, skip_damaged=True)
    assert opened.images == shown.images
    assert not [image for image in opened.images if image.picture is not None]
    assert "its pictures are left out: pictures-0000.safetensors is damaged" in opened.notes[-1]


def test_pictures_of_another_run_are_refused(shown, tmp_path):
    folder, other = shown.save(tmp_path / "run.attn"), shown.save(tmp_path / "other.attn")
    (other / "pictures-0000.safetensors").replace(folder / "pictures-0000.safetensors")
    with pytest.raises(RecordError, match="it is of another run"):
        open_record(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows": 10**13}, "must be a whole number"),
        ({"rows": 1 << 20, "columns": 1 << 20}, r"images\[0\]: segment: 1048576 x 1048576 patches"),
        ({"segment": [0, 1 << 39]}, r"images\[0\]: segment: 2 x 3 patches are at 6 positions"),
        ({"positions": [1, 2]}, r"images\[0\]: segment, positions: one of them"),
        ({"segment": "all"}, r"images\[0\]\.segment must be a list"),
        ({"layers": [3]}, r"images\[0\]\.layers\[0\] must be valid text"),
        ({"picture": "picture/9"}, r"images\[0\]: there is no .?picture/9"),
        ({"sequence": None}, r"images\[0\]\.sequence must be a whole number"),
    ],
)
def test_images_that_cannot_be_are_refused(shown, tmp_path, change, match):
    folder = shown.save(tmp_path / "run.attn")
    changed(folder, lambda manifest: manifest["images"][0].update(change))
    refused(folder, match)


def test_frames_and_files_that_cannot_be_are_refused(shown, tmp_path):
    folder = shown.save(tmp_path / "run.attn")
    changed(folder, lambda manifest: manifest["frames"][0].update(seconds_per_key=-1))
    refused(folder, r"frames\[0\]: seconds_per_key: a number above 0 is needed, got -1")
    changed(folder, lambda manifest: manifest["pictures"][0].update(file="../pictures-0000.safetensors"))
    refused(folder, r"pictures\[0\]\.file must be a name as pictures-0000\.safetensors")


def test_a_link_is_no_file_of_pictures(shown, tmp_path):
    folder = shown.save(tmp_path / "run.attn")
    file = folder / "pictures-0000.safetensors"
    file.symlink_to(file.rename(tmp_path / "elsewhere"))
    refused(folder, "pictures-0000.safetensors is damaged: it is a link")


def test_a_record_of_the_first_releases_has_none(shown, tmp_path):
    folder = shown.save(tmp_path / "run.attn")
    changed(folder, lambda manifest: [manifest.pop(name) for name in ("images", "frames", "pictures")])
    assert pellucid.open_record(folder, verify=True).images == []
