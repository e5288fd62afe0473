import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.demo import DateReader, load_reader
from pellucid.demo.data.dates import alphabet
from pellucid.demo.model.date_reader import Sizes
from pellucid.demo.model.weights import SHIPPED, save_reader

SIZES = Sizes(width=12, heads=2, hidden=14, encoder_layers=1, decoder_layers=1)


def test_a_saved_model_comes_back_rounded_to_float16(tmp_path):
    reader = DateReader("abc", SIZES)
    save_reader(reader, tmp_path / "small.safetensors")
    loaded = load_reader(tmp_path / "small.safetensors")
    assert loaded.vocabulary.characters == "abc"
    assert loaded.sizes == SIZES
    assert not loaded.training
    for name, tensor in reader.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def test_the_shipped_file_is_small_and_in_half_precision():
    assert SHIPPED.stat().st_size <= 2_000_000
    assert {tensor.dtype for tensor in load_file(SHIPPED).values()} == {torch.float16}


def test_the_shipped_model_knows_the_generator_s_characters():
    unknown = set(alphabet()) - set(load_reader().vocabulary.characters)
    assert len(unknown) < 5  # another edition of CLDR may bring a few


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*none\.safetensors'\. python -m pellucid\.demo\.train"
    ):
        load_reader(tmp_path / "none.safetensors")


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_reader(tmp_path / "text")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no date reader"):
        load_reader(tmp_path / "other")
