"""One writer of a record at a time, in threads and processes, however it ends; readers see a whole state."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pellucid
from pellucid.record.disk.manifest import RecordError
from pellucid.record.disk.writer import RecordWriter
from pellucid.record.stored import open_record
from tests.watch.observed import observed_layer, observed_record

pytest.importorskip("fcntl")

REFUSED = r"run\.attn: is being written by another run; wait until that ends, or name another"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def record():
    return observed_record(observed_layer("first"), observed_layer("second", kept=False))


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_writer_is_refused_and_the_first_goes_on(record, tmp_path, option):
    folder = tmp_path / "run.attn"
    with RecordWriter(folder, record) as writer:
        writer.add(record["first"])
        with pytest.raises(RecordError, match=REFUSED):
            RecordWriter(folder, record, **option)
        assert open_record(folder, verify=True).layers == ["first"]
        writer.add(record["second"])
        writer.finish(record)
    assert open_record(folder, verify=True).layers == ["first", "second"]
    RecordWriter(folder, record, resume=True).release()
    assert sorted(os.listdir(folder)) == ["layer-0000.safetensors", "layer-0001.safetensors", "manifest.json"]


def test_of_many_threads_one_writes(record, tmp_path):
    outcomes, at_once = [], threading.Barrier(5)

    def write():
        at_once.wait()
        try:
            writer = RecordWriter(tmp_path / "run.attn", record)
            at_once.wait()
            writer.add(record["first"])
            writer.close(record)
            outcomes.append("written")
        except RecordError as error:
            at_once.wait()
            outcomes.append(str(error).rpartition(": ")[2])

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [
        *["is being written by another run; wait until that ends, or name another"] * 4,
        "written",
    ]
    assert open_record(tmp_path / "run.attn", verify=True).complete


def test_what_a_killed_process_wrote_can_be_resumed_at_once(record, tmp_path):
    folder = tmp_path / "run.attn"
    code = f"""
import time
from pellucid.record.disk.writer import RecordWriter
from tests.watch.observed import observed_layer, observed_record
record = observed_record(observed_layer("first"), observed_layer("second", kept=False))
writer = RecordWriter({str(folder)!r}, record)
writer.add(record["first"])
print("written", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(RecordError, match=REFUSED):
            RecordWriter(folder, record, resume=True)
        process.send_signal(signal.SIGKILL)
    with RecordWriter(folder, record, resume=True) as writer:
        assert writer.written == ["first"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_neither_writes_nor_keeps_the_lock(record, tmp_path):
    with RecordWriter(tmp_path / "run.attn", record) as writer:
        told, tell = os.pipe()
        ended, end = os.pipe()
        child = os.fork()
        if not child:
            try:
                writer.add(record["first"])
                os.write(tell, b"written")
            except RecordError as error:
                os.write(tell, str(error).encode())
            os.close(end)
            os.read(ended, 1)
            os._exit(0)
        assert b"this writer is of another process" in os.read(told, 1000)
        writer.add(record["first"])
    RecordWriter(tmp_path / "run.attn", record, resume=True).release()  # while the child lives
    os.write(end, b"x")
    os.waitpid(child, 0)
    for descriptor in (told, tell, ended, end):
        os.close(descriptor)


def test_a_closed_writer_writes_no_more(record, tmp_path):
    writer = RecordWriter(tmp_path / "run.attn", record)
    writer.add(record["first"])
    writer.close(record)
    with pytest.raises(
        RecordError, match="this writer is of nobody any more: it was closed; make one with resume=True"
    ):
        writer.add(record["second"])
    del writer
    forgotten = RecordWriter(tmp_path / "run.attn", record, overwrite=True)
    del forgotten
    assert record.save(tmp_path / "run.attn", overwrite=True)


def test_a_record_that_is_overwritten_is_not_mixed_with_what_was_there(tmp_path):
    """The sizes of both are the same: only what the files say of their run tells them apart."""
    first = observed_record(observed_layer("one", seed=1), observed_layer("two", seed=2))
    second = observed_record(observed_layer("one", seed=3), observed_layer("two", seed=4))
    opened = open_record(first.save(tmp_path / "run.attn"))
    before = opened["one"].lse.clone()
    second.save(tmp_path / "run.attn", overwrite=True)
    assert (opened["one"].lse == before).all()
    with pytest.raises(
        RecordError, match="two, is damaged: it is of another run, which was written in the record's place"
    ):
        opened["two"]
    assert open_record(tmp_path / "run.attn")["two"].lse.equal(second["two"].lse)


def test_watching_into_a_record_that_is_written_is_refused_before_the_model_runs(record, tmp_path):
    import torch

    model = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
    with RecordWriter(tmp_path / "run.attn", record):
        with pytest.raises(RecordError, match=REFUSED), pellucid.watch(model, out=tmp_path / "run.attn", resume=True):
            pytest.fail("the model was to run")
        with pytest.raises(RecordError, match=REFUSED):
            record.save(tmp_path / "run.attn", overwrite=True)
