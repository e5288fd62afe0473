"""Expressions: constants fold to what torch computes, what has no effect is dropped, kinds promote as in torch."""

import copy
import pickle

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pellucid.language import FALSE, INPUTS, SCORE, TRUE, constant, evaluate, load, operation, walk
from pellucid.language.evaluate import TORCH
from pellucid.language.expression import (
    ARITHMETIC,
    COMPARISONS,
    LOGIC,
    OF_BOOLS,
    OF_FLOATS,
    SAME_KIND,
    TRANSCENDENTAL,
    cast,
)
from tests.cases import examples

Q = INPUTS["q"]
SHIFTS = ("shl", "shr")
BINARY = (*ARITHMETIC, *OF_FLOATS, *COMPARISONS, *LOGIC, *SHIFTS, "pow")
UNARY = (*SAME_KIND, *TRANSCENDENTAL, "not", "signbit")
DTYPES = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}
INTERESTING = (0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 1e300, -1e-300, torch.inf, -torch.inf, torch.nan)
numbers = st.booleans() | st.integers(-1000, 1000) | st.sampled_from(INTERESTING) | st.floats(-100, 100)


def value_of(expression):
    (value,) = evaluate(expression, inputs={"q": torch.zeros(1)}, dtype=torch.float64)
    return value.double()


def unfolded(op, kind, args):
    """What the engine computes when nothing is folded: torch's operation on tensors of the promoted kind."""
    return TORCH[op](*(torch.tensor(a.value, dtype=DTYPES[kind]) for a in args)).double()


@given(st.sampled_from(BINARY), numbers, numbers)
@example("minimum", 1.0, torch.nan)
@example("maximum", torch.nan, 1.0)
@example("eq", torch.nan, torch.nan)
@example("floordiv", -5.0, torch.inf)
@example("mod", -5.0, torch.inf)
@example("truediv", 1, 0)
@example("mul", 1 << 62, 4)
@example("add", (1 << 63) - 1, 1)
@example("shl", 5, 64)
@example("shl", -5, -1)
@example("shr", -5, 64)
@example("shr", -5, -1)
@example("shl", 1, 63)
@example("pow", 3, 100)
@example("pow", -1, -3)
@example("pow", -8.0, 1 / 3)
@example("pow", 0.0, -1.0)
@example("fmod", -7.5, 0.0)
@example("atan2", -0.0, -1.0)
@examples(1000)
def test_folding_two_constants_is_torch(op, left, right):
    args = (constant(left), constant(right))
    try:
        folded = operation(op, *args)
    except TypeError:
        kinds = {a.kind for a in args}
        assert (op in (*LOGIC, *SHIFTS) and "float" in kinds) or (kinds == {"bool"} and op not in OF_BOOLS)
        return
    least = "float" if op in OF_FLOATS else "int" if op in ("pow", *SHIFTS) else "bool"
    promoted = max((*(a.kind for a in args), least), key=("bool", "int", "float").index)
    if promoted == "int" and op in ("floordiv", "mod") and right == 0:
        assert folded.op == op  # left to the engine, which raises
        return
    op = OF_BOOLS.get(op, op) if promoted == "bool" else op
    torch.testing.assert_close(value_of(folded), unfolded(op, promoted, args), equal_nan=True, rtol=1e-14, atol=1e-300)


@given(st.sampled_from(UNARY), numbers)
@example("exp", 1000.0)
@example("sigmoid", -1000.0)
@example("sigmoid", 1000.0)
@example("log", 0.0)
@example("log", -1.0)
@example("sqrt", -1.0)
@example("floor", torch.nan)
@example("round", torch.inf)
@example("neg", -(1 << 63))
@example("log1p", -1.0)
@example("atanh", 1.0)
@example("acosh", 0.5)
@example("sin", torch.inf)
@example("signbit", -0.0)
@example("signbit", torch.nan)
@example("sinh", 1000.0)
@examples(1000)
def test_folding_one_constant_is_torch(op, number):
    arg = constant(number)
    try:
        folded = operation(op, arg)
    except TypeError:
        assert arg.kind == ("float" if op == "not" else "bool")
        return
    kind = "float" if op in TRANSCENDENTAL or op == "signbit" else arg.kind
    torch.testing.assert_close(value_of(folded), unfolded(op, kind, [arg]), equal_nan=True, rtol=1e-14, atol=1e-300)


