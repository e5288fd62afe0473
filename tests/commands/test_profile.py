"""`pellucid profile` and `pellucid merge`, with a tiny model of random weights."""

import errno
import json
import os
import signal
import sys
import time

import pytest
import torch

import pellucid as package
from pellucid import open_profile
from pellucid.profiles.running import keeping
from pellucid.profiles.running.keeping import Kept
from pellucid.record.disk.lock import FolderLock
from tests.profiles import corpora

pytest.importorskip("transformers")

DOCUMENTS = 70  # three blocks


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return corpora.save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return corpora.jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", DOCUMENTS)


@pytest.fixture
def profiled(pellucid, model, texts, tmp_path):
    """Runs `pellucid profile` and returns the exit status and what it tells."""

    def run(out, *options, texts=texts, model=model):
        status, _, told = pellucid("profile", "--model", model, "--texts", texts, "--out", tmp_path / out, *options)
        return status, told

    return run


@pytest.fixture(scope="module")
def whole(model, texts, tmp_path_factory):
    """The file of one process that nothing interrupts."""
    from pellucid.cli import main

    out = tmp_path_factory.mktemp("whole") / "whole.heads"
    assert main(["profile", "--model", str(model), "--texts", str(texts), "--out", str(out)]) == 0
    return out.read_bytes()


def test_the_numbers_are_those_of_each_document(profiled, model, tmp_path):
    from pellucid.commands.models import load_model

    assert profiled("a.heads", texts=corpora.jsonl(tmp_path / "few.jsonl", 20))[0] == 0
    found = open_profile(tmp_path / "a.heads")
    assert (found.documents, found.complete, len(found.heads)) == (20, True, 4)
    loaded = load_model(str(model))
    values = []
    for text in corpora.texts(20):
        ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
        with torch.inference_mode(), package.watch(loaded.model) as record:
            loaded.model(input_ids=ids)
        values.append([[head.entropy, head.induction, head.concentration] for head in record.summary()])
    expected = torch.tensor(values, dtype=torch.float64)
    for place, number in enumerate(("entropy", "induction", "concentration")):
        own = expected[..., place]
        of_documents = found.statistics(number)
        assert torch.equal(of_documents.documents, (~own.isnan()).sum(0))
        torch.testing.assert_close(of_documents.mean, own.nanmean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [2, 4])  # four: more than there are blocks
def test_shards_give_the_same_file(profiled, pellucid, tmp_path, whole, count):
    for index in range(count):
        assert profiled(f"{index}.heads", "--shard", f"{index}/{count}")[0] == 0
    parts = [tmp_path / f"{index}.heads" for index in reversed(range(count))]
    status, _, told = pellucid("merge", *parts, "--out", tmp_path / "all.heads")
    assert status == 0
    assert told.startswith(f"pellucid: wrote {tmp_path}/all.heads: {DOCUMENTS} documents, ")
    assert (tmp_path / "all.heads").read_bytes() == whole


def as_rank(monkeypatch, rank, count, restarts=0):
    given = {"TORCHELASTIC_RUN_ID": "x", "RANK": rank, "WORLD_SIZE": count, "TORCHELASTIC_RESTART_COUNT": restarts}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))


def test_ranks_go_on_whatever_their_number(profiled, monkeypatch, tmp_path, whole):
    as_rank(monkeypatch, 1, 3)
    assert profiled("run.heads")[0] == 0
    as_rank(monkeypatch, 0, 2)
    status, told = profiled("run.heads")
    assert status == 1
    assert told.endswith(
        "run.heads.parts/1-of-3.heads: is there already; --overwrite it, --resume it, or name another\n"
    )
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        assert profiled("run.heads", "--resume")[0] == 0
    assert (tmp_path / "run.heads").read_bytes() == whole


def test_ranks_that_are_started_anew_keep_what_they_have(profiled, monkeypatch, tmp_path, whole):
    for rank, restarts in ((0, 0), (0, 1), (1, 1)):
        as_rank(monkeypatch, rank, 2, restarts)
        assert profiled("run.heads")[0] == 0
    assert (tmp_path / "run.heads").read_bytes() == whole


def test_ranks_give_the_same_file(profiled, monkeypatch, tmp_path, whole):
    """Two of five have no block; one of them begins when the others have finished."""
    for rank in (3, 1, 2, 0):
        as_rank(monkeypatch, rank, 5)
        assert profiled("run.heads")[0] == 0
        assert (tmp_path / "run.heads").exists() == (rank == 0)
    as_rank(monkeypatch, 4, 5)
    assert profiled("run.heads")[0] == 0
    assert (tmp_path / "run.heads").read_bytes() == whole
    assert list(tmp_path.iterdir()) == [tmp_path / "run.heads"]


