"""Counting the operations of a forward pass: one counter for comparisons and benchmarks."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


@contextmanager
def count_operations() -> Iterator[FlopCounterMode]:
    """PyTorch's counter, of which `get_total_flops` counts multiplications and additions apart, with nothing hidden.

    Fused operations hide their products from it: oneDNN's LSTM and torch's own transformer layer, which are taken apart
    here, and `_scaled_dot_product_flash_attention_for_cpu`, which PyTorch's table lacks.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration")  # told by the flags on machines without it
            with (
                torch.backends.mkldnn.flags(enabled=False),
                FlopCounterMode(display=False, custom_mapping={attention: _attention_operations}) as counter,
            ):
                yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layers)


def _attention_operations(query: list[int], key: list[int], value: list[int], *others: Any, **shapes: Any) -> int:
    """Both products of attention, from the shapes of queries, keys and values."""
    return sdpa_flop_count(query, key, value)
