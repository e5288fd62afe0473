import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.lessons.model import Decoder, Sizes, load_decoder, save_decoder
from pellucid.lessons.model.weights import FOLDER
from pellucid.readouts import Entropy

SIZES = Sizes(width=12, heads=3, layers=2)
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_a_saved_model_comes_back_rounded_to_float16(tmp_path):
    model = Decoder(["<s>", "a", "b"], SIZES)
    save_decoder(model, tmp_path / "small.safetensors")
    loaded = load_decoder(tmp_path / "small.safetensors")
    assert (loaded.words, loaded.sizes, loaded.training) == (model.words, SIZES, False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def test_the_shipped_models_are_those_of_the_tasks_small_and_in_half_precision():
    from pellucid.lessons.training import TASKS

    assert sorted(TASKS) == SHIPPED
    for name, task in TASKS.items():
        path = FOLDER / f"{name}.safetensors"
        assert path.stat().st_size <= 1_000_000
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
        assert load_decoder(name).words == task.vocabulary


def test_a_word_depends_on_those_before_it_alone():
    torch.manual_seed(0)
    model = Decoder(["<s>", *"abcdef"], SIZES)
    one, other = model(model.encode(["abcd", "abef"]))
    torch.testing.assert_close(one[:2], other[:2])
    assert not torch.allclose(one[2], other[2])


def test_observing_changes_no_score():
    torch.manual_seed(0)
    model = Decoder(["<s>", *"abcdef"], SIZES)
    numbers = model.encode(["abcdfe"])
    scores, seen = model.observe(numbers, [Entropy()])
    torch.testing.assert_close(scores, model(numbers))
    assert [one.entropy.shape for one in seen] == [(1, 3, 6)] * 2


def test_an_unknown_word_is_named():
    with pytest.raises(ValueError, match="the model knows no 'dog'; it knows <s>, cat, …"):
        Decoder(["<s>", "cat"], SIZES).encode([["cat", "dog"]])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors'\. python -m pellucid\.lessons\.train"):
        load_decoder(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors'"):
        load_decoder("nothing")


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_decoder(tmp_path / "text.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no model of a lesson"):
        load_decoder(tmp_path / "other.safetensors")
