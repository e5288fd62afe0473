"""Names and messages of others at the command line, and models that bring code of their own."""

import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest
import torch

from pellucid.commands.console import _Console
from pellucid.record.layer import Missed
from pellucid.record.stored import open_record
from pellucid.viewer.pictures.record_picture import draw
from tests.watch.observed import observed_layer, observed_record

EVIL = "\x1b[31m[red]$x$\x07\u202e\x9b2J\r\n\u2028" + "long" * 50
TOKENS = ["\x1b]0;title\x07", "[bold]", "$a$", "\u202e", "\r", "\n", "\udcff"]


@pytest.fixture
def evil(tmp_path):
    """A record with everything foreign hostile."""
    layer = observed_layer(EVIL, "causal self", batch=1, q_len=7, dim=2)
    record = observed_record(layer, observed_layer("plain", batch=1, q_len=7), tokens=[TOKENS])
    record.model, record.segments = EVIL, {EVIL: slice(0, 3)}
    record.missed = [Missed(EVIL, EVIL)]
    return record.save(tmp_path / "run.attn")


def assert_harmless(text):
    for character in text.replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"), ascii(text)
        assert character not in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068", ascii(text)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("columns", ["80", "200"])
def test_a_record_shows_no_name_as_a_command(pellucid, evil, monkeypatch, layer, columns):
    monkeypatch.setenv("COLUMNS", columns)
    status, out, err = pellucid("show", evil, "--layer", layer)
    assert (status, err) == (0, "")
    assert_harmless(out)
    assert "[red]" in out
    lines = [
        line for line in out.splitlines() if not line.startswith("in the browser: ")
    ]  # which is to be copied whole
    assert max(map(len, lines)) <= int(columns)


def test_json_is_exact(pellucid, evil):
    status, out, _ = pellucid("show", evil, "--json")
    content = json.loads(out)
    assert (status, content["model"], content["tokens"]) == (0, EVIL, [TOKENS])
    assert content["heads"][0]["layer"] == EVIL
    assert out.isascii()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["layers"][0].update(role=EVIL),
        lambda content: content["layers"][0].update(file=EVIL),
        lambda content: content["layers"][0]["readings"].pop("lse"),
        lambda content: content["layers"][0]["readings"].update({EVIL: {"kind": "tensor"}}),
        lambda content: content.update({"segments": {EVIL: 3}}),
        lambda content: content.update({"tokens": TOKENS}),
        lambda content: content.update({"version": EVIL}),
    ],
)
def test_what_is_wrong_is_told_in_one_harmless_line(pellucid, evil, change):
    path = evil / "manifest.json"
    content = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    change(content)
    path.write_text(json.dumps(content))
    status, out, err = pellucid("show", evil)
    assert (status, out) == (1, "")
    assert err.startswith("pellucid: ")
    assert err.count("\n") == 1
    assert len(err) < 2100
    assert_harmless(err)


def test_arguments_and_paths_are_told_in_one_harmless_line(pellucid, tmp_path):
    for arguments in (
        ["show", f"{EVIL}.attn"],
        ["show", "--file", EVIL],
        ["show", "x", "--head", EVIL],
        ["show", "x", "--save", EVIL],
        ["watch", "--text", EVIL, "--out", tmp_path / "x"],
        ["watch", "--text", "x", "--out", tmp_path / "x", EVIL],
        [EVIL],
    ):
        status, _, err = pellucid(*arguments)
        assert status in (1, 2)
        assert_harmless(err)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_record(pellucid, tmp_path):
    os.mkfifo(tmp_path / "run.attn")
    assert pellucid("show", tmp_path / "run.attn")[0] == 1
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "manifest.json")
    status, _, err = pellucid("show", tmp_path / "folder")
    assert (status, "it is a pipe where a plain file is needed" in err) == (1, True)


