"""The summary against its definitions, computed from whole matrices of weights."""

import re
from math import isnan, log, nan

import pytest
import torch

import pellucid
from pellucid.record.studies.beyond import NEAR, summary_readouts
from pellucid.record.studies.kinds import Rest, kind, kind_beyond_sink
from pellucid.record.studies.summary import COLUMNS, PAIRED, summary
from tests.watch import models
from tests.watch.observed import double, made_layer, observed_again, observed_layer, observed_record

IDS = torch.randint(0, 7, (2, 23), generator=torch.Generator().manual_seed(3))
SINKS = torch.tensor([-1.0, 2.0, 0.5])
CASES = {
    "causal": {},
    "one key head": {"kv_heads": 1, "sharp": 4.0},
    "both ways": {"role": "self"},
    "left-padded": {"left_padding": [0, 5]},
    "left-padded, both ways": {"left_padding": [4, 0], "role": "self"},
    "a learned sink": {"sinks": SINKS},
    "a learned sink, left-padded": {"sinks": SINKS, "left_padding": [0, 5]},
    "a window": {"window": 6, "sinks": SINKS},
}


class Definition:
    """Every number from the matrix of one head, row by row, as docs/numerics.md words it."""

    def __init__(self, layer, head, ids):
        self.layer, self.ids = layer, ids
        self.weights = layer.weights(heads=head)[:, 0].double()  # [batch, queries, keys]
        padded = layer.padding.keys if layer.padding.keys is not None else torch.zeros(layer.batch, layer.k_len).bool()
        self.real = ~padded
        self.firsts = [int(row.nonzero()[0]) for row in self.real]

    def rows(self):
        """(sequence, query, weights of the keys, the first key, allowed keys) of each row that counts."""
        for b in range(self.layer.batch):
            for q in range(self.layer.q_len):
                if self.layer.role == "cross" or self.real[b, q]:
                    weights = self.weights[b, q]
                    yield b, q, weights, self.firsts[b], (weights > 0).nonzero().flatten().tolist()

    def sink(self):
        return _mean([1 - float(w.sum()) for _, _, w, _, _ in self.rows()])

    def first(self):
        return _mean([float(w[first]) for _, _, w, first, _ in self.rows()])

    def entropy(self):
        whole, rest = self._entropies()
        return _mean([e for e, _ in whole]), _weighted(rest)

    def relative_entropy(self):
        whole, rest = self._entropies()
        return (
            sum(e for e, _ in whole) / sum(log(n) for _, n in whole),
            sum(t * e for t, e, _ in rest) / sum(t * log(n) for t, _, n in rest),
        )

    def _entropies(self):
        whole, rest = [], []
        for _, _, w, first, allowed in self.rows():
            outcomes = torch.cat([w, (1 - w.sum()).clamp(min=0)[None]]) if self.layer.has_sink else w
            whole.append((float(torch.special.entr(outcomes).sum()), len(allowed) + self.layer.has_sink))
            others = w.clone()
            others[first] = 0
            if (total := float(others.sum())) > 0:
                entropy = float(torch.special.entr(others / total).sum())
                rest.append((total, entropy, len([k for k in allowed if k != first])))
        return whole, rest

    def expectation(self, function, counts=lambda b, q: True):
        whole, rest = [], []
        for b, q, w, first, _ in self.rows():
            if not counts(b, q):
                continue
            values = torch.tensor([float(function(b, q, k)) for k in range(self.layer.k_len)], dtype=torch.float64)
            whole.append(float((w * values).sum()))
            others = w.clone()
            others[first] = 0
            rest.append((float(others.sum()), float((others * values).sum()) / max(float(others.sum()), 1e-300)))
        return _mean(whole), _weighted(rest)

    def distance(self):
        return self.expectation(lambda b, q, k: abs(q - k))

    def nearby(self):
        return self.expectation(lambda b, q, k: abs(q - k) <= NEAR)

    def previous(self):
        return self.expectation(lambda b, q, k: k == q - 1, lambda b, q: q > self.firsts[b])

    def _is_other(self, b, q, k):
        """Whether the query's token stands at k too, where the query may know of it."""
        before = k < q if self.layer.role == "causal self" else k != q
        return before and bool(self.real[b, k]) and self.ids[b, k] == self.ids[b, q]

    def _has_others(self, b, q):
        return any(self._is_other(b, q, k) for k in range(self.layer.k_len))

    def duplicate(self):
        return self.expectation(lambda b, q, k: k != q and self.ids[b, k] == self.ids[b, q], self._has_others)

    def induction(self):
        def follows(b, q, k):
            return k > self.firsts[b] and k - 1 != q and self.ids[b, k - 1] == self.ids[b, q]

        return self.expectation(follows, self._has_others)

    def concentration(self):
        whole, rest = [], []
        for b, first in enumerate(self.firsts):
            rows = [w for row_b, _, w, _, _ in self.rows() if row_b == b]
            received = torch.stack(rows).sum(0)
            others = received.clone()
            others[first] = 0
            keys = int(self.real[b].sum())
            for found, values, count in ((whole, received, keys), (rest, others, keys - 1)):
                shares = values / values.sum()
                found.append((float(values.sum()), 1 - float(torch.special.entr(shares).sum()) / log(count)))
        return _weighted(whole), _weighted(rest)


