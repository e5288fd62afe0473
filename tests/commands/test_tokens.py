"""What a model read, as `pellucid watch` keeps it and `pellucid show` prints it, in scripts of many bytes."""

import json

import pytest

from pellucid import open_record

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "für שלום नमस्ते 日本語 fÃ¼r"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["für für שלום"] * 3,
        tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False),
    )
    folder = tmp_path_factory.mktemp("bytes") / "gpt2"
    config = transformers.GPT2Config(vocab_size=made.get_vocab_size(), n_embd=8, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2Model(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    return folder


def test_tokens_read_as_the_text(pellucid, model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    out = tmp_path / "run.attn"
    status, _, err = pellucid("watch", "--model", model, "--text", tmp_path / "text.txt", "--out", out)
    assert status == 0, err
    record = open_record(out, verify=True)
    assert "".join(record.tokens[0]) == TEXT
    assert {"für", " שלום", "日"} <= set(record.tokens[0])
    content = json.loads(pellucid("show", out, "--json")[1])
    assert "".join(content["tokens"][0]) == TEXT
    shown = pellucid("show", out)[1]
    assert "für שלום" in shown
    assert "Ġ" not in shown
