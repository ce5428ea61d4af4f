"""Layers and small functions that several models of this repository are made of, each written once.

Shapes: B clips, N tokens in raster order (t, h, w), D channels.
"""

import torch
from torch import nn


class ZeroStartLinear(nn.Linear):
    """A dense layer whose fresh weights are zero, set by the model's `_init_weights`.

    It is a class of its own because transformers asks remote code only to initialise modules that own parameters.
    """


def residual_dense(input_size: int, output_size: int, zero_start: bool) -> nn.Linear:
    """The dense layer whose output is added to the tokens; a `ZeroStartLinear` adds nothing before it is trained."""
    return (ZeroStartLinear if zero_start else nn.Linear)(input_size, output_size)


def cell_centres(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Centres (x, y) of a grid's cells in raster order, float32 (rows * columns, 2), in cells from the upper left."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    # 2 x (rows, columns) -> (rows, columns, 2) -> (rows * columns, 2)
    return torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5


def all_alike_without_a_person(logits: torch.Tensor, person_found: torch.Tensor | None) -> torch.Tensor:
    """Scores (B, K) that prefer no class where `person_found` (B,), of the processor, is False: nobody is there."""
    return logits if person_found is None else torch.where(person_found[:, None], logits, torch.zeros_like(logits))


__all__ = ["ZeroStartLinear", "all_alike_without_a_person", "cell_centres", "residual_dense"]
