"""Operations are counted wherever attention runs, by hand."""

import pytest
import torch
from torch.nn import functional

from mtcae_dfer.experiments.operations import count_operations


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("gradients", [False, True])
def test_attention_counts_as_its_two_products(device: str, gradients: bool) -> None:
    batch, heads, queries, keys, width = 2, 3, 20, 30, 8
    query = torch.zeros(batch, heads, queries, width, device=device)
    key = torch.zeros(batch, heads, keys, width, device=device)
    with torch.set_grad_enabled(gradients), count_operations() as counter:
        functional.scaled_dot_product_attention(query, key, key)
    assert counter.get_total_flops() == 2 * (2 * batch * heads * queries * keys * width)
