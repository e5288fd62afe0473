"""What is traced means what the function does: the same source runs on tensors and on symbols."""

import math
import operator
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from pellucid.language import TraceError, bounds, constant, evaluate, trace, walk
from pellucid.language.trace import PROPERTIES
from pellucid.language.vocabulary import FUNCTIONS, METHODS
from tests.cases import examples
from tests.language.programs import CAPTURED, NAMES, function, places, programs, traced
from tests.language.test_rows import FORMS as OF_ROWS

KINDS = {torch.bool: "bool", torch.int32: "int", torch.int64: "int", torch.float64: "float"}
# Python folds constants and torch multiplies powers in another order: a few units in the last place.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def double():
    """Torch makes an index times a Python float its default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def check(source: str) -> None:
    inputs = places()
    expected = function(source)(*inputs.values())
    expression = traced(source)
    (found,) = evaluate(expression, inputs=inputs, dtype=torch.float64)
    assert expression.kind == KINDS[expected.dtype]
    found, expected = torch.broadcast_tensors(found, expected)
    torch.testing.assert_close(found.double(), expected.double(), equal_nan=True, **ROUNDING)


@given(programs())
@examples(400)
def test_a_random_program_is_what_torch_computes(source):
    check(source)


# The forms of every name that a symbol understands. `x` below stands for a float, `i` for an int, `c` for a bool.
UNARY = ("exp", "exp2", "log", "log2", "tanh", "sigmoid", "sqrt", "floor", "ceil", "round", "trunc", "square", "rsqrt")
UNARY += ("sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "asinh", "erf", "erfc", "expm1", "log1p", "log10")
UNARY += ("asin", "acos", "atanh", "acosh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "frac")
UNARY += ("sinc", "deg2rad", "rad2deg", "isnan", "isinf", "isposinf", "isneginf", "signbit", "fix", "nan_to_num")
UNARY += ("neg", "negative", "abs", "absolute", "reciprocal", "relu", "sign", "sgn", "isfinite", "clone", "positive")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "greater", "greater_equal", "less", "less_equal", "not_equal")
CONVERSIONS = ("double", "long", "bool", "int")
ACTIVATIONS = ("silu", "gelu", "softplus", "mish", "hardtanh", "relu6", "hardsigmoid", "hardswish", "leaky_relu", "elu")
ACTIVATIONS += ("selu", "celu", "softsign", "tanhshrink", "hardshrink", "softshrink", "logsigmoid", "threshold")
MORE_ARGUMENTS = {
    "leaky_relu": ", 0.25",
    "elu": ", 2.0",
    "celu": ", 2.0",
    "softplus": ", 2, 1.5",
    "threshold": ", 0, -2.5",
}
MORE_ARGUMENTS |= {
    "hardtanh": ", -0.25, 0.5",
    "gelu": ", approximate='tanh'",
    "hardshrink": ", 0.25",
    "softshrink": ", 0.25",
}
SPECIAL = ("erf", "erfc", "exp2", "expm1", "expit", "log1p", "round", "sinc", "logit", "entr", "ndtr")
FORMS: dict[str, tuple[str, ...]] = {
    **{
        name: (
            *(f"torch.nn.functional.{name}(x)" for _ in range(name != "threshold")),
            f"torch.nn.functional.{name}(x{MORE_ARGUMENTS.get(name, '')})",
        )
        for name in ACTIVATIONS
    },
    "log_sigmoid": ("torch.nn.functional.logsigmoid(x * 30)",),
    "_threshold": ("torch.nn.functional.threshold(x, threshold=0.25, value=7)",),
    "prelu": ("torch.nn.functional.prelu(x, TEMPERATURE)",),
    **{f"special_{name}": (f"torch.special.{name}(x)",) for name in SPECIAL},
    "special_xlogy": ("torch.special.xlogy(x, y.abs())",),
    "special_xlog1py": ("torch.special.xlog1py(x, y.abs())",),
    "xlogy": ("torch.xlogy(x, y.abs())", "torch.xlogy(0 * x, y)", "x.xlogy(k)", "torch.xlogy(0.0, y)"),
    "logit": ("torch.logit(x, eps=0.125)", "torch.sigmoid(x).logit()"),
    **{
        name: (f"torch.{name}(x, y)", f"torch.{name}(x, x)", f"torch.{name}(x * inf, x * inf)", f"x.{name}(50 * y)")
        for name in ("logaddexp", "logaddexp2")
    },
    "heaviside": ("torch.heaviside(x, y)", "torch.heaviside(x.floor(), y)"),
    **{
        name: (f"torch.{name}(x, y)", f"x.{name}(y)", f"torch.{name}(0 * x, -y)", f"torch.{name}(x * inf, y * inf)")
        for name in ("atan2", "arctan2", "hypot", "copysign", "fmin", "fmax", "fmod")
    },
    "lerp": ("torch.lerp(x, y, 0.25)", "torch.lerp(x, y, x)", "x.lerp(y, 0.75)", "torch.lerp(x, y, weight=-1.5)"),
    "addcmul": ("torch.addcmul(x, y, x, value=0.5)", "x.addcmul(y, i)"),
    "addcdiv": ("torch.addcdiv(x, y, x, value=0.5)", "x.addcdiv(y, x)"),
    "ldexp": ("torch.ldexp(x, i)",),
    **{
        name: (f"torch.bitwise_{side}_shift(i, j % 5)", f"i.bitwise_{side}_shift(3)", f"i {sign} j", f"i {sign} 40")
        for name, side, sign in (("bitwise_left_shift", "left", "<<"), ("bitwise_right_shift", "right", ">>"))
    },
    "__lshift__": ("i << 2", "i << j", "i << -1", "i << 64", "i << (i * 16)", "c << 3"),
    "__rshift__": ("i >> 2", "i >> j", "i >> -1", "i >> 64", "(i << 40) >> (i * 16)", "i >> 63", "i >> 31"),
    "__rlshift__": ("1 << j", "WIDTH << j", "-3 << (9 * j)"),
    "__rrshift__": ("1000 >> j", "WIDTH >> j", "-1000 >> (9 * j)"),
    "detach": ("x.detach()",),
    **{name: (f"torch.{name}(x)", f"x.{name}()", f"torch.{name}(input=x)") for name in UNARY},
    **{
        name: (f"torch.{name}(x, y)", f"x.{name}(i)", f"torch.{name}(x, other=0.25)", f"SLOPES[0].{name}(x)")
        for name in COMPARISONS
    },
    **{
        name: (f"torch.{name}(x, y)", f"x.{name}(i)", f"torch.{name}(x, other=0.25)", f"TEMPERATURE.{name}(x)")
        for name in ("mul", "multiply", "div", "divide", "true_divide", "floor_divide", "remainder")
    },
    **{
        name: (f"torch.{name}(x, y)", f"x.{name}(0.25)", f"torch.{name}(x, i, alpha=3)", f"TEMPERATURE.{name}(x)")
        for name in ("add", "sub", "subtract")
    },
    **{
        name: (f"torch.{name}(x, y)", f"x.{name}(i)", f"torch.{name}(input=x, other=y)", f"TEMPERATURE.{name}(x)")
        for name in ("minimum", "maximum")
    },
    **{name: (f"torch.{name}(x, y)", f"x.{name}(i)", f"TEMPERATURE.{name}(x)") for name in ("min", "max")},
    **{
        f"bitwise_{op}": (f"torch.bitwise_{op}(c, d)", f"i.bitwise_{op}(j)", f"torch.bitwise_{op}(5, i)")
        for op in ("and", "or", "xor")
    },
    **{
        f"logical_{op}": (f"torch.logical_{op}(c, d)", f"i.logical_{op}(c)", f"torch.logical_{op}(x, j)")
        for op in ("and", "or", "xor")
    },
    "logical_not": ("torch.logical_not(c)", "i.logical_not()", "torch.logical_not(x)"),
    "bitwise_not": ("torch.bitwise_not(c)", "i.bitwise_not()"),
    "rsub": ("torch.rsub(x, y)", "torch.rsub(x, 2.5)"),
    "pow": (
        "torch.pow(x, y)",
        "torch.pow(x.abs(), y)",
        "x.pow(i)",
        "i.abs().pow(j)",
        "torch.pow(i, 0.25)",
        "x.pow(40)",
        "torch.pow(x, 3)",
        "x.pow(2)",
        "torch.pow(2.0, x)",
        "i.pow(2.0)",
        "torch.pow(2, i % 5)",
    ),
    "float_power": ("torch.float_power(i, 2)", "x.float_power(3)"),
    "clamp": ("torch.clamp(x, -0.5, 0.5)", "x.clamp(max=i)", "i.clamp(2)", "i.clamp(max=2.5)", "x.clamp(1.0, -1.0)"),
    "clip": ("torch.clip(x, -0.5, 0.5)", "i.clip(min=2)"),
    "clamp_min": ("torch.clamp_min(x, 0.1)", "i.clamp_min(2)"),
    "clamp_max": ("torch.clamp_max(x, 0.1)", "i.clamp_max(max=2)"),
    "where": (
        "torch.where(c, x, i)",
        "torch.where(c, 1, i)",
        "x.where(c, y)",
        "TEMPERATURE.where(c, x)",
        "torch.where(c, input=x, other=-inf)",
    ),
    "masked_fill": ("x.masked_fill(c, -inf)", "torch.masked_fill(x, c, 2)", "i.masked_fill(c, -7)"),
    "to": ("i.to(torch.float64)", "x.to(dtype=torch.int64)", "i.to(x)", "i.to(TEMPERATURE)", "x.to('cpu')"),
    "type": ("i.type(torch.float64)",),
    "type_as": ("i.type_as(x)", "x.type_as(i)", "i.type_as(SLOPES)"),
    **{name: (f"x.{name}()", f"i.{name}()") for name in CONVERSIONS},
    "float": ("i.float().double()", "c.float().double()"),
    "half": ("i.half().double()",),
    "bfloat16": ("i.bfloat16().double()",),
    "zeros_like": ("torch.zeros_like(x)", "torch.zeros_like(x, dtype=torch.bool)"),
    "ones_like": ("torch.ones_like(i)", "torch.ones_like(i, dtype=torch.float64)"),
    "full_like": ("torch.full_like(x, 3)", "torch.full_like(i, 2.75)", "torch.full_like(x, fill_value=-inf)"),
    "new_zeros": ("x.new_zeros(())", "x.new_zeros((), dtype=torch.bool)"),
    "new_ones": ("i.new_ones(())", "x.new_ones(size=())", "i.new_ones(i.shape, dtype=torch.bool)"),
    "new_full": ("x.new_full((), 3)", "i.new_full((), fill_value=2.5, dtype=torch.float64)"),
    "contiguous": ("x.contiguous()",),
    **{f"__{name}__": (f"{sign}x", f"{sign}i") for name, sign in (("neg", "-"), ("pos", "+"))},
    "__abs__": ("abs(x)", "abs(i)"),
    "__invert__": ("~c", "~i"),
    **{
        f"__{name}__": (f"x {sign} y", f"x {sign} i", f"i {sign} 2", f"x {sign} TEMPERATURE", f"i {sign} j")
        for name, sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/"), ("floordiv", "//"), ("mod", "%"))
    },
    **{
        f"__r{name}__": (f"2.5 {sign} x", f"3 {sign} j", f"TEMPERATURE {sign} x", f"WIDTH {sign} y", f"-2 {sign} x")
        for name, sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/"), ("floordiv", "//"), ("mod", "%"))
    },
    "__div__": ("x.__div__(y)",),
    "__rdiv__": ("x.__rdiv__(2.5)",),
    **{
        f"__{name}__": (f"x {sign} y", f"i {sign} 2", f"2 {sign} i", f"WIDTH {sign} i", f"c {sign} d")
        for name, sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
    },
    **{
        f"__{side}{name}__": (f"{left} {sign} c", f"i {sign} j")
        for side, left in (("", "d"), ("r", "True"))
        for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))
    },
    "__pow__": ("x ** 2", "x ** -2", "x ** 0", "i ** 3", "i ** 2.0", "x ** 0.5", "i ** 0"),
    "__rpow__": (
        "2 ** x",
        "0.5 ** i",
        "2 ** (i % 5)",
        "4 ** (i % 5)",
        "3.0 ** i",
        "3 ** j",
        "2 ** (60 * i)",
        "-2 ** j",
        "(-3) ** i",
    ),
}
MORE_FORMS = (
    "torch.div(i, j, rounding_mode='trunc')",
    "torch.div(i, -3, rounding_mode='trunc')",
    "torch.div(x, y, rounding_mode='trunc')",
    "i.div(-3, rounding_mode='floor')",
    "torch.fmod(i, j)",
    "torch.fmod(i, -3)",
    "i.fmod(2.5)",
    "x.fmod(0.1)",
    "x % 0.1",
    "x // 0.1",
    "torch.round(x, decimals=2)",
    "torch.round(100 * x, decimals=-1)",
    "torch.nan_to_num(x * inf, nan=1.5, posinf=2.5, neginf=-3.5)",
    "torch.nan_to_num(x * inf - y * inf)",
    "torch.isinf(i)",
    "torch.isnan(FAR[q] - FAR[q])",
    "torch.clamp(i, min=2)",
    "torch.nn.functional.relu(x)",
    "torch.nn.functional.sigmoid(x)",
    "torch.nn.functional.tanh(x)",
    "BIAS[h, q, k] * TABLE[0, h]",
    "BIAS[(h + 1) % 3, q, (q - k) % 11]",
    "OFFSETS[b, IDS[q]]",
    "IDS[IDS[k]]",
    "TABLE[IDS[q], FLAGS[q].long()]",
    "BIAS.mT[h, k, q]",
    "BIAS[:2].sum(1)[b, k]",
    "(SLOPES * 2 + 1)[h]",
    "BIAS[1][q, k]",
    "BIAS[..., 0][h, q]",
    "torch.exp(SLOPES)[h]",
    "TEMPERATURE * 2 + x",
    "torch.where(OPEN, x, y)",
    "torch.where(q >= k, x, -float('inf'))",
    "TEMPERATURE.where(c, x)",
)


def spelled(source: str) -> str:
    """`source` with x, y, i, j, c and d given their meaning."""
    names = "x, y, i, j, c, d"
    return f"(lambda {names}: {source})(score, BIAS[h, q, k], q - k, k + 1, q >= k, FLAGS[q])"


@pytest.mark.sampled
@pytest.mark.parametrize("source", [s for forms in FORMS.values() for s in forms] + list(MORE_FORMS))
def test_every_form_is_what_torch_computes(source):
    check(spelled(source))


def test_every_name_has_a_form():
    assert set(FUNCTIONS) == set(FORMS) | set(OF_ROWS)
    assert set(METHODS) == set(FUNCTIONS)


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_are_those_of_a_number(name):
    seen = {}

    def look(score, q):
        seen.update(f=getattr(score, name), i=getattr(q, name))
        return score

    trace(look, "score_mod", ("score", "q"))
    assert seen["f"] == getattr(torch.tensor(0.5, dtype=torch.float32), name)
    assert seen["i"] == getattr(torch.tensor(3), name)


def test_indexing_by_one_dimension_after_another_is_indexing_by_all():
    (at_once, in_steps) = (traced("BIAS[h, q, k] * OFFSETS[b, 3]"), traced("BIAS[h][q][k] * OFFSETS[b][3]"))
    values = evaluate(at_once, in_steps, inputs=places(), dtype=torch.float64)
    assert torch.equal(*values)
    assert repr(at_once) == repr(in_steps)


def test_a_captured_tensor_is_read_in_place():
    table = torch.randn(7, 11)
    expression = trace(lambda q, k: table[q, k] > 0, "mask_mod", ("q", "k"))
    table.neg_()
    (found,) = evaluate(expression, inputs=places(), dtype=torch.float64)
    assert torch.equal(found, table > 0)


@pytest.mark.parametrize("sign", ["+", "-", "*", "/", "//", "%", "<", ">=", "=="])
@pytest.mark.parametrize("make", [np.float64, np.float32, np.int64, np.int32])
def test_numbers_of_numpy_are_numbers(sign, make):
    for source in (f"score {sign} TWO", f"TWO {sign} score", f"TWO {sign} (h + 1)"):
        ours, plain = (trace(function(source, {"TWO": two}), "score_mod", NAMES) for two in (make(2), make(2).item()))
        values = evaluate(ours, plain, inputs=places(), dtype=torch.float64)
        assert ours.kind == plain.kind
        assert torch.equal(*values)


def test_what_two_uses_share_is_one_node():
    expression = trace(lambda score: (score * 2) ** 4, "score_mod", ("score",))
    assert repr(expression).count("score") == 4
    assert [node.op for node in walk(expression)].count("input") == 1


def test_a_number_may_be_the_whole_result():
    assert trace(lambda q: True, "mask_mod", ("q",)).value is True
    assert trace(lambda q: torch.tensor(2.5), "score_mod", ("q",)).op == "load"


def test_default_parameters_partials_and_methods_are_functions():
    class Window:
        width = 3

        def __call__(self, q, k):
            return q - k < self.width

        def method(self, q, k):
            return q - k < self.width

    for function_ in (lambda q, k, width=3: q - k < width, partial(lambda w, q, k: q - k < w, 3), Window()):
        assert repr(trace(function_, "mask_mod", ("q", "k"))) == "lt(sub(q, k), 3)"
    assert repr(trace(Window().method, "mask_mod", ("q", "k"))) == "lt(sub(q, k), 3)"


def branches(score, q, k):
    if q > k:
        return score
    return -score


UNTRACEABLE = {
    "branches": (branches, "score_mod 'branches': it branches on its argument.*torch.where"),
    "and": (lambda score, q, k: score * (q > k and k > 2), "branches on its argument.*&"),
    "not": (lambda score, q, k: score * (not q > k), "branches on its argument.*~"),
    "chained": (lambda score, q, k: score * (0 < k < q), "branches.*chained comparisons"),
    "builtin min": (lambda score, q, k: min(score, 3.0), "branches.*torch.minimum"),
    "float()": (lambda score, q, k: float(score), "branches.*conversions to a number"),
    "math": (lambda score, q, k: math.exp(score), "branches.*conversions to a number"),
    "list index": (lambda score, q, k: score + [1.0, 2.0][q], "used as a Python index.*torch.stack"),
    "array index": (lambda score, q, k: score + np.zeros(7)[q], "given to numpy.*torch's tensors"),
    "numpy array": (lambda score, q, k: score + np.zeros(7), "uses a ndarray"),
    "numpy function": (lambda score, q, k: np.asarray(score), "given to numpy.*torch's tensors"),
    "numpy ufunc": (lambda score, q, k: np.sin(score), "'score or index' does not support ufuncs.*it has"),
    "unknown function": (
        lambda score, q, k: torch.digamma(score),
        "'torch.digamma' is not in the score language.*it has.*computed before",
    ),
    "unknown nn function": (lambda score, q, k: torch.nn.functional.rrelu(score), "rrelu' is not in the score"),
    "unknown method": (lambda score, q, k: score.cumsum(0), "'cumsum' is not in the score language"),
    "in place": (lambda score, q, k: score.add_(1), "'add_' is not in the score language"),
    "property": (lambda score, q, k: score.H, "'H' is not in the score language"),
    "private": (lambda score, q, k: score._values, "'_values' is not in the score language"),
    "matmul": (lambda score, q, k: score @ score, r"@ of shapes \[\] and \[\]: it needs rows of one length"),
    "shift": (lambda score, q, k: score << 2, r"a shift of float by int is not defined.*\.to\(torch.long\)"),
    "round()": (lambda score, q, k: round(score), "score or index doesn't define __round__.*it has"),
    "divmod": (lambda score, q, k: divmod(q, 3)[0], r"divmod\(\): 'score or index'.*it has"),
    "item assignment": (
        lambda score, q, k: operator.setitem(score, 0, 1),
        "object does not.*assignment",
    ),
    "stack": (lambda score, q, k: torch.stack([score, score]), r"got a tensor of shape \[2\]; reduce it"),
    "reduction": (lambda score, q, k: score + torch.zeros(7, 3)[q].max(0), "gives places too; use torch.amax"),
    "torch.max": (lambda score, q, k: torch.max(score, q, k), "'torch.max' cannot be used like this"),
    "keyword": (lambda score, q, k: score.round(digits=2), "'torch.Tensor.round' cannot be used.*digits"),
    "where with one": (lambda score, q, k: torch.where(score), "'torch.where' cannot be used like this"),
    "out": (lambda score, q, k: torch.exp(score, out=torch.zeros(())), "'torch.exp' cannot be used.*out"),
    "sequence": (lambda score, q, k: sum(score), "one number, not a sequence"),
    "len": (lambda score, q, k: score * len(score), "one number, not a sequence"),
    "indexed": (lambda score, q, k: score[0], "one number and cannot be indexed"),
    "size": (lambda score, q, k: score.new_ones((3,)), "of size \\(3,\\)"),
    "float index": (lambda score, q, k: torch.zeros(7)[score], "indexed by a float or a bool.*torch.long"),
    "bool index": (lambda score, q, k: torch.zeros(7)[q > k], "indexed by a float or a bool.*torch.long"),
    "too many indices": (lambda score, q, k: torch.zeros(7)[q, k], r"shape \[7\] has no 2 dimensions"),
    "too few indices": (
        lambda score, q, k: score + torch.zeros(7, 67)[q],
        r"shape \[7, 67\] is indexed by 1 of its 2.*at once",
    ),
    "slice": (lambda score, q, k: torch.zeros(7, 11)[q, :], r"must return one.*got a tensor of shape \[11\]; reduce"),
    "whole tensor": (lambda score, q, k: (score + torch.zeros(67)).sum(), r"shape \[67\] is used whole; index it"),
    "string": (lambda score, q, k: score + "1", "uses a str, which is neither a number nor a tensor"),
    "none": (lambda score, q, k: None, "must return one score or one bool, got a NoneType"),
    "tuple": (lambda score, q, k: (score, score), "must return one score or one bool, got a tuple"),
    "whole result": (lambda score, q, k: torch.zeros(7), r"must return one.*got a tensor of shape \[7\]"),
    "bitwise float": (lambda score, q, k: score & 1, "bitwise and is not defined for float"),
    "invert float": (lambda score, q, k: ~score, "bitwise not is not defined for float"),
    "bool minus bool": (lambda score, q, k: (q > k) - (k > q), "sub of two bools is not defined; use"),
    "minus bool": (lambda score, q, k: -(q > k), "neg is not defined for bool"),
    "power of both": (lambda score, q, k: (q > k) ** (k > q), "pow of two bools is not defined"),
    "power of 3": (lambda score, q, k: q**-3, "a whole number to a negative power.*float"),
    "complex": (lambda score, q, k: score.to(torch.complex64), "complex numbers are not in the score language"),
    "dtype": (lambda score, q, k: score.type("torch.IntTensor"), "a conversion needs a torch.dtype"),
    "parameters": (lambda score, q: score, r"expected 3 parameters \(score, q_idx, kv_idx\), got \(score, q\)"),
    "whole row": (lambda score, q, k: torch.zeros(7, 11)[q], r"got a tensor of shape \[11\]; reduce it"),
    "beyond 64 bits": (lambda score, q, k: score + (q + 2**63), "9223372036854775808 is beyond 64 bits; write it as a"),
    "dictionary": (lambda score, q, k: score + {0: 1.0}[q], "looked up in a dictionary.*Index a torch tensor"),
    "complex tensor": (lambda score, q, k: score + torch.zeros(7).cfloat()[q], r"is of torch.complex64.*\.to\(torch.f"),
    "tiny floats": (lambda score, q, k: score + torch.zeros(7).to(torch.float8_e5m2)[q], "is of torch.float8_e5m2"),
    "large unsigned": (lambda score, q, k: score + torch.zeros(()).to(torch.uint64), r"uint64.*\.to\(torch.long\)"),
    "rows of two lengths": (
        lambda score, q, k: (torch.zeros(7, 3)[q] * torch.zeros(7, 2)[k]).sum(),
        r"shapes \[3\], \[2\] do not broadcast",
    ),
    "a row as a mask": (lambda score, q, k: score if torch.zeros(7, 3)[q] > 0 else q, "branches on its argument"),
    "in a row": (lambda score, q, k: score * (q in torch.zeros(7, 3)[k]), r"\(row == value\).any\(\)"),
    "long products": (lambda score, q, k: torch.zeros(7, 65)[q] @ torch.zeros(7, 65)[k], "more than 64 elements"),
    "matrix product": (
        lambda score, q, k: (torch.zeros(7, 8, 8)[q] @ torch.zeros(7, 8, 8)[k]).sum(),
        "more than 256 products; compute it before",
    ),
    "row by an index": (lambda score, q, k: (torch.zeros(7, 3)[q] + 1)[k], "index the captured tensor itself"),
    "element of a row": (lambda score, q, k: torch.zeros(7, 3)[q][3], "by 3 in a dimension of 3"),
    "dimension of a row": (lambda score, q, k: torch.zeros(7, 3)[q].sum(1), r"shape \[3\] has no dimension 1"),
    "mean of ints": (lambda score, q, k: torch.zeros(7, 3).long()[q].mean(), "mean of whole numbers.*float"),
    "cumsum of a row": (lambda score, q, k: torch.zeros(7, 3)[q].cumsum(0)[0], "'cumsum' is not in the score"),
    "approximation": (
        lambda score, q, k: torch.nn.functional.gelu(score, approximate="x"),
        "'none' or 'tanh', got 'x'",
    ),
    "not a function": (3, "score_mod: expected a function of"),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_an_error_names_the_operation_and_the_way_out(name):
    function_, message = UNTRACEABLE[name]
    with pytest.raises(TraceError, match=message) as caught:
        trace(function_, "score_mod", ("score", "q", "k"))
    assert str(caught.value).startswith("score_mod")


@pytest.mark.parametrize("mine", [LookupError, TypeError])
def test_the_functions_own_errors_are_left_alone(mine):
    def fails(score):
        raise mine("mine")

    with pytest.raises(mine, match=r"^mine$"):
        trace(fails, "score_mod", ("score",))


def test_tracing_leaves_torch_as_it_was():
    with pytest.raises(TraceError):
        trace(branches, "score_mod", ("score", "q", "k"))
    assert torch.equal(torch.arange(7)[torch.tensor([5, 2])], torch.tensor([5, 2]))


def test_captured_tensors_are_the_callers_own():
    expression = traced("SLOPES[h] * score")
    (found,) = [node.value for node in expression.args if node.op == "load"]
    assert found is CAPTURED["SLOPES"]
    assert isinstance(found, Tensor)


def test_the_names_are_the_languages_inputs():
    assert [repr(traced(name)) for name in NAMES] == list(NAMES)
    assert bounds(constant(3), {}) == (3, 3)