def test_ctrl_c_keeps_what_is_done(profiled, monkeypatch, tmp_path, whole):
    add, count = Kept.add, iter(range(10))

    def stopped(self, part):
        add(self, part)
        if next(count) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "add", stopped)
    status, told = profiled("run.heads")
    assert status == 130
    assert told.endswith(f"interrupted; {tmp_path}/run.heads holds 64 documents, --resume goes on with the others\n")
    assert not open_profile(tmp_path / "run.heads").complete
    monkeypatch.undo()
    assert profiled("run.heads", "--resume")[0] == 0
    assert (tmp_path / "run.heads").read_bytes() == whole


MOMENTS = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]  # seconds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that it forks off")
@pytest.mark.parametrize("moments", [MOMENTS[1:4:2], pytest.param(MOMENTS, marks=pytest.mark.thorough)], ids=len)
def test_killed_and_resumed_gives_the_same_file(profiled, tmp_path, whole, moments):
    out = tmp_path / "run.heads"
    for moment in moments:
        process = os.fork()
        if not process:
            torch.set_num_threads(1)
            profiled("run.heads", "--resume")
            os._exit(0)
        until = time.monotonic() + 20
        while not out.exists() and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        if out.exists():
            open_profile(out)
    assert profiled("run.heads", "--resume")[0] == 0
    assert out.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_loses_nothing(profiled, monkeypatch, tmp_path, whole):
    add, count = Kept.add, iter(range(10))

    def filling(self, part):
        if next(count) == 2:
            fill_disk(monkeypatch)
        add(self, part)

    monkeypatch.setattr(Kept, "add", filling)
    monkeypatch.setattr(keeping, "_SHARE", 1e9)  # written after each block, however slow the disk is
    status, told = profiled("run.heads")
    assert status == 1
    held = f"{tmp_path}/run.heads holds 64 documents, --resume goes on with the others"
    assert told.endswith(f"--out {tmp_path}/run.heads: cannot be written (no space left on device); {held}\n")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [tmp_path / "run.heads"]
    assert profiled("run.heads", "--resume")[0] == 0
    assert (tmp_path / "run.heads").read_bytes() == whole


