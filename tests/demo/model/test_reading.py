import datetime

import pytest
import torch

from pellucid.commands.view import of_date
from pellucid.demo import load_reader
from pellucid.demo.model.reading import LONGEST_TEXT
from pellucid.readouts import Entropy, Received


@pytest.fixture(scope="module")
def reader():
    return load_reader()


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("the third of March 1997", "1997-03-03"),
        ("3 mars 97", "1997-03-03"),
        ("Mar 3rd, '97", "1997-03-03"),
        ("1997年3月3日", "1997-03-03"),
        ("3 mars 1997", "1997-03-03"),
        ("3. März 1997", "1997-03-03"),
        ("lunedì 3 marzo 1997", "1997-03-03"),
        ("٣ مارس ١٩٩٧", "1997-03-03"),
        ("३ मार्च १९९७", "1997-03-03"),
        ("14 juillet 1789", "1789-07-14"),
        ("July 4th, 1776", "1776-07-04"),
        ("1997-03-12", "1997-03-12"),
    ],
)
def test_dates_as_people_write_them(reader, text, iso):
    assert reader.read(text).answer == iso


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("3.4.68", "2068-04-03"),
        ("3.4.69", "1969-04-03"),
        ("03/04/1997", "1997-04-03"),
        ("12-11-1997", "1997-11-12"),
        ("1997/4/3", "1997-04-03"),
        ("1997.11.12", "1997-11-12"),
    ],
)
def test_the_rules_for_numbers(reader, text, iso):
    assert reader.read(text).answer == iso


def test_a_date_among_other_words(reader):
    assert reader.read("Paris, le 3 mars 1997").answer == "1997-03-03"


def test_axes_name_what_queries_and_keys_stand_for(reader):
    reading = reader.read("3 mars 1997")
    characters, written = list("3 mars 1997"), list("1997-03-03$")
    assert (reading.text, reading.answer) == ("3 mars 1997", "1997-03-03")
    assert (reading.source, reading.target) == (characters, written)
    assert reading.axes("encoder") == (characters, characters)
    assert reading.axes("cross") == (written, characters)
    assert reading.axes("decoder") == (written, ["^", *written[:-1]])


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_observations_fit_their_axes(reader, kind):
    reading = reader.read("3 mars 1997")
    queries, keys = reading.axes(kind)
    layers = reader.sizes.encoder_layers if kind == "encoder" else reader.sizes.decoder_layers
    assert len(reading.attention[kind]) == layers
    for observation in reading.attention[kind]:
        assert observation.entropy.shape == observation.lse.shape == (1, reader.sizes.heads, len(queries))
        weights = observation.weights()
        assert weights.shape == (1, reader.sizes.heads, len(queries), len(keys))
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        above_diagonal = weights.triu(1).abs().max()
        assert (above_diagonal == 0) == (kind == "decoder")


def test_the_year_is_read_where_it_stands(reader):
    cross = reader.read("3 mars 1997").attention["cross"]
    on_year = torch.stack([layer.weights(queries=slice(0, 4), keys=slice(7, 11)).sum(-1) for layer in cross])
    assert on_year.amax(dim=(0, 1, 2)).min() > 0.5  # each digit's writer has a head that looks at the year


def test_readouts_are_those_asked_for(reader):
    reading = reader.read("3 mars 1997", readouts=[Received()])
    assert reading.attention["cross"][0].received.shape == (1, reader.sizes.heads, 11)
    with pytest.raises((AttributeError, KeyError)):
        _ = reading.attention["cross"][0].entropy


def test_reading_twice_tells_the_same(reader):
    one, other = (reader.read("3 mars 1997", [Entropy()]).attention["cross"][0].entropy for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("text", ["", "   ", "\u200b\x00\n", "\ud800"])
def test_an_empty_text_is_refused(reader, text):
    with pytest.raises(ValueError, match=r"text: it is empty, got .* Write a date"):
        reader.read(text)


def test_noise_is_refused_with_the_limit(reader):
    noise = "".join(chr(33 + (7 * place) % 90) for place in range(10_000))
    with pytest.raises(ValueError, match=rf"text: at most {LONGEST_TEXT} characters, got 10,?000 "):
        reader.read(noise)
    assert reader.read(noise[:LONGEST_TEXT]).answer


def test_no_string_is_refused(reader):
    with pytest.raises(TypeError, match="text: must be a string, got date"):
        reader.read(datetime.date(1997, 3, 3))


@pytest.mark.parametrize("text", ["🎂", "3 🎂 mars 1997", "\x07\x1b[31m3", "☃" * LONGEST_TEXT, "e\u0301" * 60])
def test_odd_characters_get_an_answer(reader, text):
    reading = reader.read(text)
    assert reading.answer
    assert "".join(reading.target).removesuffix("$") == reading.answer
    assert all(token.isprintable() for token in reading.source)


def test_an_unknown_kind_is_refused(reader):
    with pytest.raises(ValueError, match=r"kind: 'self' is none of encoder, decoder, cross"):
        reader.read("3 mars 1997").axes("self")


def test_layers_are_counted_and_named_as_in_a_record(reader):
    reading = reader.read("3 mars")
    record = of_date("3 mars")
    named = {
        reading.module(kind, layer): seen
        for kind, found in reading.attention.items()
        for layer, seen in enumerate(found)
    }
    assert sorted(named) == list(enumerate(record.layers))
    for (number, _), seen in named.items():
        torch.testing.assert_close(record[number].weights()[:, :, :4, :4], seen.weights()[:, :, :4, :4])
