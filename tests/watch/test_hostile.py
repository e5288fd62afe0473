"""Records that somebody made to harm: what is refused, in which words, and before anything is made of it."""

import json
import os

import pytest
import torch

from pellucid.readouts import Pooled, TopK
from pellucid.record.disk import manifest as manifests
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.tensor_file import checksum_of
from pellucid.record.disk.writer import RecordWriter
from pellucid.record.stored import open_record
from tests.endless import ends
from tests.watch.observed import observed_layer, observed_record

IDS = torch.randint(0, 7, (2, 23), generator=torch.Generator().manual_seed(3))
HUGE = 10**15


@pytest.fixture
def folder(tmp_path):
    sinks = torch.tensor([0.5, -1.0, 2.0])
    layer = observed_layer("a.layer", ids=IDS, sinks=sinks, left_padding=[0, 5], readouts=(TopK(4), Pooled(5, 3)))
    tokens = [[f"tok{place}" for place in range(23)]] * 2
    return observed_record(layer, ids=IDS, tokens=tokens, segments={"all": slice(0, 9)}).save(tmp_path / "run.attn")


def changed(folder, change):
    """The manifest with something changed, and sealed anew."""
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    content["crc32"] = manifests.checksum(content)
    path.write_text(json.dumps(content))


def with_header(folder, change):
    """The layer's file with another header, which the manifest says is right."""
    path = folder / "layer-0000.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = change(header) or json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    seal = {"bytes": path.stat().st_size, "crc32": checksum_of(path)}
    changed(folder, lambda manifest: manifest["layers"][0].update(seal))


def refused(folder, match):
    with ends(), pytest.raises(RecordError, match=match) as raised:
        open_record(folder, verify=True)
    assert str(raised.value).startswith(f"{folder}: ")


def layer(**values):
    return lambda content: content["layers"][0].update(values)


def part(**values):
    return lambda content: content["layers"][0]["parts"][0].update(values)


