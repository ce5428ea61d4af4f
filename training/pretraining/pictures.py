"""Pictures of what masked pre-training reconstructs: original, masked, reconstructed and difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.masked_tubelets import cut_tubelets, frames_from_targets, join_tubelets, restore_colours
from mtcae_dfer.training.evaluation.drawing import plain_text

ROWS = ("original", "masked", "reconstructed", "difference × 2")
MASK_COLOUR = 0.5
SHOWN_FRAMES = 8


@dataclass(frozen=True)
class Reconstruction:
    """Frames (B, T, 3, H, W) of some clips, colours in [0, 1]."""

    original: torch.Tensor
    masked: torch.Tensor  # hidden tokens are grey
    reconstructed: torch.Tensor  # hidden tokens are predicted, visible ones are the original's
    difference: torch.Tensor  # absolute, twice as bright


def reconstruct_frames(
    pixel_values: torch.Tensor,
    targets: torch.Tensor,
    predictions: torch.Tensor,
    bool_masked_pos: torch.Tensor,
    tubelet_size: int,
    patch_size: tuple[int, int],
    reconstruction_target: str,
    normalise: bool,
) -> Reconstruction:
    """Turns predictions of masked tokens into pictures.

    Args:
        pixel_values: (B, T, 3, H, W). Where targets are normalised, every tubelet's true mean and deviation are put
            back: the model was not asked for them.
        targets: (B, N, values) of all tokens.
        predictions: (B, K, values) of the masked tokens in raster order.
        bool_masked_pos: (B, N), True where masked.
        tubelet_size: frames of a tubelet.
        patch_size: (height, width) of a tubelet in pixels.
        reconstruction_target: what the targets are.
        normalise: whether they are normalised.
    """
    original = restore_colours(pixel_values.float())
    # True values of visible tokens, predictions of the masked ones: both run over clips, and a clip in raster order.
    filled = targets.clone()
    filled[bool_masked_pos] = predictions.to(filled.dtype).flatten(0, 1)
    described = (tubelet_size, patch_size, reconstruction_target, normalise)
    reconstructed = frames_from_targets(filled, pixel_values, *described).clamp(0, 1)
    tubelets = cut_tubelets(original, tubelet_size, patch_size)
    hidden = torch.where(bool_masked_pos[..., None, None, None], MASK_COLOUR, tubelets)
    height, width = original.shape[-2:]
    grid = (original.shape[1] // tubelet_size, height // patch_size[0], width // patch_size[1])
    difference = (2 * (reconstructed - original).abs()).clamp(0, 1)
    return Reconstruction(original, join_tubelets(hidden, grid, patch_size), reconstructed, difference)


def draw_reconstructions(reconstruction: Reconstruction, names: Sequence[str], title: str, png_path: Path) -> None:
    """Draws four rows for each clip, its frames side by side, as PNG."""
    # Figures of their own, not pyplot's: no display, no state shared with the caller.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.0 + 6.4 * len(names)), layout="constrained")
    figure.suptitle(plain_text(title))
    parts = figure.subfigures(len(names), 1, squeeze=False)[:, 0]
    for clip, (part, name) in enumerate(zip(parts, names, strict=True)):
        part.suptitle(plain_text(name), fontsize=10)
        axes = part.subplots(len(ROWS), 1)
        stages = (
            reconstruction.original,
            reconstruction.masked,
            reconstruction.reconstructed,
            reconstruction.difference,
        )
        for axis, row, frames in zip(axes, ROWS, stages, strict=True):
            shown = torch.linspace(0, frames.shape[1] - 1, min(frames.shape[1], SHOWN_FRAMES)).round().long()
            # (B, T, 3, H, W) -> (3, H, shown * W) -> (H, shown * W, 3): some frames side by side
            axis.imshow(torch.cat(list(frames[clip, shown].cpu()), dim=-1).permute(1, 2, 0).numpy())
            axis.set_ylabel(row)
            axis.set(xticks=[], yticks=[])
    with replacing(png_path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
