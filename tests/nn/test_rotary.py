import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.nn import Rotary

ULP = torch.finfo(torch.float64).eps


def turned(x, start, base):
    """The definition in complex numbers, in float64: coordinate i is the real part, i + head_dim / 2 the imaginary."""
    half = x.shape[-1] // 2
    pair = torch.arange(half, dtype=torch.float64)
    position = torch.arange(start, start + x.shape[-2], dtype=torch.float64)
    angle = position[:, None] * base ** (-2 * pair / x.shape[-1])
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), dim=-1)


@given(
    length=st.integers(0, 67),
    half=st.integers(1, 37),
    start=st.integers(0, 1009),
    base=st.floats(2.0, 1e6),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition_in_complex_numbers(length, half, start, base, seed):
    x = torch.randn(2, 3, length, 2 * half, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    actual = Rotary(2 * half, base)(x, start)
    # An angle of up to 1076 is rounded to half a unit in its last place, once here and once in the definition.
    torch.testing.assert_close(actual, turned(x, start, base), rtol=0, atol=8 * 1076 * ULP)


def test_position_0_is_left_as_it_is():
    x = torch.randn(5, 1, 6)
    assert torch.equal(Rotary(6)(x), x)


def test_scores_depend_on_distance_alone():
    rotary = Rotary(22, base=100.0)
    query, key = torch.randn(2, 1, 22, dtype=torch.float64)
    near = rotary(query, 5) @ rotary(key, 2).T
    far = rotary(query, 1005) @ rotary(key, 1002).T
    other = rotary(query, 6) @ rotary(key, 2).T
    torch.testing.assert_close(near, far, rtol=0, atol=1e-11)
    assert not torch.allclose(near, other)


def test_what_was_computed_before_makes_no_difference():
    x = torch.randn(3, 17, 10)
    used = Rotary(10)
    used(x[:, :2])
    used(x, 101)
    assert torch.equal(used(x, 5), Rotary(10)(x, 5))
    assert torch.equal(used(x.double(), 5), Rotary(10)(x.double(), 5))
    assert torch.equal(used(x, 5), Rotary(10)(x, 5))


def test_use_in_inference_mode_leaves_training_possible():
    rotary = Rotary(6)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        rotary(x)
    assert torch.autograd.gradcheck(rotary, (x,))


def test_a_model_of_lower_precision_keeps_exact_angles():
    rotary = Rotary(6).to(torch.bfloat16)
    x = torch.randn(11, 6, dtype=torch.bfloat16)
    actual = rotary(x, 100_003)
    expected = turned(x.double(), 100_003, 10_000.0)
    assert actual.dtype == torch.bfloat16
    # One rounding to bfloat16, half a unit in the last place, of numbers computed in float32.
    half = torch.finfo(torch.bfloat16).eps / 2
    torch.testing.assert_close(actual.double(), expected, rtol=1.001 * half, atol=8 * torch.finfo(torch.float32).eps)


def test_has_no_state_and_can_be_copied_after_use():
    rotary = Rotary(6)
    x = torch.randn(7, 6, requires_grad=True)
    rotary(x)
    assert list(rotary.state_dict()) == []
    assert torch.equal(copy.deepcopy(rotary)(x), rotary(x))


def test_its_picture_says_its_sizes():
    assert repr(Rotary(6, 500_000.0)) == "Rotary(head_dim=6, base=500000)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "head_dim: rotary positions turn pairs, so it must be even and positive, got 7"),
        ((0,), "head_dim: .*got 0"),
        ((6, 0.0), "base: must be positive, got 0.0"),
        ((6, float("nan")), "base: must be positive, got nan"),
    ],
)
def test_refuses_sizes_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rotary(*arguments)


def test_refuses_heads_of_another_width():
    with pytest.raises(ValueError, match=r"x: must be \[\.\.\., length, 6\] for this Rotary, got \[7, 10\]"):
        Rotary(6)(torch.ones(7, 10))