def test_the_console_is_a_gate_of_its_own():
    screen = _Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", markup=False, highlight=False)
    screen.print(f"a\x1b[31mb\x9bc\u202ed {EVIL}", style="green")
    printed = screen.file.getvalue()
    assert "a␛[31mb�c�d ␛[31m[red]" in printed
    assert_harmless(printed.replace("\x1b[32m", "").replace("\x1b[0m", ""))  # rich's own alone


@pytest.mark.filterwarnings("ignore:no installed font")
def test_pictures_set_no_formula_and_no_markup(evil):
    matplotlib = pytest.importorskip("matplotlib")
    record = open_record(evil)
    figure = draw(record, record.summary())
    figure.draw_without_rendering()
    labels = [figure.get_suptitle(), *(axes.get_ylabel() for axes in figure.axes)]
    assert [r"[red]\$" in label for label in labels][:2] == [True, True]
    assert not any(map(matplotlib.cbook.is_math_text, labels))
    with matplotlib.rc_context({"text.usetex": True}):  # as a user's own settings may have it
        assert not any(text.get_usetex() for text in draw(record, record.summary()).findobj(matplotlib.text.Text))


# Models.


@pytest.fixture
def coded(tmp_path, capsys):
    """A model's folder that asks for code of its own; called, where each kind of code is asked for."""
    transformers = pytest.importorskip("transformers")

    def make(where):
        folder = tmp_path / "model"
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        transformers.BertModel(transformers.BertConfig(vocab_size=7, **sizes)).save_pretrained(folder)
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
        config = json.loads((folder / "config.json").read_text())
        if where == "config":
            config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
        elif where == "tokenizer":
            own = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
            (folder / "tokenizer_config.json").write_text(json.dumps(own))
        elif where == "adapter":
            (folder / "adapter_config.json").write_text("{}")
        elif where == "kernel":
            config["attn_implementation"] = "someone/kernel"
        elif where == "architecture":
            config["architectures"] = ["pipeline", "logging"]
        elif where == "pickle":
            (folder / "model.safetensors").unlink()
            torch.save({"evil": _Evil(str(tmp_path / "ran"))}, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(config))
        capsys.readouterr()  # the library's bar
        return folder

    return make


class _Evil:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("config", "no model can be loaded from it: it needs code of its own, which is not run"),
        ("tokenizer", "no tokenizer can be loaded from it: "),
        ("adapter", "holds an adapter to a model; merge it into the model, and give that"),
        ("kernel", "its configuration asks for the code of someone/kernel, which is not run"),
        ("pickle", "no model can be loaded from it: "),
    ],
)
def test_a_model_brings_no_code(pellucid, coded, tmp_path, monkeypatch, where, message):
    (tmp_path / "text.txt").write_text("the cat")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    folder = coded(where)
    status, out, err = pellucid(
        "watch", "--model", folder, "--text", tmp_path / "text.txt", "--out", tmp_path / "r.attn"
    )
    assert (status, out) == (1, "")
    assert err.startswith(f"pellucid: --model {folder}: {message}"), err
    assert err.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "r.attn").exists()


def test_a_message_that_ends_in_a_list_is_told_with_it():
    from pellucid.commands.models import _first_words

    assert _first_words("\nno tokenizer from one of: \n(1) a file, \n(2) another") == (
        "no tokenizer from one of: (1) a file, (2) another"
    )
    assert _first_words("a reason\n\nTraceback: ...") == "a reason"
    assert _first_words(" \n") == ""


def test_an_architecture_that_is_no_model_is_passed_over(coded):
    from pellucid.commands.models import _class_of

    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(coded("architecture"))
    assert _class_of(transformers, config) is transformers.AutoModel


@pytest.mark.slow
def test_nobody_says_yes_for_the_user(coded, tmp_path):
    folder = coded("config")
    (tmp_path / "text.txt").write_text("the cat")
    command = [sys.executable, "-m", "pellucid", "watch", "--model", folder, "--text", tmp_path / "text.txt"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "r.attn"], input=b"y\n" * 1000, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert b"code of its own" in done.stderr
    assert not (tmp_path / "ran").exists()
