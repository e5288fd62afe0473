"""Tokens as they read, of tokenizers that are built here, one of each way of writing them."""

import pytest
import torch

from pellucid import token_texts
from pellucid.readouts import TopK
from pellucid.record.stored import open_record
from pellucid.record.studies.align import Alignment
from tests.watch.observed import observed_layer, observed_record

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "für die Größe", "שלום עולם", "नमस्ते दुनिया", "日本語の文", "the cat", "a 🙂 b", "x\ny\tz", "fÃ¼r Ġorna ▁", "", " ",
]  # fmt: skip
SPECIAL = "<|end|>"


@pytest.fixture(scope="module")
def byte_level():
    """Trained on the first text alone, so that other scripts fall apart into bytes."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=alphabet, special_tokens=[SPECIAL], show_progress=False
    )
    made.train_from_iterator(["für die Größe"] * 5, trainer)
    made.add_tokens(["日本", "Ã¼"])
    return made


def nested(byte_level):
    """The same tokenizer, its parts inside of others."""
    made = tokenizers.Tokenizer.from_str(byte_level.to_str())
    pre = tokenizers.pre_tokenizers
    made.pre_tokenizer = pre.Sequence([pre.Digits(), pre.ByteLevel(add_prefix_space=False)])
    made.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteLevel()])
    return made


def of_transformers(byte_level):
    return pytest.importorskip("transformers").PreTrainedTokenizerFast(tokenizer_object=byte_level)


@pytest.mark.parametrize("form", [lambda made: made, nested, of_transformers])
@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_bytes_joined_are_the_text(byte_level, form, text):
    ids = byte_level.encode(text).ids
    texts = token_texts(form(byte_level), ids)
    assert "".join(texts) == text
    assert len(texts) == len(ids)


def test_a_character_is_that_of_the_last_of_its_tokens(byte_level):
    ids = byte_level.encode("שa").ids
    assert token_texts(byte_level, ids) == ["", "ש", "a"]
    assert token_texts(byte_level, torch.tensor(ids)) == ["", "ש", "a"]


def test_bytes_that_are_no_character_are_written_out(byte_level):
    first, last = byte_level.encode("ש").ids
    end = byte_level.token_to_id(SPECIAL)
    assert token_texts(byte_level, [first]) == [r"\xd7"]
    assert token_texts(byte_level, [first, end, last]) == [r"\xd7", SPECIAL, r"\xa9"]
    assert token_texts(byte_level, [10**6]) == ["[1000000]"]


def test_an_added_token_reads_as_it_is_written(byte_level):
    added = byte_level.token_to_id("Ã¼")
    assert token_texts(byte_level, [added]) == ["Ã¼"]


def test_words_that_look_like_bytes_stay():
    words = {"[UNK]": 0, "fÃ¼r": 1, "Ġorna": 2, "##▁x": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.decoder = tokenizers.decoders.WordPiece()
    assert token_texts(made, [1, 2, 3]) == ["fÃ¼r", "Ġorna", "##▁x"]


def test_sentencepiece_and_its_bytes():
    names = {"▁für": 0, "<0xE6>": 1, "<0x97>": 2, "<0xA5>": 3, "<unk>": 4, "Ġ": 5}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(names, [], unk_token="<unk>", byte_fallback=True))
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert token_texts(made, [0, 1, 2, 3, 5]) == [" für", "", "", "日", "Ġ"]
    metaspace = tokenizers.Tokenizer(tokenizers.models.Unigram([("▁a", 0.0), ("b", 0.0), ("<0xE6>", 0.0)]))
    metaspace.decoder = decoders.Metaspace()
    assert token_texts(metaspace, [0, 1, 2]) == [" a", "b", "<0xE6>"]


class InPython:
    def convert_ids_to_tokens(self, ids):
        return [["fÃ¼r", "Ġdie"][number] for number in ids]


def test_tokenizers_that_are_written_in_python():
    assert token_texts(InPython(), [0, 1]) == ["fÃ¼r", "Ġdie"]
    of_bytes = InPython()
    of_bytes.byte_decoder = {}
    assert token_texts(of_bytes, [0, 1]) == ["für", " die"]


def test_words_of_an_alignment(byte_level):
    ids = byte_level.encode("für die 語 שלום").ids
    texts = token_texts(byte_level, ids)
    places = torch.arange(len(texts))
    words = Alignment(texts, places, places + 1, places, places).words()
    assert [word.text for word in words] == ["für", "die", "語", "שלום"]


def test_a_record_and_its_exports_read_as_the_text(byte_level, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    text = "für שלום 日本語"
    texts = token_texts(byte_level, byte_level.encode(text).ids)
    layer = observed_layer(batch=1, q_len=len(texts), readouts=[TopK(2)])
    opened = open_record(observed_record(layer, tokens=[texts]).save(tmp_path / "run.attn"), verify=True)
    assert "".join(opened.tokens[0]) == text
    _, keys = opened.to_parquet(tmp_path / "run.parquet")
    assert set(parquet.read_table(keys).column("query_token").to_pylist()) == set(texts)
    assert opened.to_bertviz()["tokens"] == texts


def test_a_lone_surrogate_is_written_out_in_exports(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    tokens = ["\udcff", "ü", *["x"] * 3]
    record = observed_record(observed_layer(batch=1, q_len=5, readouts=[TopK(2)]), tokens=[tokens])
    _, keys = record.to_parquet(tmp_path / "run.parquet")
    assert parquet.read_table(keys).column("query_token").to_pylist()[0] == r"\udcff"
    record.to_headvis(tmp_path / "data")
    assert r"\udcff" in (tmp_path / "data" / "heads" / "L0H0.json").read_text(encoding="utf-8")
    assert record.to_bertviz()["tokens"][:2] == [r"\udcff", "ü"]
