"""Records on disk: what is written is what is read, and whatever interrupts the writing leaves a record."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import pellucid
from pellucid.capture.run.session import Session
from pellucid.readouts import Entropy, Expect, Pooled, Received, TopK
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.told import told
from pellucid.record.disk.writer import RecordWriter
from pellucid.record.layer import Missed
from pellucid.record.stored import open_record
from tests.watch import models
from tests.watch.observed import observed_layer, observed_record

IDS = torch.randint(0, 7, (2, 23), generator=torch.Generator().manual_seed(3))
READOUTS = (TopK(4), Pooled(5, 3))


def rich_layer(name="a.layer", **options):
    sinks = torch.tensor([0.5, -1.0, 2.0])
    return observed_layer(name, ids=IDS, sinks=sinks, left_padding=[0, 5], window=9, readouts=READOUTS, **options)


@pytest.fixture
def record():
    tokens = [[f"tok{i}" for i in range(23)], ["▁ein", "\udcff", "語", "\x00"] + ["x"] * 19]
    made = observed_record(
        rich_layer(), observed_layer("b.layer", "self", dtype=torch.bfloat16), observed_layer("c.layer", kept=False),
        ids=IDS, tokens=tokens, segments={"prompt": slice(0, 4), "answer": [slice(4, None), slice(9, 12)]},
    )  # fmt: skip
    made.missed = [Missed("d.layer", "it is no softmax")]
    return made


@pytest.fixture
def folder(record, tmp_path):
    return record.save(tmp_path / "run.attn")


def assert_same(found, expected):
    assert found.readings.keys() == expected.readings.keys()
    for name, value in expected.readings.items():
        for one, other in zip(_tensors(found.readings[name]), _tensors(value), strict=True):
            torch.testing.assert_close(one, other, rtol=3e-6, atol=0, equal_nan=True)
    for one, other in zip(found.padding, expected.padding, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    plain = {name: value for name, value in vars(expected).items() if name not in ("readings", "padding", "parts")}
    assert {name: getattr(found, name) for name in plain} == plain


def _tensors(value):
    return (value,) if isinstance(value, torch.Tensor) else tuple(value)


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_written_is_what_is_read(record, folder, verify):
    opened = open_record(folder, verify=verify)
    assert opened.layers == record.layers == list(opened)
    for name in ("model", "tokens", "source_tokens", "segments", "missed", "complete"):
        assert getattr(opened, name) == getattr(record, name)
    assert torch.equal(opened.token_ids, record.token_ids)
    assert opened.written_by["torch"] == torch.__version__
    for name, layer in record.items():
        assert_same(opened[name], layer)
    assert opened[1].name == "b.layer"
    assert opened.summary().columns()["entropy"] == record.summary().columns()["entropy"]
    with pytest.raises(KeyError, match="it is no softmax"):
        opened["d.layer"]
    with pytest.raises(IndexError, match="layer 3: the record has 3"):
        opened[3]


@pytest.mark.parametrize("name", ["a.layer", "b.layer"])
def test_exact_weights_come_from_the_disk(record, folder, name):
    place = {"queries": slice(3, 17), "keys": [0, 7, 22], "heads": [2, 0]}
    assert torch.equal(open_record(folder)[name].weights(**place), record[name].weights(**place))


def test_weights_that_were_not_kept_say_so(folder):
    with pytest.raises(ValueError, match=r"c\.layer kept no query and key"):
        open_record(folder)["c.layer"].weights()


def test_steps_of_decoding_share_their_keys(tmp_path):
    layer = rich_layer()
    whole = layer.parts[0]
    layer.parts = [
        replace(whole, start=s.start, query=whole.query[:, :, s], key=whole.key[:, :, : s.stop])
        for s in (slice(0, 20), slice(20, 21), slice(21, 23))
    ]
    opened = open_record(observed_record(layer).save(tmp_path / "run.attn"))[0]
    assert torch.equal(opened.weights(), layer.weights())
    with safe_open(tmp_path / "run.attn" / "layer-0000.safetensors", "pt") as file:
        assert [name for name in file.keys() if name.startswith("key/")] == ["key/0"]  # noqa: SIM118


def test_repeated_tensors_are_written_once(tmp_path):
    layer = observed_layer(batch=1)
    bias = torch.randn(23, 1).expand(23, 1_000_000)
    table = pellucid.language.load(bias, (pellucid.language.INPUTS["q"], pellucid.language.INPUTS["k"]))
    score = pellucid.language.operation("add", pellucid.language.SCORE, table)
    layer.parts = [replace(layer.parts[0], score=score)]
    folder = observed_record(layer).save(tmp_path / "run.attn")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    assert torch.equal(open_record(folder)[0].weights(), layer.weights())


def test_a_reading_of_a_users_own_type(tmp_path):
    layer = observed_layer(kept=False)
    layer.readings["own"] = namedtuple("Own", "left right")(torch.arange(3), torch.ones(2, dtype=torch.bfloat16))
    own = open_record(observed_record(layer).save(tmp_path / "run.attn"))[0].own
    assert (type(own).__name__, own._fields) == ("Own", ("left", "right"))
    assert torch.equal(own.left, torch.arange(3))
    assert own.right.dtype == torch.bfloat16


def test_layers_are_mapped_not_read(tmp_path):
    layer = observed_layer(kept=False, batch=1)
    layer.readings["large"] = torch.zeros(30_000_000)
    folder = observed_record(layer).save(tmp_path / "run.attn")
    code = f"""
