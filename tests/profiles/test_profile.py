"""A profile: what it sums up, that merging is exact, and its file."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from pellucid import open_profile
from pellucid.profiles.disk.form import ProfileError
from pellucid.profiles.numbers import NUMBERS
from pellucid.record.studies.summary import PAIRED
from tests.profiles import making
from tests.readers import untrained_reader


@pytest.fixture(scope="module")
def parts():
    return making.corpus()


@pytest.fixture(scope="module")
def whole(parts):
    return parts[0].merged(*parts[1:])


def content(profile, path):
    profile.save(path, overwrite=True)
    return path.read_bytes()


def test_any_order_of_merging_gives_the_same_file(parts, whole, tmp_path):
    expected = content(whole, tmp_path / "a.heads")
    for first, *rest in list(permutations(parts))[::5]:
        assert content(first.merged(*rest), tmp_path / "b.heads") == expected
    two = parts[0].merged(parts[2]).merged(parts[1].merged(parts[3]))
    assert content(two, tmp_path / "b.heads") == expected


def test_a_file_gives_back_the_profile(whole, tmp_path):
    expected = content(whole, tmp_path / "a.heads")
    found = open_profile(tmp_path / "a.heads")
    assert content(found, tmp_path / "b.heads") == expected
    assert str(found.summary()) == str(whole.summary())
    assert repr(found) == "Profile(Tiny, 6 heads, 11 documents)"


def test_numbers_are_over_documents():
    records = [making.watched((13, 3), 0), making.watched((7, 5), 1)]
    whole = making.profile(13, 3, 0, 0).merged(making.profile(7, 5, 3, 1))
    of_sequences = [row for record in records for row in per_sequence(record)]
    for number in NUMBERS:
        values = torch.tensor([[of_head[number] for of_head in heads] for heads in of_sequences], dtype=torch.float64)
        known = ~values.isnan()
        found = whole.statistics(number)
        assert torch.equal(found.documents, known.sum(0))
        mean = values.nanmean(0)
        torch.testing.assert_close(found.mean, mean, rtol=0, atol=1e-12, equal_nan=True)
        spread = (values - mean).square().nanmean(0)
        torch.testing.assert_close(found.variance, spread, rtol=1e-9, atol=1e-12, equal_nan=True)
        assert torch.equal(whole.histogram(number).counts.sum(-1), known.sum(0))
        middle = whole.quantiles(number, [0.0, 0.5, 1.0])
        for head in range(len(whole.heads)):
            own = values[:, head][known[:, head]].sort().values
            ranks = [own[0], own[(len(own) - 1) // 2], own[-1]] if len(own) else [math.nan] * 3
            expected = torch.tensor(ranks).double()
            torch.testing.assert_close(middle[head], expected, rtol=0.0101, atol=1e-9, equal_nan=True)


def test_a_sketch_is_that_of_the_library(whole):
    pytest.importorskip("ddsketch")
    shares = [0.0, 0.1, 0.5, 0.9, 1.0]
    for number in ("entropy", "previous_without_sink", "distance"):
        found = whole.quantiles(number, shares)
        for head in range(len(whole.heads)):
            library = whole.sketch_of(head, number)
            assert [library.get_quantile_value(share) for share in shares] == pytest.approx(found[head].tolist())


def per_sequence(record):
    """The summary of each sequence alone, a list of heads each."""
    for row in range(record[0].batch):
        alone = making.pellucid.Record(record.model)
        for layer in record.values():
            alone.add(of_sequence(layer, row))
        names = [name for name in NUMBERS if name != "sink"]
        heads = alone.summary()
        yield [{name: getattr(head, name) for name in [*names, "sink"]} for head in heads]


def of_sequence(layer, row):
    own = slice(row, row + 1)
    readings = {
        name: type(value)(*(part[own] for part in value)) if isinstance(value, tuple) else value[own]
        for name, value in layer.readings.items()
    }
    return replace(layer.of_sequence(row), readings=readings)


def test_quantiles_lie_between_the_least_and_the_most(whole):
    for number in NUMBERS:
        of_documents = whole.statistics(number)
        found = whole.quantiles(number, [0.0, 1.0])
        assert torch.equal(found.isnan().all(-1), of_documents.documents == 0)
        known = of_documents.documents > 0
        assert bool((found[known, 0] >= of_documents.least[known]).all())
        assert bool((found[known, 1] <= of_documents.most[known]).all())


def test_the_summary_is_that_of_one_record_of_all():
    record = making.watched((13, 3), 0)
    found, expected = making.profile(13, 3, 0, 0).summary(), record.summary()
    for one, other in zip(found, expected, strict=True):
        assert (one.layer, one.role, one.head, one.rows, one.kind) == (
            other.layer, other.role, other.head, other.rows, other.kind,
        )  # fmt: skip
        for name in ("sink_mass", "first_mass", *PAIRED, *(f"{name}_without_sink" for name in PAIRED)):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12, nan_ok=True)


def test_maps_and_classes_are_those_of_the_weights():
    record = making.watched((29, 2), 2)
    found = making.profile(29, 2, 0, 2)
    weights = torch.cat([layer.weights() for layer in record.values()], 1).double()  # [2, heads, 29, 29]
    q, k = torch.arange(29)[:, None], torch.arange(29)
    even = ((k <= q) / (q + 1.0).double()).expand(2, 1, 29, 29)  # what equal weights are under the causal mask
    bands = found.by_distance()
    for name, mass in zip(bands.names, bands.mass.unbind(-1), strict=True):
        low, high = (int(end) for end in (name.split("..") * 2)[:2])
        inside = (q - k >= low) & (q - k <= high)
        torch.testing.assert_close(mass, (weights * inside).sum(-1).mean((0, 2)), rtol=0, atol=1e-12)
        equal = bands.equal[:, bands.names.index(name)]
        torch.testing.assert_close(equal, (even * inside).sum(-1).mean((0, 2)).expand(6), rtol=0, atol=1e-12)
    places = torch.arange(29) * 16 // 29
    expected = torch.zeros(6, 16, 16, dtype=torch.float64)
    for row in range(16):
        rows = weights[:, :, places == row]
        for column in range(16):
            expected[:, row, column] = rows[..., places == column].sum(-1).mean((0, 2))
    torch.testing.assert_close(found.by_position(), expected, rtol=0, atol=1e-12)
    classes = found.on_classes()
    for name, member in {
        "punctuation": lambda token: token in ",.",
        "digits": lambda token: token.strip().isdigit(),
        "whitespace": lambda token: not token.strip(),
    }.items():
        flags = torch.tensor([[member(token) for token in row] for row in record.tokens])
        own = (weights * flags[:, None, None]).sum(-1).mean((0, 2))
        torch.testing.assert_close(classes.mass[:, classes.names.index(name)], own, rtol=0, atol=1e-6)
        same = (even * flags[:, None, None]).sum(-1).mean((0, 2)).expand(6)
        torch.testing.assert_close(classes.equal[:, classes.names.index(name)], same)
    assert classes.equal[0, classes.names.index("first")] == pytest.approx((1 / (q + 1)).double().mean().item())


def test_profiles_of_corpora_of_other_kinds_merge():
    one = making.profile(settings={"documents": "a row each", "field": "text", "max_tokens": 8}, corpus="a")
    other = making.profile(settings={"documents": "a line each", "field": "text", "max_tokens": 8}, corpus="b")
    third = making.profile(settings={"documents": "a file each", "field": "text", "max_tokens": 8}, corpus="c")
    found = one.merged(other, third)
    assert found.layout.settings == {
        "documents": ["a file each", "a line each", "a row each"], "field": "text", "max_tokens": 8,
    }  # fmt: skip
    assert found.layout == third.merged(other.merged(one)).layout
    assert found.documents == 9


def test_the_strongest_have_their_text(whole):
    for number in ("entropy", "induction", "first_mass"):
        place = NUMBERS.index(number)
        found = whole.strongest_documents(4, number)
        assert len(found) == 4
        assert [one.value for one in found] == sorted((one.value for one in found), reverse=True)
        assert found[0].value == whole.statistics(number).most[4]
        assert all(one.query_token in making.WORDS and one.key_token in making.WORDS for one in found)
        assert whole.lists["queries"].value[4, place, 0] == whole.strongest_queries(4, number)[0].value
    assert whole.strongest_keys(0)[0].key_token in making.WORDS
    stretch = whole.sequences(0)[0]
    assert [row.query for row in stretch.rows] == list(range(len(stretch.rows)))
    assert stretch.document.text(0, len(stretch.rows)).count(None) == 0


def test_what_does_not_fit_is_not_merged(whole):
    with pytest.raises(ValueError, match=r"^document 3 of records is in both, and would count twice$"):
        whole.merged(making.profile(13, 1, first=3))
    with pytest.raises(ValueError, match=r"^the settings 'max_tokens' differ: None and 8$"):
        whole.merged(making.profile(13, 1, first=30, settings={"max_tokens": 8}))


@pytest.mark.parametrize("place", [0, 9, 300, -1])
def test_a_damaged_file_is_refused(whole, tmp_path, place):
    path = tmp_path / "a.heads"
    damaged = bytearray(content(whole, path))
    damaged[place] ^= 64
    path.write_bytes(damaged)
    with pytest.raises(ProfileError, match=r"a.heads: is no profile, or a damaged one: "):
        open_profile(path)


def test_what_is_no_profile_is_refused(tmp_path):
    with pytest.raises(ProfileError, match="there is no such profile"):
        open_profile(tmp_path / "none.heads")
    (tmp_path / "text.heads").write_text("a text")
    with pytest.raises(ProfileError, match="is no profile"):
        open_profile(tmp_path / "text.heads")
    with pytest.raises(ProfileError, match="is no profile"):
        open_profile(tmp_path)


def test_a_model_that_reads_one_text_and_writes_another():
    reader = untrained_reader()
    source, written = "3 mars", "<1997"
    inputs = torch.tensor([reader.vocabulary.encode(source)]), torch.tensor([[0, 1, 2, 3, 4]])
    more = [making.pellucid.TopK(4)]
    tokens = {"tokens": [list(written)], "source_tokens": [list(source)]}
    with torch.inference_mode(), making.pellucid.watch(reader, keep=True, more=more, **tokens) as record:
        reader(*inputs)
    found = making.pellucid.profile_of(record)
    assert {head.role for head in found.heads} == {"self", "causal self", "cross"}
    places = {"self": (source, source), "causal self": (written, written), "cross": (written, source)}
    for place, head in enumerate(found.heads):
        (best,) = found.strongest_queries(place, "entropy")
        assert (best.query_token, best.key_token) == (places[head.role][0][best.query], places[head.role][1][best.key])
    digits = found.on_classes().names.index("digits")
    cross = [place for place, head in enumerate(found.heads) if head.role == "cross"]
    weights = torch.cat([layer.weights() for layer in record.values() if layer.role == "cross"], 1)[0].double()
    expected = weights[..., 0].mean(-1)  # of "3", the one digit of the source
    torch.testing.assert_close(found.on_classes().mass[cross, digits], expected, rtol=0, atol=1e-6)
    assert found.by_distance().mass[cross].sum() == 0


def test_sequences_padded_on_the_left_are_documents_all_the_same():
    ids = torch.randint(0, len(making.WORDS), (1, 9), generator=torch.Generator().manual_seed(4))
    alone = making.pellucid.profile_of(left_padded(ids, 0))
    padded = making.pellucid.profile_of(left_padded(ids, 5))
    for number in NUMBERS:
        one, other = alone.statistics(number), padded.statistics(number)
        assert torch.equal(one.documents, other.documents)
        torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(alone.by_position(), padded.by_position(), rtol=0, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(alone.on_classes().mass, padded.on_classes().mass, rtol=0, atol=1e-6, equal_nan=True)
    for head in range(len(alone.heads)):
        one, other = alone.strongest_queries(head, "entropy")[0], padded.strongest_queries(head, "entropy")[0]
        assert (one.query, one.query_token, one.key_token) == (other.query, other.query_token, other.key_token)


def left_padded(ids, count):
    """A record of one text with padding before it, read by a model that cannot tell where a text stands."""
    layer = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(12, 3, batch_first=True), 2, enable_nested_tensor=False
    ).eval()
    state = torch.Generator().manual_seed(1)
    for weight in layer.parameters():
        torch.nn.init.uniform_(weight, -0.6, 0.6, generator=state)
    whole = torch.nn.functional.pad(ids, (count, 0))
    padding = torch.arange(whole.shape[1])[None] < count
    tokens = [[making.WORDS[number] for number in whole[0].tolist()]]
    vectors = torch.rand(len(making.WORDS), 12, generator=torch.Generator().manual_seed(2))
    more = [making.pellucid.TopK(4)]
    with torch.inference_mode(), making.pellucid.watch(layer, keep=True, more=more, tokens=tokens) as record:
        layer(vectors[whole], src_key_padding_mask=padding)
    return record
