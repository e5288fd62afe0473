"""Memory for results: large ones ask for huge pages, and are written whole all the same."""

import mmap
import re
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid.engines.cpu import memory


def wishes_huge_pages(tensor: torch.Tensor) -> bool:
    """Whether the system notes that wish of the mapping in which most of a tensor lies."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        low, high = (int(end, 16) for end in mapping.split(maxsplit=1)[0].split("-"))
        if low <= middle < high:
            return " hg" in mapping.partition("VmFlags:")[2]
    raise LookupError(hex(middle))


@pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE") or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="the system has no huge pages to ask for",
)
def test_only_large_results_ask() -> None:
    assert wishes_huge_pages(memory.empty((1, 1, 1 << 17, 80), torch.float32))
    assert not wishes_huge_pages(memory.empty((1, 1, 1 << 14, 80), torch.float32))


def test_a_large_output_is_written_whole() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 40_000, 1), torch.randn(1, 8, 1)
    value = torch.randn(1, 8, 256)
    output = pellucid.attention(query, key, value)
    assert output.nbytes >= memory.LARGE
    expected = torch.softmax(query.double() @ key.double().mT, -1) @ value.double()
    torch.testing.assert_close(output.double(), expected, atol=2e-6, rtol=0)
