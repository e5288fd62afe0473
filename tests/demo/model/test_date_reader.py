import re

import pytest
import torch

from pellucid.demo import DateReader
from pellucid.demo.model.date_reader import LONGEST_ANSWER, Sizes
from pellucid.demo.model.layers import DecoderCache, Record
from pellucid.demo.model.vocabulary import END, PADDING, TARGET_TOKENS, UNKNOWN, Vocabulary, encode_target
from pellucid.readouts import Entropy


@pytest.fixture
def reader():
    torch.manual_seed(5)
    return DateReader("0123456789 abc-", Sizes(width=12, heads=2, hidden=14, encoder_layers=3, decoder_layers=2)).eval()


def numbers(reader, *texts):
    longest = max(map(len, texts))
    encoded = [reader.vocabulary.encode(text) for text in texts]
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in encoded]), torch.tensor([*map(len, texts)])


def test_unknown_characters_share_a_number():
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("a☃b☂") == [2, UNKNOWN, 3, UNKNOWN]
    assert len(vocabulary) == 4


def test_forms_of_a_letter_and_digits_of_any_script_share_a_vector(reader):
    vocabulary = Vocabulary("3Ééx３३")
    capital, small, x = (vocabulary.letter_of[number] for number in vocabulary.encode("Ééx"))
    assert capital == small != x
    assert len({vocabulary.letter_of[number] for number in vocabulary.encode("3３३")}) == 1
    assert vocabulary.letter_of[UNKNOWN] == UNKNOWN
    assert vocabulary.letters == "3ex"


def test_logits_of_every_token_after_every_token(reader):
    source, lengths = numbers(reader, "3 abc 97", "1997")
    assert reader(source, torch.zeros(2, 5, dtype=torch.int64), lengths).shape == (2, 5, len(TARGET_TOKENS))


def test_padding_changes_nothing(reader):
    source, lengths = numbers(reader, "3 abc 1997", "31-1")
    written = torch.tensor([encode_target("^1997-")] * 2)
    alone = reader(source[1:, :4], written[1:])
    torch.testing.assert_close(reader(source, written, lengths)[1:], alone, rtol=1e-5, atol=1e-5)


def test_a_written_token_sees_none_after_it(reader):
    source, _ = numbers(reader, "3 abc 1997")
    one = reader(source, torch.tensor([encode_target("^1997-03")]))
    other = reader(source, torch.tensor([encode_target("^1997-12")]))
    torch.testing.assert_close(one[:, :6], other[:, :6])
    assert not torch.allclose(one[:, 6:], other[:, 6:])


def test_the_order_of_the_characters_matters(reader):
    written = torch.tensor([encode_target("^")])
    assert not torch.allclose(reader(numbers(reader, "1 2")[0], written), reader(numbers(reader, "2 1")[0], written))


def test_step_by_step_with_caches_is_the_same_as_at_once(reader):
    source, lengths = numbers(reader, "3 abc 1997", "31-1")
    written = torch.tensor([encode_target("^1997-03-1"), encode_target("^2000-10-0")])
    text = reader.encode(source, lengths)
    caches = [DecoderCache() for _ in range(2)]
    steps = [reader.decode(token, text, lengths, caches=caches) for token in written.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), reader.decode(written, text, lengths), rtol=1e-5, atol=1e-5)


def test_writing_takes_the_likeliest_token_each_time(reader):
    source, lengths = numbers(reader, "3 abc 1997", "31-1")
    for answer, row, length in zip(reader.write(source, lengths), source, lengths, strict=True):
        assert 0 < len(answer) <= LONGEST_ANSWER
        logits = reader(row[None, :length], torch.tensor([encode_target("^" + answer[:-1])]))
        assert "".join(TARGET_TOKENS[number] for number in logits[0].argmax(-1)) == answer


def test_nothing_is_written_after_the_end_mark(reader):
    with torch.no_grad():
        reader.output.bias[TARGET_TOKENS.index(END)] = 100.0
    assert reader.write(numbers(reader, "3 abc 1997")[0]) == [END]


def test_every_layer_of_every_kind_is_recorded(reader):
    record = Record([Entropy()])
    source, _ = numbers(reader, "3 abc 1997")
    reader(source, torch.tensor([encode_target("^1997-")]), record=record)
    shapes = {kind: [tuple(each.entropy.shape) for each in observed] for kind, observed in record.attention.items()}
    assert shapes == {"encoder": [(1, 2, 10)] * 3, "decoder": [(1, 2, 6)] * 2, "cross": [(1, 2, 6)] * 2}


def test_recording_changes_no_answer(reader):
    source, _ = numbers(reader, "3 abc 1997")
    written = torch.tensor([encode_target("^1997-")])
    torch.testing.assert_close(reader(source, written, record=Record([Entropy()])), reader(source, written))


def test_parameters_are_named_after_what_they_do(reader):
    names = {re.sub(r"\.\d+\.", ".0.", name) for name in reader.state_dict()}
    assert "encoder.0.attention.query_projection.weight" in names
    assert "decoder.0.cross_attention.key_projection.bias" in names
