"""Bounds hold: no value inside a tile lies outside them, whatever the function, the tile and the precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import masks
from pellucid.language import INPUTS, SCORE, Interval, bounds, constant, evaluate, load, operation, trace
from tests.cases import examples
from tests.language.programs import BATCH, HEADS, K_LEN, Q_LEN, places, programs, traced

LENGTHS = {"b": BATCH, "h": HEADS, "q": Q_LEN, "k": K_LEN}


@st.composite
def tiles(draw):
    """A range of each index."""
    low = {name: draw(st.integers(0, length - 1)) for name, length in LENGTHS.items()}
    return {name: Interval(low[name], draw(st.integers(low[name], length - 1))) for name, length in LENGTHS.items()}


def inside(tile):
    """The indices of a tile, shaped to broadcast."""
    shapes = {"b": (-1, 1, 1, 1), "h": (-1, 1, 1), "q": (-1, 1), "k": (-1,)}
    return {name: torch.arange(low, high + 1).view(shapes[name]) for name, (low, high) in tile.items()}


def assert_bounded(expression, tile, dtype=torch.float64):
    (values,) = evaluate(expression, inputs=inside(tile), dtype=dtype)
    found = bounds(expression, tile)
    if expression.kind == "bool":
        assert found is not None
    if found is None:
        return
    assert not values.isnan().any() if values.is_floating_point() else True
    # In float64: comparing a float32 with a Python number would round the number.
    assert values.double().min().item() >= found.low
    assert values.double().max().item() <= found.high


@given(programs(score=False), tiles(), st.sampled_from((torch.float64, torch.float32)))
@examples(800)
def test_every_value_of_a_random_program_lies_within(source, tile, dtype):
    assert_bounded(traced(source), tile, dtype)


@given(programs("bool"), tiles())
@examples(100)
def test_what_depends_on_the_score_is_never_claimed(source, tile):
    expression = traced(source)
    found = bounds(expression, tile)
    for score in (-torch.inf, -3.7, 0.0, 2.1, torch.inf, torch.nan):
        inputs = inside(tile) | {"score": torch.tensor(score, dtype=torch.float64)}
        (values,) = evaluate(expression, inputs=inputs, dtype=torch.float64)
        assert values.any() <= found.high
        assert values.all() >= found.low


Q, K = INPUTS["q"], INPUTS["k"]
TILE = {"b": Interval(0, 1), "h": Interval(0, 2), "q": Interval(3, 5), "k": Interval(2, 9)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("q", (3, 5)),
        ("q - k", (-6, 3)),
        ("-k", (-9, -2)),
        ("abs(q - k)", (0, 6)),
        ("abs(k - 20)", (11, 18)),
        ("q * k", (6, 45)),
        ("(q - k) * (q - 4)", (-6, 6)),
        ("(q - k) // 3", (-2, 1)),
        ("(q - k) // -3", (-1, 2)),
        ("k % 5", (0, 4)),
        ("q % 8", (3, 5)),
        ("(q - 8) % 7", (2, 4)),
        ("(q - k) % 4", (0, 3)),
        ("~q", (-6, -4)),
        ("torch.clamp(k, 4, 6)", (4, 6)),
        ("torch.minimum(q, k)", (2, 5)),
        ("torch.where(k > 9, k, q)", (3, 5)),
        ("torch.where(k > 5, k, q)", (2, 9)),
        ("torch.where(k > 1, k, q)", (2, 9)),
        ("IDS[q]", (1, 2)),
        ("IDS[q - 6]", (-3, 4)),
        ("OFFSETS[b, q - 3]", (0, 5)),
        ("(q > 2).long()", (1, 1)),
        ("q > 2", (True, True)),
        ("q > k", (False, True)),
        ("q > k + 3", (False, False)),
        ("k == 1", (False, False)),
        ("k != 10", (True, True)),
        ("(q > 2) & (k > 2)", (False, True)),
        ("(q > 2) | (k > 2)", (True, True)),
        ("~(q > 2)", (False, False)),
        ("(q > 2) ^ (k < 10)", (False, False)),
        ("q.bool()", (True, True)),
        ("(q - 4).bool()", (False, True)),
        ("OPEN", (True, True)),
        ("FLAGS[q - 1]", (False, True)),
        ("FLAGS[q * 0 + 2]", (True, True)),
        ("torch.exp(-abs(q - k)) < 1.5", (True, True)),
        ("torch.where(q >= 0, 1.0, -inf) < 0", (False, False)),
        ("(q - k) ** 2 < 37", (True, True)),
        ("(q - k) / 4.0 < 0.8", (True, True)),
        ("torch.sqrt(k) > 1.4", (True, True)),
        ("torch.floor(k / 10.0) == 0", (True, True)),
    ],
)
def test_bounds_are_tight_where_they_can_be(source, expected):
    assert bounds(traced(source), TILE) == expected


@pytest.mark.parametrize(
    "source",
    [
        "q % (k - 4)",
        "q / (k - 4)",
        "q & 3",
        "torch.log(q - 4)",
        "score",
        "score * 0",
        "FAR[q - 3] - FAR[q - 3]",  # -inf - -inf
        "FAR[q - 4] + FAR[q]",  # -inf + inf
        "FAR[q - 3] * (k - 4)",  # -inf * 0
        "(k - 4) * FAR[q - 3]",
        "torch.where(q > 3, inf - inf, 0.0)",
    ],
)
def test_nothing_is_claimed_where_nothing_is_known(source):
    assert bounds(traced(source), TILE) is None


def test_a_nan_in_a_captured_tensor_is_nothing_known():
    table = torch.tensor([0.0, torch.nan, 2.0])
    assert bounds(load(table, (K,)), {"k": Interval(0, 1)}) is None
    assert bounds(load(table, (K,)), {"k": Interval(2, 2)}) == (2.0, 2.0)
    assert bounds(operation("gt", load(table, (K,)), constant(5.0)), {"k": Interval(0, 1)}) == (False, True)


def test_numbers_between_two_of_float32_are_bounded_by_both():
    # 0.7 is above its float32 neighbour: in float32 `0.7 >= 0.7` holds, in real numbers it does not.
    table = torch.full((3,), 0.7)
    for expression in (
        operation("ge", load(table, (K,)), constant(0.7)),
        operation("gt", constant(0.7), load(table, (K,))),
        operation("eq", load(table.double() + 1e-12, (K,)), constant(0.7)),
        operation("ge", load(table.double() - 1e-12, (K,)), constant(0.7)),
        operation("ge", operation("mul", K, constant(1.0)), constant(2.0**24 + 1)),
    ):
        for dtype in (torch.float32, torch.float64):
            for k in (2, 2**24 + 1) if expression.args[0].op == "cast" else (2,):
                (value,) = evaluate(expression, inputs={"k": torch.tensor([k])}, dtype=dtype)
                found = bounds(expression, {"k": Interval(k, k)})
                assert found.low <= bool(value) <= found.high


def test_numbers_beyond_float32_are_bounded():
    for source in ("k * 1e30 * 1e30 < 1e60", "k * 1e-30 * 1e-30 > 0", "torch.exp(k * 15.0) < 1e50", "k // 1e-45 > 5"):
        for tile in (TILE, TILE | {"k": Interval(7, 7)}):
            for dtype in (torch.float32, torch.float64):
                assert_bounded(traced(source), tile, dtype)


def test_a_captured_tensor_too_large_to_look_at_is_nothing_known():
    table = torch.zeros(1, dtype=torch.int32).expand(1 << 21)
    assert bounds(load(table, (K,)), {"k": Interval(0, (1 << 21) - 1)}) is None
    assert bounds(load(table, (K,)), {"k": Interval(5, 1 << 20)}) == (0, 0)


def test_what_lies_outside_a_captured_tensor_does_not_matter():
    table = torch.arange(7)
    assert bounds(load(table, (K,)), {"k": Interval(3, 11)}) == (3, 6)


def test_a_mask_that_is_always_true_is_full():
    assert bounds(trace(lambda q: True, "mask_mod", ("q",)), TILE) == (True, True)


def test_the_score_is_unknown_unless_given():
    assert bounds(SCORE, TILE) is None
    assert bounds(operation("gt", SCORE, constant(0.0)), TILE | {"score": Interval(1.0, 2.0)}) == (True, True)


DOCUMENTS = torch.tensor([0] * 17 + [1] * 30 + [2] * 42)
MASKS = {
    "causal": masks.causal(),
    "causal lower right": masks.causal_lower_right(61, 89),
    "window": masks.sliding_window(11, 5),
    "window to the left": masks.sliding_window(left=11),
    "window to the right": masks.sliding_window(right=5, offset=3),
    "no window": masks.sliding_window(),
    "prefix": masks.prefix(29),
    "prefix of each batch": masks.prefix(torch.tensor([29, 31])),
    "key lengths": masks.key_lengths(torch.tensor([53, 61])),
    "documents": masks.documents(DOCUMENTS),
    "documents of each batch": masks.documents(torch.stack([DOCUMENTS, DOCUMENTS.flip(0)])),
    "prefix language model": masks.causal() | masks.prefix(29),
    "causal documents": masks.causal() & masks.documents(DOCUMENTS),
    "not causal": ~masks.causal(),
    "causal window by products": lambda b, h, q, k: (q >= k) * (q - k < 11),
    "dilated": lambda b, h, q, k: (q - k) % 3 == 0,
    "blocks": lambda b, h, q, k: q // 16 == k // 16,
    "captured distance": lambda b, h, q, k: (q - k).abs() <= torch.tensor([7, 19])[b],
    "decay": lambda b, h, q, k: torch.exp(-0.125 * (q - k).abs()) > 0.25,
    "neighborhood": masks.neighborhood_2d(8, 11, 3),
}
# How many tiles of 8 queries x 8 keys are really empty and full, and are not seen to be.
MISSED = {"neighborhood": 8}


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", MASKS)
def test_empty_and_full_tiles_are_recognised(name, batch):
    expression = trace(MASKS[name], "mask_mod", ("b", "h", "q", "k"))
    whole = {"b": Interval(batch, batch), "h": Interval(0, 0), "q": Interval(0, 87), "k": Interval(0, 87)}
    (allowed,) = evaluate(expression, inputs=inside(whole), dtype=torch.float32)
    allowed = allowed.expand(1, 1, 88, 88)
    missed = 0
    for q in range(0, 88, 8):
        for k in range(0, 88, 8):
            part = allowed[..., q : q + 8, k : k + 8]
            low, high = bounds(expression, whole | {"q": Interval(q, q + 7), "k": Interval(k, k + 7)})
            assert not low or part.all()
            assert high or not part.any()
            missed += bool(part.all()) - low
            missed += (not part.any()) - (not high)
    assert missed == MISSED.get(name, 0)


def test_places_cover_what_the_programs_use():
    assert set(places()) == set(INPUTS)
