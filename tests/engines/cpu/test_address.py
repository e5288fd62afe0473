"""Tensors that are not simply numbers in memory: right by a slower way, or refused; no read beyond a storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import pellucid
from pellucid import engines
from pellucid.engines.cpu.kernels.linear_row import row_through
from pellucid.engines.cpu.machine.address import AddressError, address_of, address_of_own, is_plain
from pellucid.record.disk.tensor_file import read_tensors, write_tensors
from pellucid.tensors.storage import reach
from tests.cases import largest

X = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
KEYS = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(1))
Call = Callable[..., Any]


def negated(tensor: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def mapped(tensor: Tensor, folder: Path) -> Tensor:
    """The same numbers in a file in memory."""
    path = folder / "numbers"
    path.write_bytes(tensor.contiguous().numpy().tobytes())
    return torch.from_file(str(path), shared=False, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)


def cut(tensor: Tensor, size: int) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(size)
    return tensor


PLAIN: dict[str, Callable[[], Tensor]] = {
    "usual": lambda: X,
    "strided": lambda: X.transpose(1, 2),
    "a parameter": lambda: torch.nn.Parameter(X),
    "empty": lambda: X[:0],
    "shared": lambda: X.clone().share_memory_(),
    "of numpy": lambda: torch.from_numpy(X.numpy()),
    "of inference": torch.inference_mode()(lambda: X * 1),
}
OTHER: dict[str, Callable[[], Tensor]] = {
    "negated": lambda: negated(X),
    "zero": lambda: torch._efficientzerotensor(2, 3, 5, 7),
    "functional": lambda: torch._to_functional_tensor(X),
    "meta": lambda: X.to("meta"),
    "fake": lambda: FakeTensorMode().from_tensor(X),
    "sparse": lambda: X.to_sparse(),
    "for oneDNN": lambda: X.to_mkldnn(),
    "quantized": lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([X, X], layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore")  # torch says that quantized and nested tensors will change
@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_which_are_plain(name: str) -> None:
    assert is_plain((PLAIN | OTHER)[name]()) == (name in PLAIN)


@pytest.mark.parametrize("name", PLAIN)
def test_the_address_is_of_the_first_element(name: str) -> None:
    tensor = PLAIN[name]()
    assert address_of(tensor, reach(tensor)) == tensor.data_ptr()


def test_what_was_just_made_has_memory() -> None:
    with pytest.raises(AddressError, match=r"\[3\] has no memory on meta"):
        address_of_own(torch.empty(3, device="meta"))


# Query, key, value, sinks or a mask of another kind, each after a usual call, so that the short way is known.
PLACES: dict[str, Callable[[Call, Tensor], Tensor]] = {
    "query": lambda call, odd: call(odd, X, X),
    "key": lambda call, odd: call(X, odd, X),
    "value": lambda call, odd: call(X, X, odd),
    "attn_mask": lambda call, odd: call(X, KEYS, KEYS, odd),
}


def plain_zero() -> Tensor:
    return torch.zeros(2, 3, 5, 7)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("grad", [False, True])
def test_zeros_without_memory_and_negated_numbers(place: str, grad: bool, tmp_path: Path) -> None:
    call = PLACES[place]
    with torch.set_grad_enabled(grad):
        for odd, same in ((OTHER["zero"](), plain_zero()), (negated(X), X), (mapped(X, tmp_path), X)):
            wanted = call(pellucid.attention, same)
            for _ in range(2):
                assert (call(pellucid.attention, odd) - wanted).abs().max() <= 1e-6 * (1 + largest(wanted))


def test_functional_tensors() -> None:
    wanted = pellucid.attention(X, X, X)
    found = pellucid.attention(*[torch._to_functional_tensor(X)] * 3)
    assert torch.allclose(torch._from_functional_tensor(found), wanted, atol=1e-6)


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("size", [0, 64, X.nbytes - 1])
@pytest.mark.parametrize("place", PLACES)
def test_a_storage_that_was_cut(place: str, size: int, engine: str) -> None:
    named = "attn_mask" if place == "attn_mask" else f"{place}: "
    with engines.using(engine):
        PLACES[place](pellucid.attention, X)  # which would be repeated
        for make in (lambda: cut(X, size), lambda: cut(X, size)[:, :, :, :]):
            with pytest.raises(ValueError, match=named):
                PLACES[place](pellucid.attention, make())
        with pytest.raises(ValueError, match=named):
            PLACES[place](lambda *args: pellucid.observe(*args)[0], cut(X, size))


def test_a_captured_tensor_sinks_and_weights_of_later() -> None:
    table, sinks, query = torch.randn(5), torch.randn(3), X.clone()
    _, seen = pellucid.observe(query, X, X, score_mod=lambda s, b, h, q, k: s + table[k], sinks=sinks)
    for tensor, name in ((table, "captured"), (query, "query")):
        size = tensor.untyped_storage().nbytes()
        tensor.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=name):
            seen.weights()
        tensor.untyped_storage().resize_(size)
    with pytest.raises(ValueError, match="sinks"):
        pellucid.attention(X, X, X, sinks=cut(sinks, 4))


def test_a_view_beyond_what_is_left() -> None:
    whole = X.clone()
    view = whole[1:]
    whole.untyped_storage().resize_(X.nbytes // 2)
    pellucid.attention(X[1:], X[1:], X[1:])
    with pytest.raises(ValueError, match=f"query: .*{X.nbytes // 2}"):
        pellucid.attention(view, X[1:], X[1:])


@pytest.mark.parametrize("which", range(3))
def test_a_row_through_weights_that_were_cut(which: int) -> None:
    given = [torch.randn(1, 11), torch.randn(13, 11), torch.randn(13)]
    row_through(*given)
    given[which].untyped_storage().resize_(4)
    with pytest.raises(AddressError):
        row_through(*given)


@pytest.mark.parametrize("of", [lambda: torch.zeros((), device="meta"), lambda: torch.ones((), device="meta")])
def test_a_captured_number_of_another_device(of: Callable[[], Tensor]) -> None:
    number = of()
    with pytest.raises(ValueError, match=r"captured.*meta"):
        pellucid.attention(X, X, X, score_mod=lambda s, b, h, q, k: s + number[()])


def test_what_goes_to_disk(tmp_path: Path) -> None:
    given = {"negated": negated(X), "zero": OTHER["zero"](), "usual": X}
    write_tensors(tmp_path / "tensors", given)
    kept = read_tensors(tmp_path / "tensors", (tmp_path / "tensors").stat().st_size).tensors
    assert torch.equal(kept["negated"], X)
    assert torch.equal(kept["usual"], X)
    assert not kept["zero"].any()
