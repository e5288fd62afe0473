"""Profiles made by several processes: torchrun's ranks, and a Ray cluster of this machine."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from pellucid import open_profile
from pellucid.cli import main
from pellucid.profiles.running.blocks import SIZE
from tests.cases import EFFORT
from tests.profiles import corpora
from tests.thorough import ALL

pytestmark = pytest.mark.thorough
pytest.importorskip("transformers")

# Documents of the corpus, and moments at which a run is killed.
DOCUMENTS, KILLS = (2_000, 10) if EFFORT >= ALL else (500, 3)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model, a corpus, and the file that one process makes of them."""
    folder = tmp_path_factory.mktemp("given")
    model, texts = corpora.save_model(folder / "tiny"), corpora.jsonl(folder / "corpus.jsonl", DOCUMENTS)
    out = folder / "whole.heads"
    torch.set_num_threads(1)
    assert main([str(word) for word in arguments(model, texts, out)]) == 0
    return model, texts, out.read_bytes()


def arguments(model, texts, out, *options):
    return ["profile", "--model", model, "--texts", texts, "--out", out, *options]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(*command):
    command = [str(word) for word in command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment())


def torchrun(count, *options):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *options]


@pytest.mark.parametrize("count", [2, 4])
def test_shards_give_the_same_file(given, tmp_path, count):
    model, texts, expected = given
    parts = [tmp_path / f"{index}.heads" for index in range(count)]
    for index, part in enumerate(parts):
        assert main([str(word) for word in arguments(model, texts, part, "--shard", f"{index}/{count}")]) == 0
    assert main([str(word) for word in ["merge", *reversed(parts), "--out", tmp_path / "all.heads"]]) == 0
    assert (tmp_path / "all.heads").read_bytes() == expected


def test_killed_at_moments_and_resumed_it_gives_the_same_file(given, tmp_path):
    model, texts, expected = given
    out, chance = tmp_path / "run.heads", random.Random(0)
    held = 0
    for _ in range(KILLS):
        held = killed_after(arguments(model, texts, out, "--resume"), out, held, chance.uniform(0.0, 0.5))
    assert KILLS * SIZE <= held < DOCUMENTS
    assert main([str(word) for word in arguments(model, texts, out, "--resume")]) == 0
    assert out.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [out]


def killed_after(words, out, held, seconds):
    """How many documents a profile has, once a process was killed some time after it had written more than `held`."""
    process = os.fork()
    if not process:
        main([str(word) for word in words])
        os._exit(0)
    wait_for(lambda: out.exists() and documents_of(out) > held)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return documents_of(out)


def documents_of(path):
    return open_profile(path).documents


def test_torchrun_gives_the_same_file(given, tmp_path):
    model, texts, expected = given
    done = run(*torchrun("2"), "-m", "pellucid", *arguments(model, texts, tmp_path / "run.heads"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"wrote {tmp_path}/run.heads") == 1
    assert (tmp_path / "run.heads").read_bytes() == expected
    assert list(tmp_path.iterdir()) == [tmp_path / "run.heads"]


def test_a_rank_that_dies_loses_what_it_was_at(given, tmp_path):
    model, texts, expected = given
    out, parts = tmp_path / "run.heads", tmp_path / "run.heads.parts"
    command = [*torchrun("2"), "-m", "pellucid", *arguments(model, texts, out)]
    process = subprocess.Popen([str(word) for word in command], env=environment(), stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(parts.glob("*-of-2.heads"))) == 2)
    os.kill(rank_of(process.pid), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert not out.exists()
    assert sum(open_profile(part).documents for part in parts.glob("*-of-2.heads")) > 0
    done = run(*torchrun("2"), "-m", "pellucid", *arguments(model, texts, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == expected


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def rank_of(parent):
    """A process that torchrun has started."""
    for folder in os.listdir("/proc"):
        if folder.isdecimal():
            try:
                with open(f"/proc/{folder}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == parent:
                        return int(folder)
            except OSError:
                continue
    raise AssertionError("torchrun has no process")


def test_ray_gives_the_same_file_though_an_actor_is_killed(given, tmp_path):
    pytest.importorskip("ray")
    model, texts, expected = given
    out = tmp_path / "run.heads"
    command = [sys.executable, "-m", "pellucid", *arguments(model, texts, out, "--ray")]
    process = subprocess.Popen([str(word) for word in command], env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: out.exists() or process.poll() is not None, seconds=240)
        killed = [os.kill(actor, signal.SIGKILL) for actor in actors()[:1]]
        _, told = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, told
    assert killed
    assert out.read_bytes() == expected


def actors():
    """The processes of Ray that map blocks: Ray names each after what it does."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdecimal():
            try:
                with open(f"/proc/{folder}/cmdline", "rb") as file:
                    words = file.read()
            except OSError:
                continue
            if words.startswith(b"ray::") and b"MapWorker" in words:
                found.append(int(folder))
    return found
