"""The named masks, as drawings: a row a query, x where the key may be looked at."""

import pytest
import torch

import pellucid
from pellucid import masks
from pellucid.language import trace


def drawn(mask, q_len, k_len, batch=0, head=0):
    """The mask of one batch and head, as lines of x and dots."""
    allowed = mask(torch.tensor(batch), torch.tensor(head), torch.arange(q_len)[:, None], torch.arange(k_len))
    return ["".join("x" if key else "." for key in row) for row in allowed.expand(q_len, k_len).tolist()]


IDS = torch.tensor([0, 0, 1, 1, 1, 3])
DRAWINGS = {
    "causal": (masks.causal(), ["x....", "xx...", "xxx.."]),
    "causal of more queries": (masks.causal(), ["x..", "xx.", "xxx", "xxx", "xxx"]),
    "causal with offset": (masks.causal(2), ["xxx..", "xxxx.", "xxxxx"]),
    "causal with negative offset": (masks.causal(-1), ["....", "x...", "xx.."]),
    "lower right": (masks.causal_lower_right(3, 5), ["xxx..", "xxxx.", "xxxxx"]),
    "lower right of more queries": (masks.causal_lower_right(5, 3), ["...", "...", "x..", "xx.", "xxx"]),
    "window": (masks.sliding_window(2, 1), ["xx....", "xxx...", "xxxx..", ".xxxx.", "..xxxx"]),
    "window of the past": (masks.sliding_window(1, 0), ["x....", "xx...", ".xx..", "..xx."]),
    "window of the future": (masks.sliding_window(0, 1), ["xx...", ".xx..", "..xx."]),
    "window without right": (masks.sliding_window(left=1), ["xxxxx", "xxxxx", ".xxxx", "..xxx"]),
    "window without left": (masks.sliding_window(right=1), ["xx...", "xxx..", "xxxx."]),
    "window without end": (masks.sliding_window(), ["xxx", "xxx"]),
    "window of itself": (masks.sliding_window(0, 0), ["x..", ".x.", "..x"]),
    "window with offset": (masks.sliding_window(1, 0, offset=2), [".xx..", "..xx.", "...xx"]),
    "prefix": (masks.prefix(2), ["xx...", "xx...", "xx..."]),
    "prefix language model": (masks.causal() | masks.prefix(3), ["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]),
    "documents": (masks.documents(IDS), ["xx....", "xx....", "..xxx.", "..xxx.", "..xxx.", ".....x"]),
    "documents across": (masks.documents(IDS[:3], IDS), ["xx....", "xx....", "..xxx."]),
    "causal documents": (
        masks.causal() & masks.documents(IDS),
        ["x.....", "xx....", "..x...", "..xx..", "..xxx.", ".....x"],
    ),
    "not causal": (~masks.causal(), [".xxx", "..xx", "...x"]),
    "two of three": (
        (masks.causal() & ~masks.prefix(1)) | masks.sliding_window(0, 0),
        ["x...", ".x..", ".xx.", ".xxx"],
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_mask_is_its_drawing(name):
    mask, expected = DRAWINGS[name]
    assert drawn(mask, len(expected), len(expected[0])) == expected


@pytest.mark.sampled
@pytest.mark.parametrize("name", DRAWINGS)
def test_attention_follows_the_drawing(name):
    mask, expected = DRAWINGS[name]
    query, key = torch.randn(len(expected), 3), torch.randn(len(expected[0]), 3)
    _, seen = pellucid.observe(query, key, key, mask_mod=mask)
    assert ["".join("x" if weight else "." for weight in row) for row in seen.weights().tolist()] == expected


def test_masks_of_each_batch():
    for mask, expected in (
        (masks.key_lengths(torch.tensor([2, 4])), ["xx...", "xxxx."]),
        (masks.prefix(torch.tensor([1, 3], dtype=torch.int32)), ["x....", "xxx.."]),
        (masks.documents(torch.tensor([[0, 0, 1, 1, 1], [5, 6, 6, 6, 5]])), ["xx...", "x...x"]),
        (masks.documents(torch.tensor([[0], [6]]), torch.tensor([0, 0, 6, 6, 6])), ["xx...", "..xxx"]),
        (masks.documents(torch.tensor([0]), torch.tensor([[0, 1, 1, 1, 1], [1, 0, 0, 0, 0]])), ["x....", ".xxxx"]),
    ):
        assert [drawn(mask, 1, 5, batch)[0] for batch in (0, 1)] == expected


def nearest(height, width, kernel):
    """NATTEN's neighbourhoods from their definition, a pixel at a time: the window that fits and is centred best."""

    def window(place, size):
        start = min(max(place - kernel // 2, 0), size - kernel)
        return range(start, start + kernel)

    allowed = torch.zeros(height * width, height * width, dtype=torch.bool)
    for q in range(height * width):
        for row in window(q // width, height):
            for column in window(q % width, width):
                allowed[q, row * width + column] = True
    return allowed


@pytest.mark.parametrize(("height", "width", "kernel"), [(3, 5, 3), (5, 7, 5), (1, 7, 1), (7, 3, 3), (11, 13, 7)])
def test_the_neighbourhood_is_nattens(height, width, kernel):
    tokens = torch.arange(height * width)
    zero = torch.tensor(0)
    found = masks.neighborhood_2d(height, width, kernel)(zero, zero, tokens[:, None], tokens)
    assert torch.equal(found, nearest(height, width, kernel))
    assert (found.sum(-1) == kernel**2).all()


def test_a_mask_combines_with_any_function_from_either_side():
    def even(b, h, q_idx, kv_idx):
        return kv_idx % 2 == 0

    for mask in (masks.causal() & even, even & masks.causal()):
        assert drawn(mask, 3, 5) == ["x....", "x....", "x.x.."]
    for mask in (masks.causal() | even, even | masks.causal()):
        assert drawn(mask, 3, 5) == ["x.x.x", "xxx.x", "xxx.x"]


def test_a_mask_has_a_name():
    assert masks.causal().__name__ == "causal"
    assert (masks.causal() & masks.prefix(3)).__name__ == "causal_and_prefix"
    assert (~(masks.causal() | masks.sliding_window(2, 0))).__name__ == "not_causal_or_sliding_window"
    assert repr(masks.prefix(2)) == "<mask prefix>"


def test_every_mask_is_in_the_score_language():
    for mask, _ in DRAWINGS.values():
        assert trace(mask, "mask_mod", ("b", "h", "q", "k")).kind == "bool"


@pytest.mark.parametrize("mask", [masks.causal, lambda offset: masks.sliding_window(2, 1, offset)])
def test_an_offset_that_is_a_tensor_is_read_at_each_call(mask):
    offset = torch.tensor(1)
    moved, query, key = mask(offset), torch.randn(2, 3, 4), torch.randn(2, 7, 4)
    for number in (1, -2, 4):
        offset.fill_(number)
        assert drawn(moved, 3, 7) == drawn(mask(number), 3, 7)
        outputs = [pellucid.attention(query, key, key, mask_mod=m) for m in (moved, mask(number))]
        torch.testing.assert_close(*outputs)
    assert "tensor[][]" in repr(trace(moved, "mask_mod", ("b", "h", "q", "k")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.sliding_window(-1, 0), r"^left: a window reaches 0 or more keys, or None for all, got -1"),
        (lambda: masks.sliding_window(1, -2), r"^right: a window reaches 0 or more keys, or None for all, got -2"),
        (lambda: masks.neighborhood_2d(5, 7, 4), r"^kernel: an odd size of at most 5 is needed, got 4"),
        (lambda: masks.neighborhood_2d(5, 7, 7), r"^kernel: an odd size of at most 5 is needed, got 7"),
        (lambda: masks.neighborhood_2d(5, 7, -1), r"^kernel: an odd size of at most 5 is needed, got -1"),
        (lambda: masks.documents([0, 1]), r"^ids: an integer tensor of 1 or 2 dimensions is needed, got list"),
        (lambda: masks.documents(IDS, IDS.float()), r"^key_ids: .* got torch.float32 of shape \[6\]"),
        (lambda: masks.documents(IDS[None, None]), r"^ids: .* got torch.int64 of shape \[1, 1, 6\]"),
        (lambda: masks.documents(IDS == 0), r"^ids: an integer tensor .* got torch.bool of shape \[6\]"),
        (lambda: masks.documents(IDS, IDS == 0), r"^key_ids: an integer tensor .* got torch.bool of shape \[6\]"),
        (lambda: masks.key_lengths(IDS == 0), r"^lengths: an integer tensor .* got torch.bool of shape \[6\]"),
        (lambda: masks.prefix(IDS == 0), r"^length: an integer tensor .* got torch.bool of shape \[6\]"),
        (lambda: masks.key_lengths(torch.tensor(3)), r"^lengths: an integer tensor of 1 dim.* of shape \[\]"),
        (lambda: masks.causal() & 3, r"^&: a mask combines with a function of \(b, h, q_idx, kv_idx\), got int"),
        (lambda: torch.ones(3, 3) | masks.causal(), r"^\|: a mask combines with a function of .*, got Tensor"),
        (lambda: masks.prefix(torch.tensor([1.5])), r"^length: an integer tensor of 1 dim"),
        (lambda: masks.prefix(1.5), r"^length: a whole number is needed, got float 1.5"),
        (lambda: masks.prefix(True), r"^length: a whole number is needed, got bool True"),
        (lambda: masks.causal(1.5), r"^offset: a whole number is needed, got float 1.5"),
        (
            lambda: masks.causal(torch.tensor([1])),
            r"^offset: .* of no dimensions is needed, got torch.int64 of .* \[1\]",
        ),
        (lambda: masks.causal(torch.tensor(1.5)), r"^offset: .* of no dimensions is needed, got torch.float32 of"),
        (lambda: masks.sliding_window(2.0, 0), r"^left: a whole number is needed, got float 2.0"),
        (lambda: masks.sliding_window(2, 0, None), r"^offset: a whole number is needed, got NoneType None"),
        (lambda: masks.neighborhood_2d(0, 3, 1), r"^height: at least 1 is needed, got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_ids_that_are_too_few_are_noticed():
    query = torch.randn(7, 3)
    with pytest.raises(ValueError, match=r"captured tensor \[6\] is indexed by q_idx, of which there are 7"):
        pellucid.attention(query, query, query, mask_mod=masks.documents(IDS))
