"""Alignment against Whisper's own routine in transformers, and on dates that the embedded model reads."""

from types import SimpleNamespace

import pytest
import torch

import pellucid
from pellucid import demo
from pellucid.demo.model.vocabulary import START, encode_target
from pellucid.record.studies import align as aligning
from pellucid.record.studies.align import Alignment, align
from pellucid.record.studies.warping import warp
from tests.watch import models
from tests.watch.observed import observed_layer, observed_record


def dense_way(costs):
    """The cheapest way by the textbook: every place in turn, float32 sums, ties along the row."""
    rows, columns = costs.shape
    total = torch.full((rows + 1, columns + 1), torch.inf)
    total[0, 0] = 0
    step = {}
    for j in range(1, columns + 1):
        for i in range(1, rows + 1):
            both, row, column = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            best = 0 if both < row and both < column else 1 if row < both and row < column else 2
            total[i, j] = costs[i - 1, j - 1] + (both, row, column)[best]
            step[i, j] = best
    i, j, way = rows, columns, []
    while i or j:
        way.append((i - 1, j - 1))
        best = step.get((i, j), 2 if not i else 1)
        i, j = i - (best != 2), j - (best != 1)
    return [place for place in way[::-1] if min(place) >= 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 11), (11, 5), (13, 13)])
@pytest.mark.parametrize("tied", [False, True])
def test_warping_is_the_textbooks(shape, tied):
    costs = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    costs = costs.round() if tied else costs
    way = warp(costs)
    assert list(zip(way.rows.tolist(), way.columns.tolist(), strict=True)) == dense_way(costs)


def test_what_cannot_be_warped():
    with pytest.raises(ValueError, match=r"a matrix \[rows, columns\] is needed, got \[0, 3\]"):
        warp(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="must be numbers, got NaN"):
        warp(torch.tensor([[torch.nan]]))


# Whisper.


@pytest.fixture(scope="module")
def whisper():
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=60, d_model=24, encoder_layers=1, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=3, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, max_source_positions=60,
        max_target_positions=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(6.0)  # sharper attention
        sound = torch.randn(2, 8, 120)
        ids = torch.randint(4, 60, (2, 17))
    return model, {"input_features": sound, "decoder_input_ids": ids}


class Outputs(SimpleNamespace):
    """What `generate` gives back, as far as the routine looks at it."""

    def __contains__(self, name):
        return name in vars(self)


HEADS = [[1, 0], [2, 2], [2, 0]]


@pytest.fixture(scope="module")
def theirs(whisper):
    """Whisper's own routine, on weights that the model computes eagerly."""
    model, inputs = whisper
    model.set_attn_implementation("eager")
    with torch.no_grad():
        crosses = model(**inputs, output_attentions=True).cross_attentions
    model.set_attn_implementation("sdpa")

    def times(**options):
        outputs = Outputs(cross_attentions=[crosses], sequences=inputs["decoder_input_ids"])
        return model._extract_token_timestamps(outputs, HEADS, **{"num_input_ids": 0} | options)

    return times


@pytest.fixture(scope="module")
def record(whisper):
    model, inputs = whisper
    with torch.no_grad(), pellucid.watch(model, keep="*encoder_attn") as record:
        model(**inputs)
    return record