import pellucid, torch
from pellucid.record.stored import open_record
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * {resource.getpagesize()}
record = open_record({str(folder)!r})
record[0].lse.sum()
before = resident()
large = open_record({str(folder)!r})[0].large
opened = resident() - before
large.sum()
print(opened < 10_000_000, resident() - before > 100_000_000)
"""
    assert _python(code).stdout.split() == ["True", "True"]


def test_json_and_safetensors_are_plain(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes().decode("utf-8", "surrogatepass"))
    assert (manifest["format"], manifest["version"], manifest["complete"]) == ("pellucid record", 1, True)
    assert [layer["role"] for layer in manifest["layers"]] == ["causal self", "self", "causal self"]
    assert sorted(file.name for file in folder.iterdir()) == [
        *(f"layer-{number:04d}.safetensors" for number in range(3)),
        "manifest.json",
    ]


# What is wrong with a record.


def _damage(folder, how):
    layer, manifest = folder / "layer-0001.safetensors", folder / "manifest.json"
    content = json.loads(manifest.read_bytes().decode("utf-8", "surrogatepass"))
    if how == "cut off":
        layer.write_bytes(layer.read_bytes()[:-100])
    elif how == "gone":
        layer.unlink()
    elif how == "a byte":
        layer.write_bytes(layer.read_bytes()[:-1] + b"\x55")
    elif how == "cut manifest":
        manifest.write_bytes(manifest.read_bytes()[:200])
    elif how == "no manifest":
        manifest.unlink()
    elif how == "another":
        manifest.write_text('{"name": "package"}')
    elif how == "no tokens":
        del content["tokens"]
        manifest.write_text(json.dumps(content))
    elif how == "elsewhere":
        content["layers"][0]["file"] = "../secret.safetensors"
        manifest.write_text(json.dumps(content))
    elif how == "newer":
        manifest.write_text(json.dumps(content | {"version": 2}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut off", r"layer-0001\.safetensors, layer b\.layer, is damaged: it has \d+ bytes of \d+; open_record"),
        ("gone", r"layer-0001\.safetensors, layer b\.layer, is damaged: no such file or directory"),
        ("a byte", r"layer b\.layer, is damaged: its checksum is another"),
        ("cut manifest", r"its manifest\.json is damaged \("),
        ("no manifest", r"is no record: it holds no manifest\.json"),
        ("another", r"its manifest\.json is not that of a record"),
        ("no tokens", r"its manifest\.json is damaged: it says nothing of tokens"),
        ("elsewhere", r"its manifest\.json is damaged: it has a layer without name or file"),
        ("newer", r"was written in version 2 of the format, and pellucid .* reads up to 1; upgrade pellucid"),
    ],
)
def test_a_damaged_record_is_refused(folder, how, message):
    _damage(folder, how)
    with pytest.raises(RecordError, match=message) as raised:
        open_record(folder, verify=True)
    assert str(raised.value).startswith(str(folder))


@pytest.mark.parametrize("how", ["cut off", "gone"])
def test_the_others_of_a_damaged_record_can_be_opened(record, folder, how):
    _damage(folder, how)
    opened = open_record(folder, skip_damaged=True)
    assert opened.layers == ["a.layer", "c.layer"]
    assert opened.missed[-1].name == "b.layer"
    assert_same(opened["c.layer"], record["c.layer"])


def test_a_file_that_is_damaged_inside_says_so_when_it_is_opened(folder):
    layer = folder / "layer-0001.safetensors"
    layer.write_bytes(b"\xff" * layer.stat().st_size)
    with pytest.raises(RecordError, match=r"layer-0001\.safetensors, layer b\.layer, is damaged: .*header"):
        open_record(folder)["b.layer"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 3}, r"a tensor is \[2, 3, 23\] where the manifest says \[3, 3, 23\]"),
        ({"readings": {"lse": {"kind": "tensor"}, "none": {"kind": "tensor"}}}, "holds no 'reading/none'"),
        ({"parts": [{}]}, "holds no 'start'"),
    ],
)
def test_a_manifest_that_does_not_fit_its_layers(folder, change, message):
    content = json.loads((folder / "manifest.json").read_bytes().decode("utf-8", "surrogatepass"))
    content["layers"][0] |= change
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"layer a\.layer, is damaged: .*{message}"):
        open_record(folder)["a.layer"]


def test_a_function_that_cannot_be_read(folder):
    content = (folder / "manifest.json").read_bytes().replace(b'"le"', b'"run"').replace(b'"ge"', b'"run"')
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"holds a function that cannot be read .*there is no 'run' of kind 'bool'"):
        open_record(folder)["a.layer"]


def test_a_record_is_not_written_over_itself(folder):
    opened = open_record(folder)
    with pytest.raises(RecordError, match="is the record itself; save it under another name"):
        opened.save(folder, overwrite=True)
    copy = open_record(opened.save(folder.with_name("copy.attn")), verify=True)
    assert_same(copy["b.layer"], opened["b.layer"])


def test_there_is_no_such_record(tmp_path):
    with pytest.raises(RecordError, match="there is no such record"):
        open_record(tmp_path / "none.attn")


# Where it may be written.


def test_a_record_is_not_overwritten_unasked(record, folder):
    with pytest.raises(RecordError, match="holds a record already; overwrite it, resume it, or name another"):
        record.save(folder)
    shorter = observed_record(record["c.layer"])
    shorter.save(folder, overwrite=True)
    assert open_record(folder).layers == ["c.layer"]
    assert len(list(folder.iterdir())) == 2


def test_other_peoples_folders_are_left_alone(record, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(RecordError, match="is a folder of other things"):
            record.save(tmp_path, overwrite=overwrite)
    with pytest.raises(RecordError, match="is a file; name a folder"):
        record.save(tmp_path / "letter.txt")
    with pytest.raises(RecordError, match="not a directory"):
        record.save(tmp_path / "letter.txt" / "run.attn")
    assert (tmp_path / "letter.txt").read_text() == "dear"


# What interrupts the writing.


def test_before_it_is_finished_a_record_is_incomplete(record, tmp_path):
    writer = RecordWriter(tmp_path / "run.attn", record)
    assert_same(writer.add(record["a.layer"]), record["a.layer"])
    opened = open_record(writer.folder, verify=True)
    assert (opened.layers, opened.complete) == (["a.layer"], False)
    record.complete = False
    writer.finish(record)
    assert not open_record(writer.folder).complete


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_interrupts_a_layer_leaves_those_before(record, tmp_path, monkeypatch, error):
    writer = RecordWriter(tmp_path / "run.attn", record)
    writer.add(record["a.layer"])

    def fail(*_):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else RecordError
    with pytest.raises(expected) as raised:
        writer.add(record["b.layer"])
    monkeypatch.undo()
    if expected is RecordError:
        assert str(raised.value) == (
            f"{writer.folder}: no space left on device while writing layer b.layer; "
            "the record of the 1 layers before it can be opened"
        )
    assert sorted(os.listdir(writer.folder)) == ["layer-0000.safetensors", "manifest.json"]
    assert open_record(writer.folder, verify=True).layers == ["a.layer"]


def test_a_full_disk(tmp_path):
    record = observed_record(observed_layer("small"), observed_layer("large", q_len=1500, dim=32))
    message = "file too large while writing layer large; the record of the 1 layers before it"
    with pytest.raises(RecordError, match=message), files_of_at_most(100_000):
        record.save(tmp_path / "run.attn")
    opened = open_record(tmp_path / "run.attn", verify=True)
    assert (opened.layers, opened.complete) == (["small"], False)
    assert len(list((tmp_path / "run.attn").iterdir())) == 2


def test_a_process_that_is_killed(tmp_path):
    """Killed in the middle of a layer's file."""
    code = f"""
import os, signal
from tests.watch import models
from tests.watch.observed import observed_layer, observed_record
from pellucid.record.disk.writer import RecordWriter
record = observed_record(observed_layer("first"), observed_layer("second"))
writer = RecordWriter({str(tmp_path / "run.attn")!r}, record)
writer.add(record["first"])
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
writer.add(record["second"])
"""
    assert _python(code, check=False).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "run.attn")) == 3
    assert open_record(tmp_path / "run.attn", verify=True).layers == ["first"]


