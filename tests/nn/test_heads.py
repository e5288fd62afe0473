import pytest
import torch

from pellucid.nn.heads import HeadNorm, HeadSizes, merge_heads, split_heads


@pytest.mark.parametrize("batch", [(), (2,)])
def test_heads_are_neighbouring_columns_and_merge_back(batch):
    x = torch.randn(*batch, 7, 15)
    heads = split_heads(x, 3, 5)
    assert heads.shape == (*batch, 3, 7, 5)
    assert torch.equal(heads[..., 1, :, :], x[..., 5:10])
    assert heads.data_ptr() == x.data_ptr()
    assert torch.equal(merge_heads(heads), x)


def test_tokens_that_do_not_lie_side_by_side_split_too():
    x = torch.randn(15, 7).T
    assert torch.equal(split_heads(x, 3, 5)[2], x[:, 10:])


def test_sizes_fill_in_their_defaults():
    assert HeadSizes.resolve(12, 6, None, None, None) == HeadSizes(12, 6, kv_heads=6, head_dim=2, context_dim=12)
    assert HeadSizes.resolve(12, 5, 1, 7, 11) == HeadSizes(12, 5, kv_heads=1, head_dim=7, context_dim=11)


def test_a_normalised_head_has_root_mean_square_1_and_its_own_dtype():
    norm = HeadNorm(5)
    x = 3 * torch.randn(2, 7, 5)
    torch.testing.assert_close(norm(x).square().mean(dim=-1), torch.ones(2, 7))
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert not norm(torch.zeros(5)).any()