@pytest.mark.sampled
@pytest.mark.parametrize("chunk", [7, 512])
@pytest.mark.parametrize(
    ("ours", "options"),
    [
        ({}, {}),
        ({"keys": slice(0, 23)}, {"num_frames": 46}),
        ({"queries": slice(4, None)}, {"num_input_ids": 4}),
        ({"keys": slice(0, 41), "queries": slice(2, None)}, {"num_frames": 83, "num_input_ids": 2}),
    ],
)
def test_times_are_whispers_own(record, theirs, ours, options, chunk, monkeypatch):
    monkeypatch.setattr(aligning, "_CHUNK", chunk)
    expected = theirs(**options)
    skipped = options.get("num_input_ids", 0)
    for sequence in range(2):
        found = align(record, HEADS, sequence=sequence, **ours)
        times = torch.tensor(found.seconds(0.02))
        assert len(times) == 17 - skipped
        torch.testing.assert_close(times, expected[sequence, skipped:-1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", [True, "*encoder_attn"])
def test_generation_step_by_step_is_aligned_too(whisper, record, layers):
    model, inputs = whisper
    ids = inputs["decoder_input_ids"]
    with torch.no_grad(), pellucid.watch(model, layers=layers, keep="*encoder_attn") as stepped:
        encoded = model.model.encoder(inputs["input_features"])
        cache = None
        for step in (slice(0, 5), *(slice(n, n + 1) for n in range(5, 17))):
            output = model(encoder_outputs=encoded, decoder_input_ids=ids[:, step], **{models.CACHE: cache})
            cache = output[models.CACHE]
    assert stepped["model.decoder.layers.0.encoder_attn"].calls == 13
    assert not [name for name in stepped if "#" in name]
    assert align(stepped, HEADS).starts.tolist() == align(record, HEADS).starts.tolist()


def test_all_heads_of_the_later_layers_if_none_are_named(record):
    every = [(layer, head) for layer in (1, 2) for head in range(3)]
    assert align(record).keys.tolist() == align(record, every).keys.tolist()


def test_no_weights_are_stored(whisper, record, monkeypatch):
    """One head and one stretch of keys at a time."""
    from pellucid.record.layer import Layer

    sizes, weights = [], Layer.weights
    monkeypatch.setattr(Layer, "weights", lambda self, **o: sizes.append(w := weights(self, **o)) or w)
    monkeypatch.setattr(aligning, "_CHUNK", 10)
    align(record)
    assert len(sizes) == 36
    assert max(w.numel() for w in sizes) == 2 * 17 * 16


# The embedded model.


@pytest.fixture(scope="module")
def reader():
    return demo.load_reader()


@pytest.mark.parametrize(
    ("text", "answer", "places"),
    [
        ("1997/12/31", "1997-12-31", (0, 1, 2, 3, 5, 6, 8, 9)),
        ("1997年3月5日", "1997-03-05", (0, 1, 2, 3, 6, 9)),
        ("1997 December 31", "1997-12-31", (0, 1, 2, 3, 8, 9)),
    ],
)
def test_an_answer_is_aligned_with_its_text(reader, text, answer, places):
    reading = reader.read(text)
    assert reading.answer == answer
    written = [START, *reading.target[:-1]]
    with torch.no_grad(), pellucid.watch(reader, keep=True, tokens=[reading.target]) as record:
        reader(torch.tensor([reader.vocabulary.encode(text)]), torch.tensor([encode_target("".join(written))]))
    found = record.align(filter_width=1)
    assert found.tokens == [*answer, "$"]
    for place in places:  # the digits that the text holds too
        assert answer[place] in text[found.starts[place] : found.stops[place]], place
    assert torch.equal(found.starts, found.starts.sort().values)


def test_words():
    starts, stops = torch.tensor([0, 4, 6, 9]), torch.tensor([4, 6, 9, 12])
    words = Alignment([" Hel", "lo", "Ġthere", "!"], starts, stops, starts, starts).words()
    assert [tuple(word) for word in words] == [("Hello", 0, 6), ("there!", 6, 12)]


# What cannot be aligned.


def test_what_cannot_be_aligned(record):
    cases = [
        (observed_record(observed_layer()), {}, ValueError, "the record has no cross-attention"),
        (observed_record(observed_layer("x", "cross", kept=False)), {}, ValueError, "x kept no query and key"),
        (record, {"heads": []}, ValueError, "at least one pair"),
        (record, {"heads": [(3, 0)]}, IndexError, "cross-attention has layers 0 to 2, got 3"),
        (record, {"heads": [(0, 3)]}, IndexError, "has heads 0 to 2, got 3"),
        (record, {"queries": slice(20, 30)}, ValueError, "queries: a slice of neighbours"),
        (record, {"keys": slice(0, 30, 2)}, ValueError, "keys: a slice of neighbours"),
        (record, {"sequence": 2}, IndexError, "sequence: the record has 0 to 1, got 2"),
        (record, {"filter_width": 4}, ValueError, "filter_width: an odd number"),
    ]
    for given, options, error, message in cases:
        with pytest.raises(error, match=message):
            align(given, **options)