def test_resuming_writes_what_is_missing(record, tmp_path):
    writer = RecordWriter(tmp_path / "run.attn", record)
    writer.add(record["a.layer"])
    writer.add(record["b.layer"])
    writer.release()
    (writer.folder / "layer-0001.safetensors").write_bytes(b"cut off")
    (writer.folder / ".layer-0002.safetensors.99.part").write_bytes(b"left behind")
    before = (writer.folder / "layer-0000.safetensors").stat().st_mtime_ns
    resumed = RecordWriter(tmp_path / "run.attn", record, resume=True)
    assert resumed.written == ["a.layer"]
    for layer in record.values():
        resumed.add(layer)
    resumed.finish(record)
    opened = open_record(resumed.folder, verify=True)
    assert (opened.layers, opened.complete) == (record.layers, True)
    assert (writer.folder / "layer-0000.safetensors").stat().st_mtime_ns == before
    assert len(os.listdir(writer.folder)) == 4


def test_resuming_another_run_is_refused(record, folder):
    other = observed_record(record["a.layer"], tokens=[["another"]])
    with pytest.raises(RecordError, match="holds a record of another run"):
        RecordWriter(folder, other, resume=True)


def _python(code, check=True):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2],
        check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done


# While a model runs.


@pytest.fixture(scope="module")
def model():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()


