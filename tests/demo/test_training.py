import os
import re
import signal
import threading

import pytest
import torch

from pellucid.demo import train
from pellucid.demo.data.dates import Example, is_held_out
from pellucid.demo.model.date_reader import Sizes
from pellucid.demo.model.vocabulary import PADDING, TARGET_TOKENS, Vocabulary
from pellucid.demo.training.attending import ATTENTIONS
from pellucid.demo.training.batches import BATCHES_PER_CHUNK, make_batch, training_batches
from pellucid.demo.training.steps import Settings, Training

SETTINGS = Settings(steps=7, batch_size=5, warmup_steps=3)
SIZES = Sizes(width=12, heads=2, hidden=14, encoder_layers=1, decoder_layers=1)
SMALL = ["--batch", "3", "--evaluate", "2", "--threads", "1"]


def test_a_batch_holds_the_padded_texts_and_the_answers():
    vocabulary = Vocabulary("0123456789 mars")
    batch = make_batch(
        [Example("3 mars 1997", "1997-03-03", "fr", "3 mars 1997"), Example("3 3 97", "1997-03-03", "fr", "3 3 97")],
        vocabulary,
    )
    assert batch.lengths.tolist() == [11, 6]
    assert batch.source[1].tolist() == [*vocabulary.encode("3 3 97"), *[PADDING] * 5]
    assert "".join(TARGET_TOKENS[number] for number in batch.written[0]) == "^1997-03-03"
    assert "".join(TARGET_TOKENS[number] for number in batch.target[0]) == "1997-03-03$"


def test_batches_depend_on_the_seed_and_their_number_alone():
    vocabulary = Vocabulary("0123456789")
    everything = training_batches(vocabulary, 5, seed=3)
    later = training_batches(vocabulary, 5, seed=3, first=BATCHES_PER_CHUNK + 2)
    other = training_batches(vocabulary, 5, seed=4)
    first = next(everything)
    assert first.target.tolist() != next(other).target.tolist()
    for _ in range(BATCHES_PER_CHUNK + 1):
        next(everything)
    for _ in range(3):
        one, same = next(everything), next(later)
        assert one.source.tolist() == same.source.tolist()
        assert one.target.tolist() == same.target.tolist()


def test_texts_of_a_batch_are_of_about_one_length():
    batches = training_batches(Vocabulary("0123456789"), 64, seed=0)
    for _ in range(BATCHES_PER_CHUNK):
        lengths = next(batches).lengths
        assert lengths.float().mean() > 0.6 * lengths.max()


def test_the_learning_rate_rises_then_falls():
    settings = Settings(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, rel=0.05)


def test_training_learns():
    training = Training(Settings(steps=60, batch_size=16, warmup_steps=5, learning_rate=1e-2), SIZES)
    losses = [training.advance() for _ in range(60)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_torchs_attention_trains_it_to_the_same_losses():
    ours, torchs = (Training(Settings(steps=20, batch_size=16, warmup_steps=3, attention=a), SIZES) for a in ATTENTIONS)
    for _ in range(20):
        assert ours.advance() == pytest.approx(torchs.advance(), rel=1e-3)


def test_on_torchs_attention_ours_is_not_called(monkeypatch):
    monkeypatch.setattr("pellucid.functional.executed", None)
    Training(Settings(steps=1, batch_size=3, attention="torch"), SIZES).advance()
    with pytest.raises(TypeError):
        Training(Settings(steps=1, batch_size=3), SIZES).advance()


def test_an_attention_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"^attention: must be one of pellucid, torch, got 'jax'\.$"):
        Training(Settings(attention="jax"), SIZES)


def test_interrupted_and_resumed_is_the_same_as_uninterrupted(tmp_path):
    whole = Training(SETTINGS, SIZES)
    losses = [whole.advance() for _ in range(7)]

    first = Training(SETTINGS, SIZES)
    before = [first.advance() for _ in range(3)]
    first.save(tmp_path / "state")
    second = Training(SETTINGS, SIZES)
    second.restore(tmp_path / "state")
    after = [second.advance() for _ in range(4)]

    assert before + after == losses
    for name, tensor in whole.reader.state_dict().items():
        assert torch.equal(tensor, second.reader.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    Training(SETTINGS, SIZES).save(tmp_path / "state")
    with pytest.raises(ValueError, match=r"is of a training with steps=7 \(not 8\), seed=0 \(not 1\)\. .*--restart"):
        Training(Settings(steps=8, batch_size=5, warmup_steps=3, seed=1), SIZES).restore(tmp_path / "state")


def test_an_interrupt_ends_after_a_whole_step(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    training = Training(SETTINGS, SIZES)
    advance = training.advance

    def interrupted_in_the_third():
        if training.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return advance()

    monkeypatch.setattr(training, "advance", interrupted_in_the_third)
    with train.interruptible() as interrupt:
        assert not train.train(training, tmp_path / "state", train.Console(quiet=True), interrupt)
    assert training.step == 3
    resumed = Training(SETTINGS, SIZES)
    resumed.restore(tmp_path / "state")
    assert resumed.step == 3


def interrupt_twice():
    with train.interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)


def test_a_second_interrupt_is_not_held_back():
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_the_script_resumes_where_it_stopped_and_prints_the_table(tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / "reader.safetensors"
    arguments = ["--out", str(out), "--steps", "3", *SMALL]
    advance = Training.advance

    def interrupted_in_the_second(training):
        if training.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(training)

    monkeypatch.setattr(Training, "advance", interrupted_in_the_second)
    assert train.main(arguments) == 130
    assert "Stopped after step 2" in capsys.readouterr().out
    assert not out.exists()

    monkeypatch.setattr(Training, "advance", advance)
    assert train.main(arguments) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "Going on after step 2" in printed
    assert f"({out.stat().st_size:,} bytes)" in printed
    assert "English │ 2 │" in printed
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: invalid positive value: '0'"),
        (["--batch", "many"], "argument --batch: invalid positive value: 'many'"),
        (["--out", "nowhere/reader.safetensors"], "--out: there is no folder 'nowhere'. Make it first."),
    ],
)
def test_the_script_refuses_what_makes_no_sense(arguments, message, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments)
    assert message in capsys.readouterr().err


def test_the_script_refuses_a_checkpoint_of_other_settings(tmp_path, capsys):
    Training(SETTINGS, SIZES).save(tmp_path / "reader.checkpoint")
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path / "reader.safetensors"), "--steps", "3", *SMALL])
    assert "is of a training with steps=7 (not 3), batch_size=5 (not 3)" in capsys.readouterr().err


def test_no_training_string_is_held_out_as_the_batches_are_made(monkeypatch):
    seen = []
    monkeypatch.setattr("pellucid.demo.training.batches.make_batch", lambda examples, vocabulary: seen.extend(examples))
    batches = training_batches(Vocabulary("0"), 256, seed=0)
    for _ in range(BATCHES_PER_CHUNK):
        next(batches)
    assert len(seen) == 256 * BATCHES_PER_CHUNK
    assert not any(is_held_out(example.date_text) for example in seen)
