"""Drop path (stochastic depth): training leaves out residual updates of an encoder at random, entry by entry.

An entry is a clip; in an image model over frames, a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.models.videomae.modeling_videomae import VideoMAELayer

from mtcae_dfer.modeling_layers import Residual, keep_mask
from mtcae_dfer.training.optimisation import encoder_blocks


class DropPath(nn.Module):
    """Leaves out a share of the residual updates, where transformers' own modules have a place for it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, update: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> the same."""
        return update * keep_mask(update, 1.0 - self.share) if self.training and self.share else update


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Gives the blocks of an encoder a drop path that grows linearly from 0 in the first to `rate` in the last.

    The updates of attention and MLP fall one by one where a block has a place for it, else the block's whole update.

    Raises:
        ValueError: the encoder has no blocks.
    """
    blocks = encoder_blocks(encoder)
    if not blocks:
        raise ValueError(f"--drop_path {rate}: a {type(encoder).__name__} has no row of blocks; leave it at 0")
    for number, block in enumerate(blocks):
        share = rate * number / max(len(blocks) - 1, 1)
        residuals = [module for module in block.modules() if isinstance(module, Residual)]
        places = [module for module in block.modules() if isinstance(getattr(module, "drop_path", None), nn.Module)]
        for residual in residuals:
            residual.keep = 1.0 - share
        for place in places:
            place.drop_path = DropPath(share)
        if isinstance(block, VideoMAELayer):
            _hook_videomae_layer(block, share)
        elif not residuals and not places:
            # What adds an update to its input: the block itself, or the layers of a stage.
            layers = getattr(block, "layers", None)
            for unit in layers if isinstance(layers, nn.ModuleList | nn.Sequential) else [block]:
                _hook_unit(unit, share)
        if residuals and hasattr(encoder.config, "drop_path_rate"):
            encoder.config.drop_path_rate = rate


def _hook_unit(unit: nn.Module, share: float) -> None:
    def drop(module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> Any:
        before = arguments[0] if arguments else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        if not unit.training or not share or before.shape != after.shape:  # a step to another size adds to nothing
            return output
        dropped = before + (after - before) * keep_mask(after, 1.0 - share)
        return (dropped, *output[1:]) if isinstance(output, tuple) else dropped

    unit.register_forward_hook(drop, with_kwargs=True)


def _hook_videomae_layer(layer: VideoMAELayer, share: float) -> None:
    def drop_attention(module: nn.Module, arguments: Any, update: torch.Tensor) -> torch.Tensor:
        return update * keep_mask(update, 1.0 - share) if layer.training and share else update

    def drop_mlp(module: nn.Module, arguments: Any, tokens: torch.Tensor) -> torch.Tensor:
        # This module adds the residual itself: its second argument.
        residual = arguments[1]
        return residual + (tokens - residual) * keep_mask(tokens, 1.0 - share) if layer.training and share else tokens

    layer.attention.register_forward_hook(drop_attention)
    layer.output.register_forward_hook(drop_mlp)