def test_layers_leave_memory_for_the_disk_while_the_model_runs(model, tmp_path):
    x = torch.randn(1, 29, 16)
    found = []

    def look(*_):
        if (tmp_path / "run.attn" / "manifest.json").is_file():
            found.append(open_record(tmp_path / "run.attn").layers)

    hooks = [layer.register_forward_hook(look) for layer in model.layers]
    with torch.no_grad(), pellucid.watch(model, keep=True, out=tmp_path / "run.attn") as record:
        model(x)
    for hook in hooks:
        hook.remove()
    assert [len(names) for names in found] == [1, 2, 3]
    opened = open_record(tmp_path / "run.attn", verify=True)
    assert opened.complete
    with torch.no_grad(), pellucid.watch(model, keep=True) as in_memory:
        model(x)
    for name in in_memory:
        assert_same(opened[name], in_memory[name])
        assert torch.equal(record[name].weights(), in_memory[name].weights())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_recorded_before_an_interruption_opens_and_the_model_works(model, tmp_path, error):
    x = torch.randn(1, 29, 16)
    expected = model(x)

    def interrupt(*_):
        raise error("enough")

    hook = model.layers[2].register_forward_pre_hook(interrupt)
    with pytest.raises(error, match="enough"), pellucid.watch(model, out=tmp_path / "run.attn"):
        model(x)
    hook.remove()
    opened = open_record(tmp_path / "run.attn", verify=True)
    assert (len(opened), opened.complete) == (2, False)
    assert torch.equal(model(x), expected)


def test_a_disk_that_fills_while_the_model_runs(model, tmp_path):
    x = torch.randn(1, 97, 16)
    expected = model(x)
    watching = pellucid.watch(model, keep=["layers.1.self_attn"], out=tmp_path / "run.attn")
    message = r"file too large while writing layer layers\.1\.self_attn; the record of the 1 layers before it"
    with pytest.raises(RecordError, match=message), files_of_at_most(16_000), watching:
        model(x)
    assert open_record(tmp_path / "run.attn", verify=True).layers == ["layers.0.self_attn"]
    assert torch.equal(model(x), expected)


