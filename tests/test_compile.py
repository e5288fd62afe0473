"""torch.compile: a compiled function may call the face; its graph breaks there and the numbers are the same."""

import pytest
import torch

import pellucid


@pytest.mark.filterwarnings("ignore")  # torch.compile itself warns of this and that
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_compiled_function_gives_the_same(needs_gradient: bool) -> None:
    def block(x: torch.Tensor) -> torch.Tensor:
        output, seen = pellucid.observe(x * 2, x, x, is_causal=True)
        return pellucid.attention(x, x, output) + seen.entropy[..., None]

    x = torch.randn(2, 3, 17, 8, dtype=torch.float64, requires_grad=needs_gradient)
    compiled = torch.compile(block, backend="eager")(x)
    torch.testing.assert_close(compiled, block(x), rtol=0, atol=0)
    if needs_gradient:
        (by_compiled,) = torch.autograd.grad(compiled.sum(), x)
        (by_eager,) = torch.autograd.grad(block(x).sum(), x)
        torch.testing.assert_close(by_compiled, by_eager, rtol=0, atol=0)
