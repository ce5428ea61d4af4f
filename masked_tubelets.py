"""Masks and targets of pre-training by masked tubelets: regions of tokens, what is hidden, what is to be predicted.

Source: "MAE-DFER" (ACM MM 2023). Shapes: B clips, T frames, N tokens in raster order (t, h, w), M regions, n tokens of
a region, D channels.
"""

import torch
from torch.nn import functional
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .configuration_common import require
from .configuration_lgi_former import count_masked_places

Grid = tuple[int, int, int] | list[int]


def partition_regions(tokens: torch.Tensor, token_grid: Grid, region_size: Grid) -> torch.Tensor:
    """Tokens in raster order (B, t * h * w, D) -> (B, M, n, D): raster order of regions, and inside each region."""
    (t, h, w), (rt, rh, rw) = token_grid, region_size
    # (B, t * h * w, D) -> (B, t / rt, rt, h / rh, rh, w / rw, rw, D) -> (B, t / rt, h / rh, w / rw, rt, rh, rw, D)
    grid = tokens.reshape(tokens.shape[0], t // rt, rt, h // rh, rh, w // rw, rw, tokens.shape[-1])
    grid = grid.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return grid.reshape(tokens.shape[0], -1, rt * rh * rw, tokens.shape[-1])


def merge_regions(regions: torch.Tensor, token_grid: Grid, region_size: Grid) -> torch.Tensor:
    """The inverse of `partition_regions`: (B, M, n, D) -> (B, t * h * w, D) in raster order."""
    (t, h, w), (rt, rh, rw) = token_grid, region_size
    # (B, M, n, D) -> (B, t / rt, h / rh, w / rw, rt, rh, rw, D) -> (B, t / rt, rt, h / rh, rh, w / rw, rw, D)
    grid = regions.reshape(regions.shape[0], t // rt, h // rh, w // rw, rt, rh, rw, regions.shape[-1])
    grid = grid.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return grid.reshape(regions.shape[0], t * h * w, regions.shape[-1])


def take_tokens(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens (B or 1, N, D) at index (B, K) -> (B, K, D)."""
    tokens = tokens.expand(index.shape[0], -1, -1)
    return torch.gather(tokens, 1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def stratified_tube_mask(
    token_grid: Grid,
    region_size: Grid,
    mask_ratio: float = 0.9,
    batch_size: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draws masks that leave every region the same number of visible tokens.

    The places of one tubelet are cut into windows of a region's height and width. Each window masks the same number of
    its places at random, and the mask of a place holds over the whole clip (a tube). With the whole grid as the
    region this is VideoMAE's plain tube mask.

    Returns:
        Boolean (batch_size, t * h * w) on the CPU, in raster order; True where masked.

    Raises:
        ValueError: the regions do not divide the grid, or the ratio is not in [0, 1).
    """
    (t, h, w), (rt, rh, rw) = token_grid, region_size
    divides = t % rt == 0 and h % rh == 0 and w % rw == 0
    require(divides, "region_size", list(region_size), f"does not divide the token grid {tuple(token_grid)}")
    require(0 <= mask_ratio < 1, "mask_ratio", mask_ratio, "must be at least 0 and less than 1")
    noise = torch.rand(batch_size, h // rh, w // rw, rh * rw, generator=generator)
    # The rank of a place in its window's random order decides, so that every window masks exactly the same number.
    masked = noise.argsort(dim=-1).argsort(dim=-1) < count_masked_places(region_size, mask_ratio)
    # (B, h / rh, w / rw, rh * rw) -> (B, h / rh, rh, w / rw, rw) -> (B, 1, h * w) -> (B, t * h * w)
    places = masked.unflatten(-1, (rh, rw)).permute(0, 1, 3, 2, 4).reshape(batch_size, 1, h * w)
    return places.repeat(1, t, 1).flatten(1)


def count_visible_tokens(bool_masked_pos: torch.Tensor, token_grid: Grid, region_size: Grid) -> int:
    """The number of visible tokens of every clip, checked to be the same in all regions of all clips.

    Raises:
        ValueError: the mask has another number of tokens than the grid, or unequal visible counts.
    """
    if bool_masked_pos.ndim != 2 or bool_masked_pos.shape[1] != token_grid[0] * token_grid[1] * token_grid[2]:
        raise ValueError(
            f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}; the token grid {tuple(token_grid)} takes "
            f"(clips, {token_grid[0] * token_grid[1] * token_grid[2]})."
        )
    # (B, N) -> (B, M, n, 1) -> (B, M)
    visible = partition_regions(~bool_masked_pos.bool().unsqueeze(-1), token_grid, region_size).sum(dim=(2, 3))
    expected = int(visible[0, 0])
    unequal = (visible != expected).any(dim=1)
    if unequal.any() or expected == 0:
        clip = int(unequal.int().argmax())
        raise ValueError(
            f"bool_masked_pos leaves the regions of clip {clip} {visible[clip].tolist()} visible tokens; every region "
            f"of every clip must keep the same number, at least one. Draw masks with stratified_tube_mask."
        )
    return expected * visible.shape[1]


def order_visible_tokens(
    bool_masked_pos: torch.Tensor, num_visible: int, token_grid: Grid, region_size: Grid
) -> torch.Tensor:
    """Raster indices (B, num_visible) of the visible tokens, region after region, in raster order inside a region."""
    num_tokens = bool_masked_pos.shape[1]
    region_tokens = region_size[0] * region_size[1] * region_size[2]
    num_regions = num_tokens // region_tokens
    regions = torch.arange(num_regions, device=bool_masked_pos.device).reshape(1, num_regions, 1, 1)
    # (1, M, n, 1) -> (1, N): the region of each token
    region_of_token = merge_regions(regions.expand(-1, -1, region_tokens, -1), token_grid, region_size).squeeze(-1)
    # Masked tokens sort behind all regions. The stable sort keeps raster order inside a region.
    rank = region_of_token + num_regions * bool_masked_pos.long()
    return rank.argsort(dim=1, stable=True)[:, :num_visible]


def cut_tubelets(frames: torch.Tensor, tubelet_size: int, patch_size: tuple[int, int]) -> torch.Tensor:
    """Frames (B, T, C, H, W) -> (B, N, tubelet_size, patch height * patch width, C), tokens in raster order."""
    batch_size, _, channels, _, _ = frames.shape
    # (B, T, C, H, W) -> (B, t, tubelet, C, h, patch, w, patch) -> (B, t, h, w, tubelet, patch, patch, C)
    grid = frames.unflatten(4, (-1, patch_size[1])).unflatten(3, (-1, patch_size[0])).unflatten(1, (-1, tubelet_size))
    grid = grid.permute(0, 1, 4, 6, 2, 5, 7, 3)
    return grid.reshape(batch_size, -1, tubelet_size, patch_size[0] * patch_size[1], channels)


def join_tubelets(tubelets: torch.Tensor, token_grid: Grid, patch_size: tuple[int, int]) -> torch.Tensor:
    """The inverse of `cut_tubelets`: (B, N, tubelet_size, patch height * patch width, C) -> frames (B, T, C, H, W)."""
    batch_size, _, tubelet_size, _, channels = tubelets.shape
    # (B, N, tubelet, patch * patch, C) -> (B, t, h, w, tubelet, patch, patch, C)
    # -> (B, t, tubelet, C, h, patch, w, patch)
    grid = tubelets.reshape(batch_size, *token_grid, tubelet_size, *patch_size, channels)
    grid = grid.permute(0, 1, 4, 7, 2, 5, 3, 6)
    return grid.flatten(6, 7).flatten(4, 5).flatten(1, 2)


def restore_colours(pixel_values: torch.Tensor) -> torch.Tensor:
    """Undoes the ImageNet normalisation of (B, T, 3, H, W) pixel values: colours in [0, 1]."""
    # (3,) -> (3, 1, 1), against (B, T, 3, H, W)
    mean = pixel_values.new_tensor(IMAGENET_DEFAULT_MEAN).reshape(3, 1, 1)
    std = pixel_values.new_tensor(IMAGENET_DEFAULT_STD).reshape(3, 1, 1)
    return pixel_values * std + mean


@torch.no_grad()
def reconstruction_targets(
    pixel_values: torch.Tensor,
    tubelet_size: int,
    patch_size: tuple[int, int],
    reconstruction_target: str = "appearance_and_motion",
    normalise: bool = True,
) -> torch.Tensor:
    """What masked pre-training predicts of every token.

    pixels (VideoMAE): the tubelet's colours. appearance_and_motion (MAE-DFER): the colours of its first frame, and the
    differences of its other frames to the first. `normalise` takes mean and standard deviation out of every tubelet
    and channel first.

    Returns:
        float32 (B, N, tubelet_size * patch height * patch width * C), a token's values in the order (frame, row,
        column, channel).
    """
    tubelets = _cut_colours(pixel_values, tubelet_size, patch_size)
    if normalise:
        mean, scale = _tubelet_statistics(tubelets)
        tubelets = (tubelets - mean) / scale
    if reconstruction_target == "appearance_and_motion":
        first = tubelets[:, :, :1]
        tubelets = torch.cat([first, tubelets[:, :, 1:] - first], dim=2)
    # (B, N, tubelet, patch * patch, C) -> (B, N, values)
    return tubelets.flatten(2)


@torch.no_grad()
def frames_from_targets(
    targets: torch.Tensor,
    pixel_values: torch.Tensor,
    tubelet_size: int,
    patch_size: tuple[int, int],
    reconstruction_target: str = "appearance_and_motion",
    normalise: bool = True,
) -> torch.Tensor:
    """The inverse of `reconstruction_targets`: the pictures that a token's values, or predictions of them, describe.

    Args:
        targets: (B, N, values) of all tokens, in raster order.
        pixel_values: (B, T, C, H, W), the clip itself: what `normalise` took out of a tubelet is put back from there.
        tubelet_size: frames of a tubelet.
        patch_size: (height, width) of a tubelet in pixels.
        reconstruction_target: as it was for the targets.
        normalise: likewise.

    Returns:
        float32 frames (B, T, C, H, W), colours in [0, 1] as far as the targets are true.
    """
    original = _cut_colours(pixel_values, tubelet_size, patch_size)
    tubelets = targets.float().reshape(original.shape)
    if reconstruction_target == "appearance_and_motion":
        first = tubelets[:, :, :1]
        tubelets = torch.cat([first, tubelets[:, :, 1:] + first], dim=2)
    if normalise:
        mean, scale = _tubelet_statistics(original)
        tubelets = tubelets * scale + mean
    height, width = pixel_values.shape[-2:]
    token_grid = (pixel_values.shape[1] // tubelet_size, height // patch_size[0], width // patch_size[1])
    return join_tubelets(tubelets, token_grid, patch_size)


def _cut_colours(pixel_values: torch.Tensor, tubelet_size: int, patch_size: tuple[int, int]) -> torch.Tensor:
    """(B, T, C, H, W) -> tubelets of colours in [0, 1], or of the values themselves where they are no colours."""
    frames = pixel_values.float()
    if frames.shape[2] == 3:
        frames = restore_colours(frames)
    return cut_tubelets(frames, tubelet_size, patch_size)


def _tubelet_statistics(tubelets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and divisor (B, N, 1, 1, C) of each tubelet and channel of (B, N, tubelet, patch * patch, C)."""
    std, mean = torch.std_mean(tubelets, dim=(2, 3), correction=1, keepdim=True)
    return mean, std + 1e-6


def reconstruction_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    tubelet_size: int,
    reconstruction_target: str = "appearance_and_motion",
    motion_loss_weight: float | None = None,
) -> dict[str, torch.Tensor]:
    """Mean squared errors of predictions, with appearance and motion apart.

    Args:
        logits: predictions (B, K, values) of the masked tokens.
        targets: (B, K, values) of the same tokens, from `reconstruction_targets`.
        tubelet_size: frames of a tubelet.
        reconstruction_target: what the targets are.
        motion_loss_weight: share of the motion loss, the rest is appearance's; None counts every value alike.

    Returns:
        "loss" and "appearance_loss", and "motion_loss" unless the target is "pixels": float32 scalars.
    """
    errors = functional.mse_loss(logits.float(), targets, reduction="none")
    if reconstruction_target == "pixels":
        return {"loss": errors.mean(), "appearance_loss": errors.mean()}
    frame_values = errors.shape[-1] // tubelet_size
    appearance, motion = errors[..., :frame_values].mean(), errors[..., frame_values:].mean()
    weight = motion_loss_weight
    loss = errors.mean() if weight is None else (1 - weight) * appearance + weight * motion
    return {"loss": loss, "appearance_loss": appearance, "motion_loss": motion}


__all__ = [
    "Grid",
    "count_visible_tokens",
    "cut_tubelets",
    "frames_from_targets",
    "join_tubelets",
    "merge_regions",
    "order_visible_tokens",
    "partition_regions",
    "reconstruction_losses",
    "reconstruction_targets",
    "restore_colours",
    "stratified_tube_mask",
    "take_tokens",
]