@contextmanager
def files_of_at_most(size):
    """What a process sees of a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th call of a module."""

    def __init__(self, module, n):
        self.left = n
        self.hook = module.register_forward_pre_hook(self)

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            self.hook.remove()
            raise KeyboardInterrupt


def interrupted(model, run, module, n, **options):
    Interrupt(module, n)
    with pytest.raises(KeyboardInterrupt), pellucid.watch(model, **options):
        run()


@pytest.fixture
def read(monkeypatch):
    """The names of the modules whose calls are read, not only computed."""
    names = []
    enter = Session._enter
    monkeypatch.setattr(
        Session, "_enter", lambda self, place, *rest: names.append(place.name) or enter(self, place, *rest)
    )
    return names


@torch.no_grad()
def test_an_interrupted_run_is_gone_on_with(model, tmp_path, read):
    x, path = torch.randn(1, 29, 16), tmp_path / "run.attn"
    interrupted(model, lambda: model(x), model.layers[2], 1, keep=True, out=path)
    before = {file.name: file.stat().st_mtime_ns for file in path.glob("layer-*")}
    assert len(before) == 2
    expected = model(x)
    read.clear()
    with pellucid.watch(model, keep=True, out=path, resume=True) as record:
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert read == ["layers.2.self_attn"]
    assert {file.name: file.stat().st_mtime_ns for file in path.glob("layer-000[01]*")} == before
    opened = open_record(path, verify=True)
    assert (opened.complete, opened.layers) == (True, record.layers)
    with pellucid.watch(model, keep=True) as whole:
        model(x)
    for name, layer in whole.items():
        assert_same(opened[name], layer)
        assert torch.equal(record[name].weights(), layer.weights())
    read.clear()
    with pellucid.watch(model, keep=True, out=path, resume=True):
        model(x)
    assert read == []
    assert open_record(path).complete


@torch.no_grad()
def test_a_layer_that_runs_twice_is_gone_on_with(tmp_path, read):
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True).eval()
    x, path = torch.randn(1, 7, 16), tmp_path / "run.attn"

    def run():
        layer(layer(layer(x)))

    interrupted(layer, run, layer, 3, out=path)
    read.clear()
    with pellucid.watch(layer, out=path, resume=True):
        run()
    assert read == ["self_attn#3"]
    assert open_record(path, verify=True).layers == ["self_attn", "self_attn#2", "self_attn#3"]