def _mean(numbers):
    return sum(numbers) / len(numbers)


def _weighted(pairs):
    return sum(pair[0] * pair[1] for pair in pairs) / sum(pair[0] for pair in pairs)


@pytest.mark.sampled
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kept", [True, False])
def test_every_number_is_that_of_the_matrix(case, kept):
    whole_layer = observed_layer(ids=IDS, **CASES[case])
    found = summary(observed_record(observed_layer(ids=IDS, kept=kept, **CASES[case]), ids=IDS))
    assert [row.head for row in found] == [0, 1, 2]
    for head, row in enumerate(found):
        definition = Definition(whole_layer, head, IDS)
        assert row.rows == len(list(definition.rows()))
        assert row.sink_mass == pytest.approx(definition.sink(), abs=2e-6)
        assert row.first_mass == pytest.approx(definition.first(), abs=2e-6)
        for name in PAIRED:
            if not kept and "window" in CASES[case] and name == "relative_entropy":
                continue  # how many keys a window allows is not known without the mask
            whole, rest = getattr(definition, name)()
            assert getattr(row, name) == pytest.approx(whole, rel=1e-5, abs=5e-6), name
            assert getattr(row, f"{name}_without_sink") == pytest.approx(rest, rel=2e-5, abs=1e-5), name


@pytest.mark.parametrize("kept", [True, False])
def test_cross_attention_has_no_distances(kept):
    sizes = {"role": "cross", "q_len": 7, "k_len": 19, "left_padding": [3, 0]}
    layer = observed_layer(**sizes)
    for head, row in enumerate(summary(observed_record(observed_layer(**sizes, kept=kept), ids=IDS))):
        definition = Definition(layer, head, None)
        for name in ("entropy", "relative_entropy", "concentration"):
            whole, rest = getattr(definition, name)()
            assert getattr(row, name) == pytest.approx(whole, rel=1e-5, abs=5e-6), name
            assert getattr(row, f"{name}_without_sink") == pytest.approx(rest, rel=1e-5, abs=1e-5), name
        for name in ("distance", "previous", "nearby", "induction", "duplicate"):
            assert isnan(getattr(row, name))
            assert isnan(getattr(row, f"{name}_without_sink"))


def test_a_little_beyond_a_strong_sink_keeps_its_digits():
    layer = observed_layer(ids=IDS, sharp=0.1)
    part = layer.parts[0]
    part.query[..., 0], part.key[..., 0], part.key[:, :, 0, 0] = 10.0, 0.0, 4.0  # scores of 14 on the first key
    seen = observed_again(layer, IDS)
    row = summary(observed_record(seen, ids=IDS))[0]
    assert row.kind == "sink"
    assert row.first_mass > 0.99999
    definition = Definition(double(seen), 0, IDS)
    for name in ("distance", "previous", "nearby", "induction", "duplicate", "entropy"):
        _, rest = getattr(definition, name)()
        assert getattr(row, f"{name}_without_sink") == pytest.approx(rest, rel=2e-3), name


def test_what_was_not_read_is_nan():
    layer = observed_layer(ids=IDS)
    layer.readings = {"lse": layer.lse, "entropy": layer.entropy}
    row = summary(observed_record(layer, ids=IDS))[0]
    assert row.entropy == pytest.approx(float(layer.entropy[:, 0].mean()))
    assert 0 < row.relative_entropy < 1
    assert all(isnan(getattr(row, name)) for name in ("first_mass", "entropy_without_sink", "distance", "induction"))
    assert isnan(row.concentration)
    assert row.kind_without_sink == "unknown"