def reading(**values):
    return lambda content: content["layers"][0]["readings"].update(values)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(model=7), "manifest.json is damaged: model must be text, got 7"),
        (lambda c: c.update(complete="yes"), "complete must be true or false, got 'yes'"),
        (lambda c: c.update(tokens=[["a", 3]]), r"tokens\[0\]\[1\] must be text, got 3"),
        (lambda c: c.update(token_ids=[[1, 2], [3]]), "token_ids must be of one length"),
        (lambda c: c.update(token_ids=[[2**63]]), r"token_ids\[0\]\[0\] must be a whole number"),
        (lambda c: c.update(segments={"x": [[9, 2]]}), r"segments\.x\[0\] must be \[start, stop\] with"),
        (lambda c: c.update(segments=[]), "segments must be an object, got a list of 0"),
        (lambda c: c.update(missed=[{"name": "x"}]), r"missed\[0\] holds no 'reason'"),
        (lambda c: c.update(notes="x"), "notes must be a list"),
        (lambda c: c.update(version=True), "version must be a number, got True"),
        (lambda c: c.update(version=10**4000), "was written in version 1000+…"),
        (lambda c: c["layers"].append(c["layers"][0]), "it has two layers of the name a.layer"),
        (lambda c: c["layers"].append(c["layers"][0] | {"name": "b"}), "it has two layers of the file layer-0000"),
        (layer(file="/etc/passwd"), r"without name or file: layers\[0\]\.file must be a name as layer-0000"),
        (layer(file="layer-0000.safetensors\x00"), "it has a layer without name or file"),
        (layer(file=["layer-0000.safetensors"]), "it has a layer without name or file"),
        (layer(bytes=-1), r"layers\[0\]\.bytes must be a whole number from 0"),
        (layer(role="\x1b[31mself"), "layer a.layer, is damaged: role must be one of self, causal self, cross"),
        (layer(heads=HUGE), "heads must be a whole number from 1"),
        (layer(k_len=1 << 27, batch=2), "reading/received: a tensor is .* where the manifest says"),
        (layer(head_numbers=[0]), "head_numbers must be of 3 heads, got 1"),
        (layer(call_rows=[[22, 1]]), "call_rows must be pairs of rows and times that make q_len 23"),
        (layer(call_rows=[[1, 1 << 27]]), "call_rows must be pairs of rows and times that make q_len 23"),
        (layer(call_rows=[[23, 1, 1]]), "call_rows must be pairs of rows and times that make q_len 23"),
        (layer(call_rows=[[23]]), r"call_rows\[0\]"),
        (layer(call_rows=[[0, 1], [23, 1]]), r"call_rows\[0\]\[0\]"),
        (layer(kv_heads=2), "kv_heads 2 must divide heads 3"),
        (layer(over_heads=["entropy"]), "over_heads: entropy is of each head"),
        (layer(over_heads="at"), "over_heads must be a list"),
        (layer(scale=1e999), "Infinity is no number of JSON"),
        (layer(has_sink=False), "has_sink and the sinks of a part do not fit"),
        (layer(padding={"queries": False, "keys": True}), "padding.queries is False, which is not what the file says"),
        (layer(parts=[]), None),
        (reading(lse={"kind": "top keys"}), "readings.lse must be of one tensor"),
        (reading(topk={"kind": "tensor"}), "readings.topk must be of keys, log_weights"),
        (reading(x={"kind": "pickle"}), r"readings\.x\.kind must be one of tensor, top keys, tuple"),
        (reading(x={"kind": "tuple", "type": "os.system", "fields": ["a"]}), "type must be an identifier"),
        (reading(x={"kind": "tuple", "type": "X", "fields": ["lse", "lse"]}), "a field is named twice"),
        (part(k_len=24), "a part has 24 keys from 0, beyond those that there are"),
        (part(start=1), "a part begins at query 1, where 0 is the next"),
        (part(key="query/9"), "holds no 'query/9'"),
        (part(query="reading/lse"), r"reading/lse: a tensor is \[2, 3, 23\] where the manifest says \[2, 3, any, 8\]"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong(folder, change, message):
    changed(folder, change)
    if message is None:
        assert open_record(folder, verify=True)[0].parts == []
    else:
        refused(folder, message)


CONSTANT = ["constant", "float", [], 1.0]
LOAD = {"tensor": "captured/0"}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "must be a list of 1 or more"),
        ([["neg", "float", [0], None]], "node 0 is of a node that does not come before it"),
        ([CONSTANT, ["neg", "float", [-1], None]], "must be a whole number from 0"),
        ([["input", "float", [], "__class__"]], "there is no input '__class__' of kind float"),
        ([["constant", "int", [], 2**63], ["cast", "float", [0], None]], "a constant must be a whole number"),
        ([["constant", "float", [], {"float": "1e9"}]], "float must be one of inf, -inf, nan"),
        ([CONSTANT, ["add", "float", [0], None]], "there is no add of float that gives float"),
        ([CONSTANT, ["and", "float", [0, 0], None]], "there is no and of float, float that gives float"),
        ([["eval", "float", [], "1"]], "there is no 'eval' of kind 'float'"),
        ([["load", "bool", [], LOAD]], "does not fit its indices"),
        ([["load", "float", [], {"tensor": "none"}]], "there is no tensor 'none'"),
        ([["load", "float", [], {"tensor": "reading/lse", "shape": [1 << 40] * 3}]], "cannot be repeated to"),
        ([["input", "int", [], "q"]], "it gives int, not float"),
        ([CONSTANT] * 70_000, "it has 70000 nodes, and 65536 are the most"),
        ([{"op": "constant"}], r"must be \[op, kind, arguments, value\]"),
    ],
)
def test_a_function_that_is_none(folder, nodes, message):
    changed(folder, part(score=nodes))
    refused(folder, message)


def test_a_function_reads_nothing_beyond_its_tensors(folder):
    """A table of 23 keys, read at the place of a head's number, of a score, and of a computed place."""
    direct = [["input", "int", [], "b"], ["input", "int", [], "k"], ["load", "bool", [1, 0], LOAD]]
    changed(folder, part(mask=direct))
    refused(folder, r"a function reads a tensor \[2, 23\] beyond its end")
    far = [
        ["input", "int", [], "b"], ["input", "int", [], "k"], ["constant", "int", [], 10**9],
        ["add", "int", [1, 2], None], ["load", "bool", [0, 3], LOAD],
    ]  # fmt: skip
    changed(folder, part(mask=far))
    changed(folder, lambda content: content["layers"][0]["readings"].pop("allowed", None))
    opened = open_record(folder, verify=True)
    for use in (lambda: opened[0].weights(), lambda: opened.summary()):
        with pytest.raises(RecordError, match=r"layer a\.layer, is damaged: its functions cannot be computed"):
            use()


def test_a_mask_of_the_score_is_none(folder):
    nodes = [["input", "float", [], "score"], ["constant", "float", [], 0.0], ["gt", "bool", [0, 1], None]]
    changed(folder, part(mask=nodes))
    refused(folder, "a mask is a function of the score")