@given(numbers, st.sampled_from(("bool", "int", "float")))
@examples(200)
def test_casting_a_constant_is_torch(number, kind):
    folded = cast(constant(number), kind)
    assert folded.kind == kind
    if kind == "int" and not abs(number) < 2**63:
        return  # not defined in torch
    expected = torch.tensor(number, dtype=torch.float64).to(DTYPES[kind]).double()
    torch.testing.assert_close(value_of(folded), expected, equal_nan=True, rtol=0, atol=0)


def test_every_operation_is_folded_by_a_test():
    assert {*BINARY, *UNARY} == set(TORCH) - {"where", "largest"}


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("add", (SCORE, constant(0)), SCORE),
        ("add", (constant(0.0), SCORE), SCORE),
        ("sub", (SCORE, constant(0.0)), SCORE),
        ("mul", (SCORE, constant(1)), SCORE),
        ("mul", (constant(1.0), SCORE), SCORE),
        ("floordiv", (Q, constant(1)), Q),
        ("and", (TRUE, operation("gt", Q, constant(2))), "gt(q, 2)"),
        ("and", (operation("gt", Q, constant(2)), FALSE), FALSE),
        ("or", (operation("gt", Q, constant(2)), FALSE), "gt(q, 2)"),
        ("or", (TRUE, operation("gt", Q, constant(2))), TRUE),
        ("where", (TRUE, SCORE, constant(0.0)), SCORE),
        ("where", (FALSE, SCORE, constant(2.0)), "2.0"),
        ("floor", (Q,), Q),
        ("shr", (Q, constant(3)), "floordiv(q, 8)"),
        ("shl", (Q, constant(3)), "mul(q, 8)"),
        ("shl", (Q, constant(0)), Q),
    ],
)
def test_what_has_no_effect_is_dropped(op, args, expected):
    found = operation(op, *args)
    assert repr(found) == expected if isinstance(expected, str) else found is expected


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("sub", (constant(0), SCORE)),
        ("mul", (SCORE, constant(0.0))),  # 0 * inf is NaN
        ("floordiv", (SCORE, constant(1.0))),  # it floors
        ("truediv", (constant(1.0), SCORE)),
        ("xor", (operation("gt", Q, constant(2)), TRUE)),
        ("and", (Q, constant(1))),  # of integers: bit by bit
        ("or", (Q, constant(0))),
    ],
)
def test_what_has_an_effect_is_kept(op, args):
    assert operation(op, *args).op == op


def test_a_neutral_number_still_promotes():
    assert operation("add", Q, constant(0.0)).kind == "float"
    assert operation("mul", operation("gt", Q, constant(2)), constant(1)).kind == "int"


def test_a_graph_is_walked_once_arguments_first():
    shared = operation("mul", SCORE, SCORE)
    root = operation("add", shared, operation("exp", shared))
    assert [repr(node) for node in walk(root, shared)] == ["score", repr(shared), f"exp({shared!r})", repr(root)]


def test_a_deep_graph_is_walked():
    node = SCORE
    for _ in range(5000):
        node = operation("neg", node)
    assert sum(1 for _ in walk(node)) == 5001


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.bool, "bool"), (torch.uint8, "int"), (torch.int64, "int"), (torch.bfloat16, "float")],
)
def test_a_load_has_the_kind_of_its_tensor(dtype, kind):
    expression = load(torch.ones(3, dtype=dtype), (Q,))
    assert expression.kind == kind
    (value,) = evaluate(expression, inputs={"q": torch.tensor([2, 0])}, dtype=torch.float64)
    assert value.dtype == DTYPES[kind]


def test_it_prints_what_it_computes():
    table = torch.zeros(3, 5)
    expression = operation("where", operation("ge", Q, constant(2)), load(table, (INPUTS["h"], Q)), SCORE)
    assert repr(expression) == "where(ge(q, 2), tensor[3, 5][h, q], score)"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda node: pickle.loads(pickle.dumps(node))])
def test_a_copy_has_the_inputs_of_every_expression(copied):
    assert [copied(node) for node in (*INPUTS.values(), TRUE, FALSE)] == [*INPUTS.values(), TRUE, FALSE]
    tensor = torch.tensor([3, 4, 5])
    own = copied(operation("where", operation("ge", Q, INPUTS["k"]), load(tensor, (Q,)), constant(7)))
    assert {node for node in walk(own) if node.op == "input"} == {Q, INPUTS["k"]}
    assert evaluate(own, inputs={"q": torch.arange(3), "k": torch.tensor(1)}, dtype=torch.float64)[0].tolist() == [
        7,
        4,
        5,
    ]
