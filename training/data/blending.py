"""Mixup and cutmix: the clips of a batch, each with another one blended in.

Only the expression has a target between two clips. A blend of two faces has no box and no five points, so that faces
keep the labels of the clip that fills the larger part; this is why blending is off unless asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Blend:
    """What is blended into the clips of a batch."""

    partners: torch.Tensor  # int64 (B,): clip i gets a part of clip partners[i]
    share: float  # of the other clip in the sum or in the area, at most 1/2


def blend_clips(
    pixel_values: torch.Tensor, mixup_alpha: float, cutmix_alpha: float
) -> tuple[torch.Tensor, Blend | None]:
    """Draws by torch's own generator who is blended with whom, how, and how much.

    Args:
        pixel_values: (B, T, 3, H, W).
        mixup_alpha: of Beta(alpha, alpha), the share in mixup; 0: no mixup.
        cutmix_alpha: likewise in cutmix. Where both are given, half of the batches take each.

    Returns:
        The blended clips, and what was blended; the clips themselves and None where both are 0.
    """
    if not mixup_alpha and not cutmix_alpha:
        return pixel_values, None
    pastes = bool(torch.rand(()) < 0.5) if mixup_alpha and cutmix_alpha else bool(cutmix_alpha)
    alpha = cutmix_alpha if pastes else mixup_alpha
    drawn = float(torch.distributions.Beta(alpha, alpha).sample())
    partners = torch.randperm(len(pixel_values))
    others = pixel_values[partners.to(pixel_values.device)]
    share = min(drawn, 1.0 - drawn)
    if not pastes:
        return torch.lerp(pixel_values, others, share), Blend(partners, share)
    blended, share = paste_rectangle(pixel_values, others, share)
    return blended, Blend(partners, share)


def paste_rectangle(clips: torch.Tensor, others: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
    """Pastes one rectangle of the other clips, the same in all frames, at a random place.

    Args:
        clips: (B, T, 3, H, W).
        others: likewise.
        share: area of the rectangle / area of the frame; its sides have the frame's proportions.

    Returns:
        The clips, and the share after rounding to whole pixels.
    """
    height, width = clips.shape[-2:]
    rows, columns = round(height * math.sqrt(share)), round(width * math.sqrt(share))
    top, left = (int(torch.randint(room + 1, ())) for room in (height - rows, width - columns))
    pasted = clips.clone()
    place = (..., slice(top, top + rows), slice(left, left + columns))
    pasted[place] = others[place]
    return pasted, rows * columns / (height * width)