@torch.no_grad()
def test_an_interrupted_generation_is_gone_on_with(tmp_path, read, monkeypatch):
    model, inputs = models.made("llama")
    path = tmp_path / "run.attn"

    def run():
        model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)

    interrupted(model, run, model.model.layers[1], 3, keep=True, out=path)
    assert [(layer.calls, layer.complete) for layer in open_record(path).values()] == [(3, False), (2, False)]

    def full(self, layer, add=RecordWriter.add):
        if self.written:
            raise RecordError("no space left")
        return add(self, layer)

    with monkeypatch.context() as patch:  # both layers are read anew, and the second cannot be written
        patch.setattr(RecordWriter, "add", full)
        with pytest.raises(RecordError, match="no space left"), pellucid.watch(model, keep=True, out=path, resume=True):
            run()
    assert [(layer.calls, layer.complete) for layer in open_record(path).values()] == [(4, True)]
    read.clear()
    with pellucid.watch(model, keep=True, out=path, resume=True):
        run()
    assert set(read) == {"model.layers.1.self_attn"}
    with pellucid.watch(model, keep=True) as whole:
        run()
    opened = open_record(path, verify=True)
    assert (opened.complete, opened.layers) == (True, whole.layers)
    for name, layer in whole.items():
        assert_same(opened[name], layer)
        torch.testing.assert_close(opened[name].weights(), layer.weights(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_what_is_not_the_same_run_is_not_gone_on_with(tmp_path):
    model, inputs = models.made("bert")
    path = tmp_path / "run.attn"
    own = {"tokens": [["a"] * 13] * 2, "segments": {"first": slice(0, 3)}, "more": [TopK(3)]}
    interrupted(model, lambda: model(**inputs), model.encoder.layer[1], 1, out=path, **own)
    before = (path / "manifest.json").read_bytes()
    other = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True).eval()
    for watched, changed, message in (
        (other, {}, r"with other model \(BertModel, now TransformerEncoderLayer\)"),
        (model, {"tokens": [["b"] * 13] * 2}, "with other tokens;"),
        (model, {"segments": {}}, "with other segments;"),
        (
            model,
            {"more": [TopK(4)]},
            r"with other readouts \(\['summary', 'topk 3'\], now \['summary', 'topk 4'\]\);",
        ),
        (model, {"readouts": [TopK(3)], "more": ()}, "with other readouts"),
        (model, {"keep": True}, r"with other keep \(query and key of \S+\.0\.\S+ are not kept, now are\);"),
    ):
        with (
            pytest.raises(RecordError, match=f"run.attn: holds a record of another run, {message}"),
            pellucid.watch(watched, out=path, resume=True, **own | changed),
        ):
            raise AssertionError("the body must not run")
        assert (path / "manifest.json").read_bytes() == before
    longer, another = models.ids(17), models.ids() + 1
    for ids, message in (
        (longer, "encoder.layer.0.attention.self has q_len 13, not 17"),
        (another, "its text is another"),
    ):
        watching = pellucid.watch(model, out=path, resume=True, **own)
        with pytest.raises(RecordError, match=f"holds a record of another run: {message}"), watching:
            model(input_ids=ids)
    assert open_record(path, verify=True).layers == ["encoder.layer.0.attention.self"]


@torch.no_grad()
def test_what_is_kept_of_written_layers_is_compared(model, tmp_path, read):
    x, path = torch.randn(1, 29, 16), tmp_path / "run.attn"
    interrupted(model, lambda: model(x), model.layers[2], 1, keep="layers.0*", out=path)
    before = (path / "manifest.json").read_bytes()
    for keep, message in (
        (False, r"keep \(query and key of layers\.0\.self_attn are kept, now are not\); overwrite it"),
        ([1], r"keep \(query and key of layers\.0\.self_attn are kept, now are not\)"),
        (True, r"keep \(query and key of layers\.1\.self_attn are not kept, now are\)"),
    ):
        watching = pellucid.watch(model, keep=keep, out=path, resume=True)
        with pytest.raises(RecordError, match=f"run.attn: holds a record of another run, with other {message}"):
            watching.__enter__()
        assert (path / "manifest.json").read_bytes() == before
    read.clear()
    with pellucid.watch(model, keep=[0, 2], out=path, resume=True):  # otherwise said, and more of what is to come
        model(x)
    assert read == ["layers.2.self_attn"]
    assert [len(layer.parts) for layer in open_record(path).values()] == [1, 0, 1]


@torch.no_grad()
def test_what_on_layer_took_out_was_kept_all_the_same(model, tmp_path):
    x, path = torch.randn(1, 29, 16), tmp_path / "run.attn"

    def emptied(layer):
        layer.parts = []
        return layer

    interrupted(model, lambda: model(x), model.layers[2], 1, keep=True, out=path, on_layer=emptied)
    with pellucid.watch(model, keep=True, out=path, resume=True, on_layer=emptied):
        model(x)
    opened = open_record(path)
    assert (opened.complete, len(opened)) == (True, 3)
    pellucid.open_record(path).save(tmp_path / "copy.attn")  # a copy knows only what is in it
    with pytest.raises(RecordError, match="with other keep"):
        pellucid.watch(model, keep=True, out=tmp_path / "copy.attn", resume=True).__enter__()


def test_a_readout_is_told_with_all_that_it_was_made_with():
    near = torch.tensor([2, 3, 5])

    def within(b, h, q_idx, kv_idx):
        return abs(q_idx - kv_idx) < near[h]

    readouts = [TopK(3), Entropy(), Received(), Received(slice(2, None)), Expect(within, "near")]
    words = told(readouts)
    assert words[:4] == ["topk 3", "entropy True", "received", "received 2:"]
    assert words[4].startswith("near ")
    assert told([Expect(within, "near")]) == words[4:]
    near[2] = 7
    assert told([Expect(within, "near")]) != words[4:]
    assert told([Expect(lambda b, h, q_idx, kv_idx: kv_idx == 0, "near")]) != words[4:]


def test_where_nothing_attends_nothing_is_left(tmp_path):
    linear = torch.nn.Linear(3, 3)
    watching = pellucid.watch(linear, out=tmp_path / "run.attn")
    with pytest.raises(ValueError, match="no softmax attention found"), watching:
        linear(torch.zeros(3))
    assert not (tmp_path / "run.attn").exists()
