import re
from dataclasses import replace
from random import Random

import pytest
import torch

from pellucid.lessons import train
from pellucid.lessons.model import load_decoder
from pellucid.lessons.training import TASKS, Training


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the script has it: more are no quicker on models this small
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_texts_of_a_batch_are_of_one_length_and_their_places_within(name, done):
    batch = TASKS[name].batch(Random(0), done)
    assert len({len(text) for text in batch.texts}) == 1
    assert len(batch.places) == len(batch.texts)
    for text, places in zip(batch.texts, batch.places, strict=True):
        assert 0 <= min(places) <= max(places) < len(text) - 1
        assert set(text) <= set(TASKS[name].vocabulary)


def test_stories_become_longer():
    lengths = [len(TASKS["stories"].batch(Random(0), done).texts[0]) for done in (0.0, 0.3, 0.5, 1.0)]
    assert lengths[0] == lengths[1] < lengths[2] < lengths[3]


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_decides_and_touches_no_other_generator(name):
    before = torch.get_rng_state()
    one, same, other = (Training(TASKS[name], steps=3, seed=seed) for seed in (3, 3, 4))
    assert [one.advance() for _ in range(2)] == [same.advance() for _ in range(2)]
    assert all(map(torch.equal, one.model.state_dict().values(), same.model.state_dict().values()))
    assert not torch.equal(one.model.embedding.weight, other.model.embedding.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns():
    training = Training(TASKS["stories"], steps=400)
    training.step = 100  # the learning rate has risen
    costs = [training.advance() for _ in range(20)]
    assert sum(costs[-5:]) < 0.97 * sum(costs[:5])


def test_sharpening_makes_the_first_layer_sharper():
    def entropy(sharpen):
        training = Training(replace(TASKS["lists"], sharpen=sharpen), steps=200)
        training.step = 150
        for _ in range(15):
            training.advance()
        return training._costs(training.task.batch(Random(1), 1.0))[1].item()

    assert entropy(1000.0) < 0.97 * entropy(0.0)


def test_the_script_writes_the_models(tmp_path, capsys):
    assert train.main(["all", "--steps", "2", "--out", str(tmp_path)]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name in TASKS:
        path = tmp_path / f"{name}.safetensors"
        assert load_decoder(path).words == TASKS[name].vocabulary
        assert f"{name}.safetensors ({path.stat().st_size:,} bytes)" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lists", "--steps", "0"], "argument --steps: invalid positive value: '0'"),
        (["rhymes"], "argument name: invalid choice: 'rhymes'"),
        (["lists", "--out", "nowhere"], "--out: there is no folder 'nowhere'. Make it first."),
    ],
)
def test_the_script_refuses_what_makes_no_sense(arguments, message, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments)
    assert message in capsys.readouterr().err
