"""Models for a run: from a preset, from a pre-trained encoder, or from a checkpoint; and a data-dependent start."""

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.arguments import ModelArguments, available_presets

logger = logging.get_logger(__name__)


def build_model(arguments: ModelArguments, classes: list[str]) -> MTCAEForMultiTaskVideo:
    """The model that `--model` names, with one class per expression of the data set.

    A preset gives a fresh model; a checkpoint of MTCAE is trained on, with a fresh expression head if its classes
    differ; a checkpoint of VideoMAE becomes the encoder under fresh decoders.

    Raises:
        ValueError: the name is neither a preset nor a checkpoint of one of these.
    """
    overrides = _config_overrides(arguments, classes)
    if arguments.model in available_presets():
        model = MTCAEForMultiTaskVideo(MTCAEConfig(**overrides))
    else:
        model = _load_checkpoint(arguments.model, overrides)
    if arguments.freeze_encoder:
        model.freeze_encoder()
    return model


def _config_overrides(arguments: ModelArguments, classes: list[str]) -> dict[str, Any]:
    named = {name: getattr(arguments, name) for name in ("structure", "decoder_type", "pooling")}
    chosen = {name: value for name, value in named.items() if value is not None}
    return {**arguments.model_config, **chosen, "id2label": dict(enumerate(classes))}


def _load_checkpoint(name: str, overrides: dict[str, Any]) -> MTCAEForMultiTaskVideo:
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        presets = ", ".join(available_presets())
        raise ValueError(
            f"--model {name}: neither a preset ({presets}) nor a readable checkpoint folder or Hub id"
        ) from error
    if config.model_type != "mtcae":
        return MTCAEForMultiTaskVideo.from_encoder_pretrained(name, **overrides)
    fixed = sorted(set(overrides) - {"id2label"})
    if fixed:
        raise ValueError(f"--model {name}: a trained model's {', '.join(fixed)} cannot be changed; leave them out")
    if list(config.id2label.values()) != list(overrides["id2label"].values()):
        logger.warning(f"{name} knows other expressions than the data set: its expression head starts afresh.")
    return MTCAEForMultiTaskVideo.from_pretrained(name, id2label=overrides["id2label"], ignore_mismatched_sizes=True)


@torch.no_grad()
def whiten_patch_embedding(
    model: MTCAEForMultiTaskVideo, pixel_values: torch.Tensor, temporal_orders: int = 3, floor: float = 0.01
) -> None:
    """Starts the patch embedding of a fresh encoder from the principal components of training tubelets.

    A random embedding is dominated by a tubelet's mean colour, and a small model needs many steps to look past it. Here
    every channel starts with the same variance: the first share of the channels sees the tubelet's mean over time, the
    others its cosine components over time, which are blind to everything that does not move.

    Args:
        model: its encoder embeds by a convolution over tubelets, as VideoMAE's does.
        pixel_values: (B, T, 3, H, W) normalised training clips, no labels needed.
        temporal_orders: number of cosine components over the frames of a tubelet, less than its frames.
        floor: components weaker than this share of the strongest are not blown up to full variance.

    Raises:
        ValueError: the encoder has no such embedding.
    """
    projection = _tubelet_projection(model.encoder)
    pixels = _cut_tubelets(pixel_values, model.config)  # (tubelets, 3, time, patch pixels)
    orders = min(temporal_orders, pixels.shape[2] - 1)
    filters = [
        _whitening_filters(pixels, order, channels, floor)
        for order, channels in enumerate(_share_channels(projection.out_channels, orders))
    ]
    # A random rotation spreads every component over all channels, as the attention heads expect.
    rotation = torch.linalg.qr(torch.randn(projection.out_channels, projection.out_channels)).Q
    weight = rotation @ torch.cat(filters).flatten(1)
    projection.weight.copy_(weight.view_as(projection.weight))
    projection.bias.copy_(-(weight @ pixels.flatten(1).mean(dim=0)))


def _tubelet_projection(encoder: nn.Module) -> nn.Conv3d:
    projections = [module for module in encoder.modules() if isinstance(module, nn.Conv3d)]
    if len(projections) != 1:
        raise ValueError(f"whiten_patch_embedding: {type(encoder).__name__} has no single convolution over tubelets")
    return projections[0]


def _cut_tubelets(pixel_values: torch.Tensor, config: MTCAEConfig) -> torch.Tensor:
    """(B, T, 3, H, W) -> (B * t * h * w, 3, tubelet frames, patch pixels)."""
    tubelets, rows, columns = config.token_grid
    height, width = config.patch_size
    shape = (len(pixel_values), tubelets, config.tubelet_size, 3, rows, height, columns, width)
    # (B, t, frames, 3, h, height, w, width) -> (B, t, h, w, 3, frames, height, width)
    cut = pixel_values.reshape(shape).permute(0, 1, 4, 6, 3, 2, 5, 7)
    return cut.flatten(6, 7).flatten(0, 3)


def _share_channels(channels: int, orders: int) -> list[int]:
    """Two shares for the mean over time, one for each cosine component."""
    share = channels // (orders + 2)
    return [channels - share * orders] + [share] * orders


def _whitening_filters(pixels: torch.Tensor, order: int, channels: int, floor: float) -> torch.Tensor:
    """Filters (channels, 3, time, patch pixels) of unit output variance for one cosine component over time."""
    frames = pixels.shape[2]
    phases = math.pi * order * (torch.arange(frames) + 0.5) / frames
    wave = torch.cos(phases) * (math.sqrt(2 / frames) if order else 1 / frames)
    component = torch.einsum("nctp,t->ncp", pixels, wave).flatten(1)
    centred = component - component.mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    # eigh sorts upwards: the strongest directions stand last
    deviations = variances[-channels:].flip(0).clamp(min=1e-8).sqrt()
    scaled = directions[:, -channels:].flip(1) / (deviations + floor * deviations[0])
    # (3 * patch pixels, channels) -> (channels, 3, 1, patch pixels) x (time, 1)
    return scaled.T.reshape(channels, 3, 1, -1) * wave[:, None]
