"""Counting the operations of a forward pass."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def count_operations() -> FlopCounterMode:
    """PyTorch's counter (multiplications and additions apart) that also knows attention on a processor.

    PyTorch's own table lacks `_scaled_dot_product_flash_attention_for_cpu`, which then counts as nothing.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={attention: _attention_operations})


def _attention_operations(query: list[int], key: list[int], value: list[int], *others: Any, **shapes: Any) -> int:
    """Both products of attention, from the shapes of queries, keys and values."""
    return sdpa_flop_count(query, key, value)
