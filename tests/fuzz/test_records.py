"""Records damaged in every way: each opens and gives the numbers that it had, or the one documented error, and at once.

What a hostile writer makes, checksums and all, is refused or opens; what damage makes also has to give the numbers.
"""

import copy
import io
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pellucid.readouts import Pooled, PooledMax, TopK
from pellucid.record.disk import manifest as manifests
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.tensor_file import checksum_of
from pellucid.record.disk.writer import RecordWriter
from pellucid.record.stored import open_record
from pellucid.viewer.record_map import Look
from pellucid.viewer.terminal.record_page import RecordView, record_page
from tests.endless import ends
from tests.fuzz.budget import fuzzed
from tests.watch.observed import observed_layer, observed_record

IDS = torch.randint(0, 5, (2, 13), generator=torch.Generator().manual_seed(3))
EXTREME = [
    None, True, False, 0, 1, -1, 2, 7, 13, 2**31, 2**62, 2**63, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "\x1b[31m", "../../etc/passwd", "layer-0000.safetensors", "\udcff", "a" * 10_000, "self", "cross",
    "query/0", "captured/0", "reading/lse", [], [[]], [None], [0], [1, 2], ["lse"], {}, {"kind": "tensor"},
    {"tensor": "key/0"}, {"float": "nan"}, [[[[[[]]]]]], list(range(1000)),
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A record of each kind of thing that a record may hold."""
    sinks = torch.tensor([0.5, -1.0, 2.0])
    readouts = (TopK(3), Pooled(5, 3), PooledMax(2, 2))
    table = torch.arange(26).view(2, 13) % 3
    record = observed_record(
        observed_layer("a", ids=IDS, q_len=13, dim=3, sinks=sinks, left_padding=[0, 5], window=9, readouts=readouts),
        observed_layer("b", "self", q_len=13, dim=2, dtype=torch.bfloat16, kv_heads=1),
        observed_layer("c", "cross", q_len=13, k_len=7, dim=2, kept=False),
        ids=IDS, tokens=[[f"tok{place}" for place in range(13)]] * 2, source_tokens=[["ü", "\udcff", "語"]] * 2,
        segments={"prompt": slice(0, 4), "answer": [slice(4, None), slice(9, 12)], "source.all": slice(None)},
    )  # fmt: skip
    record["a"].readings["own"] = record["a"].topk._replace(weights=record["a"].topk.weights)
    record["a"].readings["repeats"] = record["a"].readings["repeats"]._replace(seen=table[:, None] > 0)
    return record.save(tmp_path_factory.mktemp("fuzz") / "sound.attn")


@pytest.fixture(scope="module")
def expected(sound):
    return numbers(open_record(sound, verify=True))


def numbers(record):
    """Whatever a reader may look at, as plain values."""
    found = [record.model, record.tokens, record.complete, record.notes, repr(record), record.summary().columns()]
    for layer in record.values():
        found += [layer.name, repr(layer), *(_bytes(value) for value in layer.readings.values())]
        if layer.parts:
            found.append(_bytes(layer.weights()))
    view = RecordView(record, record.summary(), len(record) - 1, Look(None))
    screen = Console(file=io.StringIO(), width=80)
    screen.print(record_page(view))
    return repr([*found, screen.file.getvalue(), str(record.summary())])


def _bytes(value):
    tensors = (value,) if isinstance(value, torch.Tensor) else value
    return [tensor.double().nan_to_num(1e9).sum().item() for tensor in tensors]


def opened(folder, verify):
    """The numbers of a record, or None where it is refused. Nothing else may come of it, and it must come to an end."""
    with ends():
        found, refusal = attempted(lambda: open_record(folder, verify=verify))
        if found is not None:
            record = found
            found, refusal = attempted(lambda: numbers(record) if len(record) else "")
    assert refusal is None or (str(folder) in refusal and "\n" not in refusal)
    return found


def attempted(function):
    """What a function gives, and the message of the documented error if that came instead."""
    try:
        return function(), None
    except RecordError as error:
        return None, str(error)


def copied(sound):
    folder = Path(tempfile.mkdtemp(dir=sound.parent)) / "run.attn"
    shutil.copytree(sound, folder)
    return folder


def read_manifest(folder):
    return json.loads((folder / "manifest.json").read_bytes().decode("utf-8", "surrogatepass"))


def write_manifest(folder, content, *, sealed):
    if sealed and isinstance(content, dict):
        content = content | {"crc32": manifests.checksum(content)}
    (folder / "manifest.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))


FILES = ["manifest.json", *(f"layer-{number:04d}.safetensors" for number in range(3))]


@fuzzed(0.25)
@given(data=st.data())
def test_any_byte(sound, expected, data):
    folder = copied(sound)
    path = folder / data.draw(st.sampled_from(FILES))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # The beginning holds the header; what comes after it is numbers alone.
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(3000, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    assert opened(folder, verify=True) in (expected, None)
    shutil.rmtree(folder.parent)


@fuzzed(0.25)
@given(data=st.data())
def test_any_length(sound, expected, data):
    folder = copied(sound)
    path = folder / data.draw(st.sampled_from(FILES))
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut] + data.draw(st.binary(max_size=20)) + content[cut:] * data.draw(st.integers(0, 2)))
    assert opened(folder, verify=True) in (expected, None)
    shutil.rmtree(folder.parent)


@fuzzed(0.25)
@given(data=st.data())
def test_any_field_of_the_manifest(sound, expected, data):
    folder = copied(sound)
    content = read_manifest(folder)
    for _ in range(data.draw(st.integers(1, 2))):
        content = _with_another_field(data, content)
    sealed = data.draw(st.booleans())
    write_manifest(folder, content, sealed=sealed)
    found = opened(folder, verify=data.draw(st.booleans()) if sealed else True)
    assert sealed or found in (expected, None) or not isinstance(content, dict) or "crc32" not in content
    shutil.rmtree(folder.parent)


def _with_another_field(data, content):
    """JSON in which the value at one place, anywhere within, is another, is gone, or is there twice."""
    whole = copy.deepcopy(content)
    holder, key, value = None, None, whole
    while isinstance(value, dict | list) and value and (holder is None or data.draw(st.integers(0, 5)) > 0):
        holder = value
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        value = holder[key]
    match data.draw(st.sampled_from(["another", "gone", "beside", "twice"])):
        case "another":
            holder[key] = data.draw(st.sampled_from(EXTREME))
        case "gone":
            del holder[key]
        case "beside" if isinstance(holder, dict):
            holder[data.draw(st.sampled_from(["entropy", "topk", "received", "x", "lse"]))] = copy.deepcopy(value)
        case _ if isinstance(holder, list):
            holder.append(copy.deepcopy(value))
    return whole


@fuzzed(0.25)
@given(data=st.data())
def test_any_header_of_a_layer(sound, data):
    """Headers that a hostile writer made, checksums and all."""
    folder = copied(sound)
    number = data.draw(st.integers(0, 2))
    path = folder / FILES[number + 1]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = _with_another_field(data, json.loads(content[8 : 8 + length]))
    text = json.dumps(header).encode()
    path.write_bytes(data.draw(st.sampled_from([len(text), 0, 2**63, len(content)])).to_bytes(8, "little") + text)
    with path.open("ab") as file:
        file.write(content[8 + length :])
    manifest = read_manifest(folder)
    manifest["layers"][number] |= {"bytes": path.stat().st_size, "crc32": checksum_of(path)}
    write_manifest(folder, manifest, sealed=True)
    opened(folder, verify=data.draw(st.booleans()))
    shutil.rmtree(folder.parent)


def _pipe(path, outside):
    os.mkfifo(path)


def _socket(path, outside):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


REPLACEMENTS = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a folder": lambda path, outside: path.mkdir(),
    "a link out": lambda path, outside: path.symlink_to(outside),
    "a link to an endless device": lambda path, outside: path.symlink_to("/dev/zero"),
    "a link to a terminal": lambda path, outside: path.symlink_to("/dev/tty"),
    "a link to itself": lambda path, outside: path.symlink_to(path),
    "a link to nothing": lambda path, outside: path.symlink_to("nothing"),
    "nothing": lambda path, outside: None,
}


@pytest.mark.parametrize("replace", REPLACEMENTS)
@pytest.mark.parametrize("name", FILES[:2])
def test_what_is_no_plain_file_is_not_opened(sound, tmp_path, monkeypatch, name, replace):
    monkeypatch.chdir(tmp_path)  # a socket's address must be short
    outside = tmp_path / "outside"
    shutil.copy(sound / name, outside)
    before = outside.stat()
    folder = tmp_path / "run.attn"
    shutil.copytree(sound, folder)
    (folder / name).unlink()
    REPLACEMENTS[replace](folder / name, outside)
    assert opened(folder, verify=True) is None
    assert opened(folder, verify=False) is None
    for option in ({"resume": True}, {"overwrite": True}):
        with ends():
            writer, refusal = attempted(lambda option=option: RecordWriter(folder, observed_record(), **option))
        assert refusal is None or str(folder) in refusal
        if writer is not None:
            writer.release()
    assert outside.stat() == before
