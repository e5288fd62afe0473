"""Profiles that somebody has made up: sealed as ours are, and refused for what they say."""

import json

import pytest
import torch

from pellucid import open_profile
from pellucid.profiles.disk import form
from pellucid.profiles.disk.write import tensors_of
from pellucid.profiles.merging import without_spare
from pellucid.record.disk.tensor_file import write_tensors
from tests.profiles import making


@pytest.fixture(scope="module")
def profile():
    return without_spare(making.profile(7, 2))


def write(path, tensors, **metadata):
    known = {"format": form.FORMAT, "version": str(form.VERSION), "crc32": form.seal_of(tensors)}
    write_tensors(path, tensors, known | metadata)
    return path


def about(tensors, change):
    told = json.loads(bytes(tensors["about"].numpy()))
    change(told)
    tensors["about"] = form.content_of(told)


def filled(name, value):
    def change(tensors):
        tensors[name] = torch.full_like(tensors[name], value)

    return change


def told(change):
    return lambda tensors: about(tensors, change)


CHANGES = {
    "it holds no tensor sums/rows": lambda tensors: tensors.pop("sums/rows"),
    "its tensor sums/rows is torch.int32": lambda tensors: tensors.update({"sums/rows": tensors["sums/rows"].int()}),
    "its tensor sums/kinds is torch.int64 [6, 8]": lambda tensors: tensors.update(
        {"sums/kinds": tensors["sums/kinds"][:, 1:].contiguous()}
    ),
    "its tensor sums/rows holds a number that is no count": filled("sums/rows", -1),
    "its tensor sums/map_rows holds a number that is no count": filled("sums/map_rows", 1 << 62),
    "its tensor sums/sum holds sums that are not carried": filled("sums/sum", -1),
    "its tensor sums/weight holds sums beyond what is counted": filled("sums/weight", (1 << 32) - 1),
    "its tensor sums/least holds NaN": filled("sums/least", torch.nan),
    "its histograms are not of as many documents as it counts": filled("sums/count", 5),
    "its sketch is no list of bins and counts": filled("sketch/codes", 3),
    "its list of queries names what is not there": filled("queries/document", 2),
    "its list of documents names what is not there": filled("documents/value", torch.inf),
    "its list of keys names what is not there": filled("keys/key", -2),
    "its list of sequences names what is not there": filled("sequences/weights", torch.nan),
    "it holds no 'model'": told(lambda it: it.pop("model")),
    "layout.layers[0].role must be one of": told(lambda it: it["layout"]["layers"][0].update(role="other")),
    "a layer, head or class is there twice": told(lambda it: it["layout"]["layers"][0].update(heads=[1, 1, 2])),
    "its tensor sums/documents is torch.int64 [6]": told(
        lambda it: it["layout"]["layers"][0].update(heads=[*range(99_999)])
    ),
    "layout.examples must be a whole number from 0 to 64": told(lambda it: it["layout"].update(examples=10**12)),
    "done must be ranges that follow one another": told(lambda it: it["corpora"][0].update(done=[[2, 0]])),
    "documents and unread_count must be those of done": told(lambda it: it["corpora"][0].update(done=[[0, 9]])),
    "unread must name those": told(lambda it: it["corpora"][0].update(documents=1, unread_count=1)),
    "its documents are not in order": told(lambda it: it["documents"].reverse()),
    "documents[0].text[0].start must be": told(lambda it: it["documents"][0]["text"][0].update(start=-1)),
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_a_profile_cannot_say_is_refused(profile, tmp_path, message):
    tensors = tensors_of(profile)
    CHANGES[message](tensors)
    path = write(tmp_path / "a.heads", tensors)
    with pytest.raises(form.ProfileError) as caught:
        open_profile(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_format_or_version_is_refused(profile, tmp_path):
    tensors = tensors_of(profile)
    for message, metadata in (
        ("does not say that it is one", {"format": "another"}),
        ("its version must be a number, got 'x'", {"version": "x"}),
        ("was written in version 3 of the format, and pellucid", {"version": "3"}),
        (
            "was written in version 1 of the format, which lacks what 2 tells; profile the corpus again",
            {"version": "1"},
        ),
        ("its checksum is another", {"crc32": "00000000"}),
    ):
        with pytest.raises(form.ProfileError, match=message):
            open_profile(write(tmp_path / "a.heads", tensors, **metadata))


def test_whatever_byte_is_another_is_noticed(profile, tmp_path):
    path = write(tmp_path / "a.heads", tensors_of(profile))
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(form.ProfileError):
            open_profile(path)
    path.write_bytes(content[:-1])
    with pytest.raises(form.ProfileError):
        open_profile(path)