def test_without_token_ids_nothing_repeats():
    row = summary(observed_record(observed_layer()))[0]
    assert isnan(row.induction)
    assert isnan(row.duplicate_without_sink)
    assert row.distance > 0


def test_a_layer_of_many_calls_counts_its_keys_call_by_call():
    layer = observed_layer(ids=IDS[:1], batch=1)
    expected = summary(observed_record(layer, ids=IDS[:1]))[0]
    whole = layer.parts[0]
    cut = [slice(0, 20), slice(20, 21), slice(21, 23)]
    layer.parts = [
        type(whole)(s.start, 0, whole.query[:, :, s], whole.key[:, :, : s.stop], *_functions(whole)) for s in cut
    ]
    assert summary(observed_record(layer, ids=IDS[:1]))[0] == expected


def _functions(part):
    return part.scale, part.score, part.mask, part.sinks


@pytest.mark.parametrize(
    ("sink", "rest", "name"),
    [
        (0.95, Rest(previous=0.8), "sink"),
        (0.5, Rest(previous=0.8, induction=0.9), "previous token"),
        (0.5, Rest(previous=0.1, induction=0.4, duplicate=0.2), "induction"),
        (0.5, Rest(previous=0.1, induction=0.4, duplicate=0.5), "duplicate"),
        (0.5, Rest(previous=0.1, induction=nan, duplicate=nan, nearby=0.7), "local"),
        (0.5, Rest(previous=0.1, nearby=0.5, relative_entropy=0.2), "focused"),
        (0.5, Rest(previous=0.1, nearby=0.5, relative_entropy=0.9), "diffuse"),
        (0.5, Rest(previous=0.1, nearby=0.5, relative_entropy=0.5), "mixed"),
        (nan, Rest(), "unknown"),
    ],
)
def test_kinds(sink, rest, name):
    assert kind(sink, rest).name == name
    if name != "sink":
        assert kind_beyond_sink(rest).name == name


def test_a_made_head_is_told_as_what_it_is():
    ids = torch.tensor([[9, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2]])
    weights = {
        "previous token": lambda q, k: k == q - 1,
        "duplicate": lambda q, k: (ids[0, k] == ids[0, q]) & (k < q),
        "induction": lambda q, k: (k > 0) & (ids[0, k - 1] == ids[0, q]) & (k - 1 < q),
        "local": lambda q, k: (k <= q) & (k > q - 4),
        "sink": lambda q, k: k == 0,
    }
    for name, rule in weights.items():
        row = summary(observed_record(made_layer(rule, ids), ids=ids))[0]
        assert row.kind == name, (row.kind, row.because)


def test_a_summary_is_a_table():
    found = summary(observed_record(observed_layer(ids=IDS), observed_layer("model.layers.1.attention"), ids=IDS))
    columns = found.columns()
    assert tuple(columns) == COLUMNS
    assert columns["head"] == [0, 1, 2, 0, 1, 2]
    lines = str(found).splitlines()
    assert len(lines) == 7
    assert lines[0].split()[:4] == ["layer", "role", "head", "kind"]
    assert lines[1].startswith("model.layers.0.attention  causal self  0     ")
    assert [row.entropy for row in found.sorted("entropy")] == sorted(columns["entropy"], reverse=True)
    assert isnan(found.sorted("induction")[-1].induction)
    assert len(found[1:3]) == 2
    assert repr(found) == "Summary(6 heads of 2 layers)"
    with pytest.raises(ValueError, match="by: one of layer, role, head"):
        found.sorted("size")


def test_some_layers():
    record = observed_record(observed_layer(), observed_layer("other"))
    assert {row.layer for row in record.summary(layers=["other"])} == {"other"}
    with pytest.raises(KeyError, match="'none' is no layer"):
        record.summary(layers=["none"])


# Against the weights that models of transformers compute eagerly.


