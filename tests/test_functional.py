"""The face from inside: what becomes of an attn_mask that is no plain tensor, and of tensors that are not dense.

What the face computes, and what it refuses, is in conformance/.
"""

import inspect

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.overrides import TorchFunctionMode

import pellucid
from pellucid.arguments import Arguments
from pellucid.engines import using
from tests.cases import normal


def test_what_is_handed_on_has_the_signature_of_the_face():
    own, attention, observe = (
        {parameter.name: parameter.default for parameter in inspect.signature(function).parameters.values()}
        for function in (Arguments, pellucid.attention, pellucid.observe)
    )
    assert list(own.items()) == [*attention.items(), ("readouts", ())]
    assert list(observe.items()) == [*attention.items(), ("readouts", None)]


@pytest.mark.parametrize("function", [pellucid.attention, pellucid.observe])
def test_whoever_looks_on_is_given_all_that_was_asked(function):
    class Looking(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is function:
                seen.append(inspect.signature(function).bind(*args, **kwargs).arguments)
                return None
            return func(*args, **(kwargs or {}))

    seen = []
    distinct = {name: object() for name in inspect.signature(pellucid.attention).parameters}
    distinct |= dict(zip(("query", "key", "value"), normal(3, 5, 4), strict=True))
    if function is pellucid.observe:
        distinct["readouts"] = (pellucid.Entropy(),)
    with Looking():
        function(**distinct)
    assert [list(given.items()) for given in seen] == [list(distinct.items())]


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
@pytest.mark.parametrize("make", [causal_lower_right, causal_upper_left])
@pytest.mark.parametrize(("q_len", "k_len"), [(5, 7), (7, 7), (1, 7)])
def test_torchs_causal_bias(make, q_len, k_len, engine):
    query, key = normal(2, 3, q_len, 4), normal(2, 3, k_len, 4, seed=1)
    bias = make(q_len, k_len)
    with using(engine):
        output = pellucid.attention(query, key, key, bias)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, key, bias)
    torch.testing.assert_close(output, expected)


def test_a_causal_bias_of_other_lengths():
    query = normal(2, 3, 5, 4)
    with pytest.raises(ValueError, match=r"^attn_mask: a CausalBias of 5 x 5 is needed, got 5 x 7"):
        pellucid.attention(query, query, query, causal_lower_right(5, 7))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["nested", "sparse"])
def test_tensors_must_be_dense(kind):
    dense = normal(2, 3, 5, 4)
    other = dense.to_sparse() if kind == "sparse" else torch.nested.nested_tensor([dense[0], dense[1]])
    for place, name in enumerate(("query", "key", "value")):
        arguments = [dense, dense, dense]
        arguments[place] = other
        with pytest.raises(TypeError, match=rf"^{name}: a dense tensor is needed, got a {kind} one"):
            pellucid.attention(*arguments)


@pytest.mark.parametrize("index", ["b", "h", "q_idx", "kv_idx"])
def test_a_captured_tensor_must_be_as_long_as_what_indexes_it(index):
    sizes = {"b": 6, "h": 5, "q_idx": 7, "kv_idx": 11}
    query, key = normal(2, 3, 5, 7, 4), normal(2, 3, 5, 11, 4, seed=1)
    long, short = torch.zeros(sizes[index]), torch.zeros(sizes[index] - 1)
    names = list(sizes)

    def bias(table):
        return lambda score, *place: score + table[place[names.index(index)]]

    pellucid.attention(query, key, key, score_mod=bias(long))
    message = rf"^a captured tensor \[{sizes[index] - 1}\] is indexed by {index}, of which there are {sizes[index]}"
    with pytest.raises(ValueError, match=message):
        pellucid.attention(query, key, key, score_mod=bias(short))
    reading = pellucid.Expect(lambda *place: short[place[names.index(index)]], "x")
    with pytest.raises(ValueError, match=message):
        pellucid.observe(query, key, key, readouts=[reading])


@pytest.mark.parametrize("engine", ["reference", "portable", "cpu"])
def test_an_attn_mask_is_read_in_place(engine):
    query, key = normal(3, 2, 5, 7, 4), normal(3, 2, 5, 11, 4, seed=1)
    for shape in ((3, 2, 5, 7, 11), (2, 1, 7, 11), (3, 1, 1, 1, 11), (5, 7, 1), (7, 11), (1, 11), (11,), ()):
        for mask in (normal(*shape, seed=2), normal(*shape, seed=3) < 0.5):
            scores = query @ key.mT / 2
            scores = scores + mask if mask.dtype != torch.bool else scores.masked_fill(~mask, -torch.inf)
            with using(engine):
                output = pellucid.attention(query, key, key, mask.expand(shape))
            torch.testing.assert_close(output, scores.softmax(-1).nan_to_num(0.0) @ key)
