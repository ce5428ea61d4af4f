"""Drop path (stochastic depth): training leaves out residual updates of an encoder at random, clip by clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.videomae.modeling_videomae import VideoMAELayer

from mtcae_dfer.modeling_layers import Residual, keep_mask
from mtcae_dfer.training.optimisation import encoder_blocks


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Gives the blocks of an encoder a drop path that grows linearly from 0 in the first to `rate` in the last.

    Raises:
        ValueError: the encoder's blocks have no residual updates that this knows.
    """
    blocks = encoder_blocks(encoder)
    if not blocks:
        raise ValueError(f"--drop_path {rate}: a {type(encoder).__name__} has no transformer blocks; leave it at 0")
    for number, block in enumerate(blocks):
        share = rate * number / max(len(blocks) - 1, 1)
        residuals = [module for module in block.modules() if isinstance(module, Residual)]
        for residual in residuals:
            residual.keep = 1.0 - share
        if isinstance(block, VideoMAELayer):
            _hook_videomae_layer(block, share)
        elif not residuals:
            raise ValueError(f"--drop_path {rate}: a {type(block).__name__} has no drop path; leave it at 0")
    if hasattr(encoder.config, "drop_path_rate"):
        encoder.config.drop_path_rate = rate


def _hook_videomae_layer(layer: VideoMAELayer, share: float) -> None:
    def drop_attention(module: nn.Module, arguments: Any, update: torch.Tensor) -> torch.Tensor:
        return update * keep_mask(update, 1.0 - share) if layer.training and share else update

    def drop_mlp(module: nn.Module, arguments: Any, tokens: torch.Tensor) -> torch.Tensor:
        # This module adds the residual itself: its second argument.
        residual = arguments[1]
        return residual + (tokens - residual) * keep_mask(tokens, 1.0 - share) if layer.training and share else tokens

    layer.attention.register_forward_hook(drop_attention)
    layer.output.register_forward_hook(drop_mlp)