def _llama(transformers):
    sizes = {"vocab_size": 30, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    return transformers.LlamaForCausalLM(config)


def _gpt_oss(transformers):
    config = transformers.GptOssConfig(
        vocab_size=30, hidden_size=24, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, num_local_experts=2, num_experts_per_tok=1, sliding_window=7, pad_token_id=0,
    )  # fmt: skip
    return transformers.GptOssForCausalLM(config)


class Eager:
    """A layer of eager weights, as far as Definition looks at it."""

    role = "causal self"

    def __init__(self, weights, layer):
        self._weights, self.padding, self.has_sink = weights, layer.padding, layer.has_sink
        self.batch, _, self.q_len, self.k_len = weights.shape

    def weights(self, heads):
        return self._weights[:, [heads]]


@pytest.mark.sampled
@pytest.mark.parametrize("make", [_llama, _gpt_oss])
@pytest.mark.parametrize("stepwise", [False, True])
def test_a_watched_models_numbers_are_those_of_its_eager_weights(make, stepwise):
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(transformers).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4.0)
    ids = torch.randint(1, 9, (2, 19), generator=torch.Generator().manual_seed(8))
    attended = torch.arange(19) >= torch.tensor([[0], [4]])
    ids = ids.where(attended, 0)
    with torch.no_grad(), pellucid.watch(model) as record:
        if stepwise:
            cache = None
            for step in (slice(0, 15), *(slice(n, n + 1) for n in range(15, 19))):
                given = {"attention_mask": attended[:, : step.stop].long(), models.CACHE: cache}
                cache = model(ids[:, step], **given)[models.CACHE]
        else:
            model(ids, attended.long())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        eager = model(ids, attended.long(), output_attentions=True).attentions
    for name, weights in zip(record.layers, eager, strict=True):
        masked = weights.masked_fill(~attended[:, None, :, None], 0.0)  # eager spreads rows of padding evenly
        for head, row in enumerate(record.summary(layers=[name])):
            definition = Definition(Eager(masked, record[name]), head, ids)
            assert row.rows == 34
            assert row.sink_mass == pytest.approx(definition.sink(), abs=3e-6)
            for number in PAIRED:
                whole, rest = getattr(definition, number)()
                assert getattr(row, number) == pytest.approx(whole, rel=2e-5, abs=1e-5), number
                assert getattr(row, f"{number}_without_sink") == pytest.approx(rest, rel=5e-5, abs=3e-5), number


# The table.


@pytest.mark.sampled
@pytest.mark.parametrize("name", [*(name for name in COLUMNS if name not in ("layer", "role")), "sink"])
@pytest.mark.parametrize("descending", [True, False])
def test_what_is_printed_is_what_was_sorted_by_under_the_name_that_was_asked(name, descending):
    layer = observed_layer(ids=IDS, sinks=SINKS, heads=3, sharp=3.0)
    found = summary(observed_record(layer, ids=IDS)).sorted(name, descending=descending)
    headings, *lines = [line.split("  ") for line in map(_one_space_each, str(found).splitlines())]
    assert set(headings) <= {*COLUMNS, "sink"}
    values = [getattr(row, name) for row in found]
    assert values == sorted(values, reverse=descending)
    for line, row in zip(lines, found, strict=True):
        for heading, cell in zip(headings, line, strict=True):
            value = getattr(row, heading)
            assert cell == (
                f"{value:.{1 if 'distance' in heading else 2}f}" if isinstance(value, float) else str(value)
            )
    assert name in headings


def test_with_and_without_the_sink_are_told_apart():
    found = summary(observed_record(observed_layer(ids=IDS, sinks=SINKS, sharp=3.0), ids=IDS))
    for shown, ending in (
        (found, ""),
        (found.without_sink(), "_without_sink"),
        (found.without_sink()[1:], "_without_sink"),
    ):
        headings = str(shown).splitlines()[0].split()
        assert {f"{name}{ending}" for name in ("entropy", "previous", "induction")} <= set(headings)
    assert str(found.sorted("previous_without_sink")) != str(found.sorted("previous"))
    assert str(found.without_sink().sorted("previous")).splitlines()[0] == str(found).splitlines()[0]


def _one_space_each(line):
    """Columns apart by two spaces exactly."""
    return re.sub(" {2,}", "  ", line.strip())


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_token_ids_of_any_width_are_told_apart(dtype: torch.dtype) -> None:
    ids = torch.tensor(
        [[5, 255, 7, 5 + 2**32, 6 + 2**32, 9, 10]] if dtype == torch.int64 else [[255, 5, 7, 8, 9, 1, 2]]
    )
    x = torch.randn(1, 2, 7, 8)
    _, seen = pellucid.observe(x, x, x, readouts=summary_readouts(ids.to(dtype)))
    assert not seen["beyond_first_duplicate"].any()
    assert not seen["beyond_first_induction"].any()