def fill_disk(monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


def test_one_run_a_file(profiled, monkeypatch, tmp_path, whole):
    lock = tmp_path / ".run.heads.lock"
    lock.mkdir()  # as a run leaves it that was killed
    other = FolderLock(lock)
    for options in ((), ("--overwrite",), ("--resume",)):
        told = (
            f"pellucid: --out {tmp_path}/run.heads: another run is writing it; wait for its end, or name another file\n"
        )
        assert profiled("run.heads", *options) == (1, told)
    other.release()
    assert profiled("run.heads")[0] == 0
    assert (tmp_path / "run.heads").read_bytes() == whole
    assert list(tmp_path.iterdir()) == [tmp_path / "run.heads"]
    as_rank(monkeypatch, 0, 2)
    (tmp_path / "ranks.heads.parts" / ".0-of-2.heads.lock").mkdir(parents=True)
    other = FolderLock(tmp_path / "ranks.heads.parts" / ".0-of-2.heads.lock")
    assert profiled("ranks.heads")[1].endswith(
        "ranks.heads: another run is writing it; wait for its end, or name another file\n"
    )
    other.release()


def test_where_a_profile_cannot_be_kept(profiled, tmp_path, texts):
    assert profiled("/dev/null", "--overwrite") == (
        1, "pellucid: --out /dev/null: is no plain file; name one, such as run.heads\n",
    )  # fmt: skip
    (tmp_path / ".run.heads.lock").write_text("in the way")
    assert profiled("run.heads")[1].startswith(f"pellucid: --out {tmp_path}/run.heads: cannot be written (")


def test_a_link_to_a_profile_is_one(profiled, tmp_path):
    (tmp_path / "one.txt").write_text("the cat")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run.heads").symlink_to("elsewhere/real.heads")
    assert profiled("run.heads", texts=tmp_path / "one.txt")[0] == 0
    assert (tmp_path / "run.heads").is_symlink()
    assert open_profile(tmp_path / "run.heads").documents == 1


def test_a_corpus_of_which_nothing_can_be_read_is_none(profiled, texts, tmp_path):
    status, told = profiled("run.heads", "--field", "txet")
    assert status == 1
    assert told.endswith(
        f"--texts corpus.jsonl: none of its {DOCUMENTS} documents could be read, so there is no profile; "
        "the first, corpus.jsonl:1, has no field 'txet'\n"
    )
    assert not list(tmp_path.iterdir())
    (tmp_path / "one.txt").write_bytes(b"caf\xe9")
    told = profiled("run.heads", texts=tmp_path / "one.txt")[1]
    assert "one.txt: its only document could not be read, so there is no profile; one.txt:1, is no UTF-8 text" in told


def test_a_class_has_one_pattern(profiled):
    status, told = profiled("run.heads", "--pattern", "year=19", "--pattern", "year=20")
    assert (status, told) == (1, "pellucid: --pattern: year: is given 2 times; give each class its own name\n")


def test_what_cannot_be_read_is_named(profiled, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("the cat sat on the mat")
    (folder / "b.txt").write_bytes(b"\xff")
    (folder / "c.txt").write_text("")
    (folder / "d.txt").write_text("the " * 60)
    status, told = profiled("run.heads", texts=folder)
    assert status == 0
    assert (
        "texts: a document is a file each, or a row of a .jsonl or .parquet; documents of more than 48 tokens" in told
    )
    assert "2 documents, 54 tokens, 4 heads" in told
    assert "2 documents were not read, the first b.txt, which is no UTF-8 text (byte 0xff at 0)" in told
    assert "1 was cut, by 12 tokens in all" in told
    (corpus,) = open_profile(tmp_path / "run.heads").corpora
    assert [tuple(one) for one in corpus.unread] == [
        (1, "b.txt", "is no UTF-8 text (byte 0xff at 0)"), (2, "c.txt", "is empty"),
    ]  # fmt: skip
    assert profiled("skip.heads", "--long", "skip", "--max-tokens", 20, texts=folder)[0] == 0
    (corpus,) = open_profile(tmp_path / "skip.heads").corpora
    assert (corpus.documents, corpus.unread[-1].reason) == (1, "has 60 tokens, and 20 are allowed")


def test_what_cannot_be_done_is_one_message(profiled, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.txt").write_text("the cat")
    one, empty = tmp_path / "one.txt", tmp_path / "empty"
    for message, options, texts in (
        ("there is no such file or folder", (), tmp_path / "none"),
        ("holds no document; give texts", (), empty),
        ("--max-tokens: ", ("--max-tokens", 100), one),
        ("'digits' cannot be its name; ", ("--pattern", "digits=x"), one),
    ):
        status, told = profiled("run.heads", *options, texts=texts)
        assert (status, message in told, told.count("\n") <= 2) == (1, True, True), told
    monkeypatch.setitem(sys.modules, "ray", None)
    status, told = profiled("run.heads", "--ray", texts=one)
    assert status == 1
    assert told.endswith("--ray: needs ray, which is not installed; pip install 'pellucid[ray]'\n")
    for options in (("--pattern", "x=("), ("--shard", "4/4"), ("--overwrite", "--resume")):
        assert profiled("run.heads", *options, texts=one)[0] == 2
    assert profiled("run.heads", texts=one)[0] == 0
    status, told = profiled("run.heads", texts=one)
    assert status == 1
    assert told.endswith("is there already; --overwrite it, --resume it, or name another\n")
    assert profiled("run.heads", "--overwrite", texts=one)[0] == 0
    status, told = profiled("run.heads", "--resume", "--max-tokens", 9, texts=one)
    assert status == 1
    assert "cannot be gone on with: the settings 'max_tokens' differ: 9 and 48" in told
    assert profiled("none/run.heads", texts=one)[1].endswith(f"there is no folder {tmp_path}/none\n")


def test_profiles_of_different_models_do_not_merge(profiled, pellucid, tmp_path):
    other = corpora.save_model(tmp_path / "other", seed=6)
    (tmp_path / "one.txt").write_text("the cat")
    assert profiled("a.heads", texts=tmp_path / "one.txt")[0] == 0
    assert profiled("b.heads", texts=tmp_path / "one.txt", model=other)[0] == 0
    status, _, told = pellucid("merge", tmp_path / "a.heads", tmp_path / "b.heads", "--out", tmp_path / "c.heads")
    assert status == 1
    assert "b.heads: cannot be merged with " in told
    assert ": they are of different models: LlamaForCausalLM model" in told
    assert not (tmp_path / "c.heads").exists()
    status, _, told = pellucid("merge", tmp_path / "a.heads", tmp_path / "a.heads", "--out", tmp_path / "c.heads")
    assert told.endswith("document 0 of one.txt is in both, and would count twice\n")


def test_patterns_are_classes_of_tokens(profiled, tmp_path):
    (tmp_path / "one.txt").write_text("the cat sat 1997 on 12\n")
    assert (
        profiled("a.heads", "--pattern", "year=^[0-9]{4}$", "--pattern", "animal=cat", texts=tmp_path / "one.txt")[0]
        == 0
    )
    classes = open_profile(tmp_path / "a.heads").on_classes()
    equal = dict(zip(classes.names, classes.equal[0].tolist(), strict=True))
    last = [sum(1 / (row + 1) for row in range(place, 6)) / 6 for place in range(6)]  # the rows that may look there
    assert (equal["year"], equal["animal"], equal["digits"]) == pytest.approx((last[3], last[1], last[3] + last[5]))


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return corpora.save_translator(tmp_path_factory.mktemp("translator") / "t5")


PAIRS = ("--field", "from", "--target-field", "to")


def test_a_model_that_reads_one_text_and_writes_another(profiled, translator, tmp_path):
    from pellucid.commands.models import load_model

    texts = corpora.pairs(tmp_path / "pairs.jsonl", 12)
    assert profiled("a.heads", *PAIRS, texts=texts, model=translator)[0] == 0
    found = open_profile(tmp_path / "a.heads")
    assert [head.role for head in found.heads] == [role for role in ("self", "causal self", "cross") for _ in range(2)]
    read = [row for row in map(json.loads, texts.read_text().splitlines()) if len(row["to"].split()) > 1]
    assert found.documents == len(read) < 12
    assert {one.reason for one in found.corpora[0].unread} == {"its target has no token but the first, which is given"}
    loaded = load_model(str(translator))
    loaded.model.set_attn_implementation("eager")
    values = []
    for row in read:
        source, written = (torch.tensor([loaded.tokenizer(row[side])["input_ids"]]) for side in ("from", "to"))
        with torch.inference_mode():
            output = loaded.model(input_ids=source, decoder_input_ids=loaded.shifted(written), output_attentions=True)
        kinds = output.encoder_attentions, output.decoder_attentions, output.cross_attentions
        weights = [layers[0][0] for layers in kinds]
        values.append(torch.cat([torch.special.entr(one).sum(-1).mean(-1) for one in weights]))
    torch.testing.assert_close(
        found.statistics("entropy").mean, torch.stack(values).double().mean(0), rtol=0, atol=1e-5
    )
    best = found.strongest_queries(4, "entropy")[0]
    source, written = read[
        [document for document in range(12) if document not in unread_of(found)].index(best.document.number)
    ].values()
    assert best.query_token == ["<s>", *written.split()][best.query]
    assert best.key_token == source.split()[best.key]


def unread_of(found):
    return {one.number for one in found.corpora[0].unread}


def test_texts_and_targets_that_do_not_fit(profiled, translator, texts, tmp_path):
    told = "it reads one text and writes another; name the field that holds the other: --target-field"
    assert told in profiled("a.heads", model=translator)[1]
    told = "--target-field: "
    assert told in profiled("a.heads", "--target-field", "to")[1]
    told = (
        "none of its 70 documents could be read, so there is no profile; the first, corpus.jsonl:1, has no field 'to'"
    )
    assert told in profiled("a.heads", "--target-field", "to", model=translator)[1]
    (tmp_path / "plain.txt").write_text("the cat\n")
    told = profiled("a.heads", "--target-field", "to", model=translator, texts=tmp_path / "plain.txt")[1]
    assert "plain.txt, is no .jsonl or .parquet, which has fields, 'to' one of them" in told


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux for the memory in use")
def test_memory_does_not_grow_with_the_corpus(profiled, monkeypatch, tmp_path):
    add, used = Kept.add, []

    def measured(self, part):
        add(self, part)
        with open("/proc/self/statm") as file:
            used.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    monkeypatch.setattr(Kept, "add", measured)
    assert profiled("run.heads", texts=corpora.jsonl(tmp_path / "many.jsonl", 3200))[0] == 0
    assert len(used) == 100
    assert max(used[50:]) - max(used[20:50]) < 8 << 20