def _entry(**values):
    return lambda header: header["reading/lse"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_entry(dtype="PICKLE"), "its header is damaged: tensors.reading/lse.dtype must be one of F64"),
        (_entry(shape=[HUGE]), r"shape\[0\] must be a whole number"),
        (_entry(shape=[1 << 40]), "needs 4398046511104"),
        (_entry(shape=[0, 1 << 40, 1 << 40]), "has an impossible shape"),
        (_entry(data_offsets=[0, HUGE]), "data_offsets"),
        (_entry(data_offsets=[8]), "has an impossible shape or place"),
        (lambda header: header.update(again=header["reading/lse"]), "overlaps another tensor"),
        (lambda header: header.pop("reading/entropy"), "leaves a gap"),
        (lambda header: b'{"a": 1, "a": 2}', "it holds 'a' twice"),
        (lambda header: b"[" * 100_000, "its header is damaged: it is nested too deeply"),
        (lambda header: b"[]", "its header is damaged: tensors must be an object"),
        (lambda header: header.update(__metadata__={"run": 3}), "__metadata__.run must be text"),
        (lambda header: header.update(__metadata__={"run": "x"}), "it is of another run"),
    ],
)
def test_a_header_that_is_wrong(folder, change, message):
    def apply(header):
        made = change(header)
        return made if isinstance(made, bytes) else None

    with_header(folder, apply)
    refused(folder, message)


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"format": NaN}', b"\xff\xfe", b"", b"null", b'{"a": 1, "a": 1}']
)
def test_a_manifest_that_is_none(folder, content):
    (folder / "manifest.json").write_bytes(content)
    refused(folder, "its manifest.json is (damaged|not that of a record)")


@pytest.mark.parametrize("name", ["manifest.json", "layer-0000.safetensors"])
def test_an_endless_file_is_not_read(folder, name):
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)  # a hole
    refused(folder, "damaged")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_record_that_is_no_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.attn")
    (tmp_path / "file.attn").write_text("x")
    (tmp_path / "loop.attn").symlink_to("loop.attn")
    for name, message in {
        "pipe.attn": "is no record: it is no folder",
        "file.attn": "is no record: it is no folder",
        "loop.attn": "cannot be opened",
        "x" * 300 + ".attn": "cannot be opened",
        "none.attn": "there is no such record",
        "nul\x00.attn": "cannot be opened",
    }.items():
        with pytest.raises(RecordError, match=message):
            open_record(tmp_path / name)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    layer = observed_layer("a.layer", kept=False)
    cases = [
        (observed_record(layer, tokens=[["a", None]]), r"tokens\[0\]\[1\] must be text"),
        (observed_record(layer, segments={"x": slice(0, 9, 2)}), "segments: must be slices without a step"),
        (observed_record(layer, segments={"\udcff": slice(0, 9)}), "a name in segments must be valid text"),
        (observed_record(observed_layer("a\udcff", kept=False)), "name must be valid text"),
    ]
    layer.readings["entropy"] = layer.entropy[..., :3]
    cases.append(
        (observed_record(layer), "layer a.layer could not be read again, so it is not written: reading/entropy")
    )
    for record, message in cases:
        with pytest.raises(RecordError, match=message):
            record.save(tmp_path / "run.attn", overwrite=True)


def test_leftovers_that_are_links_are_not_written_through(folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("dear")
    for name in (".manifest.json.1.part", "layer-0001.safetensors"):
        (folder / name).symlink_to(victim)
    record = observed_record(observed_layer("a.layer", kept=False), observed_layer("b.layer", kept=False))
    record.save(folder, overwrite=True)
    assert victim.read_text() == "dear"
    assert not (folder / "layer-0001.safetensors").is_symlink()


def test_layers_with_names_of_other_places_stay_in_the_folder(tmp_path):
    names = ["../../etc/passwd", "A.layer", "a.layer", "CON", "$x$ [red]\x1b]0;title\x07"]
    record = observed_record(*(observed_layer(name, kept=False) for name in names))
    opened = open_record(record.save(tmp_path / "run.attn"), verify=True)
    assert opened.layers == names
    assert len(os.listdir(tmp_path / "run.attn")) == 6
    assert "\x1b" not in f"{opened!r}{opened[4]!r}{opened.summary()}"
    with pytest.raises(KeyError) as raised:
        opened["\x1b[31m"]
    assert "\x1b" not in str(raised.value)


def test_notes_are_kept(tmp_path):
    record = observed_record(observed_layer(kept=False))
    record.notes = ["one thing", "another"]
    assert open_record(record.save(tmp_path / "run.attn")).notes == ["one thing", "another"]


def test_a_manifest_says_itself_whether_it_is_whole(folder):
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content.replace(b'"tok3"', b'"tok8"', 1))
    assert open_record(folder).tokens[0][3] == "tok8"
    refused(folder, "its manifest.json is damaged: its checksum is another")
    with pytest.raises(RecordError, match="its checksum is another"):
        RecordWriter(folder, observed_record(tokens=[["x"]]), resume=True)
