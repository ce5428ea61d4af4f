"""LGI-Former, the encoder of MAE-DFER: local and global attention by way of representative tokens; its classifier and
its masked pre-training.

Source: "MAE-DFER: Efficient Masked Autoencoder for Self-supervised Dynamic Facial Expression Recognition" (ACM MM
2023). Shapes: B clips, T frames, N tokens of a clip, M regions, n tokens of a region, D channels. Tokens are in raster
order (t, h, w) outside the blocks; inside they stand region after region, each behind its representative token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.videomae.modeling_videomae import eager_attention_forward
from transformers.utils import ModelOutput
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_lgi_former import (
    LGIFormerConfig,
    as_height_and_width,
    compute_token_grid,
    count_masked_places,
    require,
)
from .modeling_layers import all_alike_without_a_person
from .saved_folders import SavesWithProcessor
from .weight_files import CheckedPreTrainedModel

Grid = tuple[int, int, int] | list[int]


@dataclass
class LGIFormerModelOutput(ModelOutput):
    """Output of `LGIFormerModel`.

    Attributes:
        last_hidden_state: (B, N, D) local tokens in raster order (t, h, w); the visible ones where a mask is given;
            None where only the representative tokens were asked for.
        representative_tokens: (B, M, D), one per region, in raster order of the regions.
        hidden_states: (layers + 1) x (B, N, D) local tokens in raster order, before the final norm.
        attentions: within the regions, layers x (B * M, heads, 1 + n, 1 + n); the representative token comes first.
        representative_attentions: among representative tokens, layers x (B, heads, M, M); recorded with
            `output_representative_attentions=True`.
        interaction_attentions: of local tokens, region after region, on representative tokens, layers x
            (B, heads, N, M); recorded with `output_interaction_attentions=True`.
    """

    last_hidden_state: torch.Tensor | None = None
    representative_tokens: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    representative_attentions: tuple[torch.Tensor, ...] | None = None
    interaction_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class LGIFormerForPreTrainingOutput(ModelOutput):
    """Output of `LGIFormerForPreTraining`.

    Attributes:
        loss: mean squared error over masked tokens, scalar.
        appearance_loss: the same over the first frame of every tubelet; over all frames for the target "pixels".
        motion_loss: the same over the frame differences; None for the target "pixels".
        logits: (B, masked tokens, values of a token) predictions in raster order of the masked tokens; the values of
            a token run over (frame of the tubelet, row, column, channel).
        hidden_states: the encoder's, (layers + 1) x (B, visible tokens, D).
        attentions: the encoder's within the regions.
    """

    loss: torch.Tensor | None = None
    appearance_loss: torch.Tensor | None = None
    motion_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


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


def sinusoid_positions(num_positions: int, width: int) -> torch.Tensor:
    """float32 (1, num_positions, width): sine on even channels and cosine on odd, over the flat raster index."""
    # Always on the CPU: a model may be built on the meta device, and its table is filled afterwards.
    positions = torch.arange(num_positions, dtype=torch.float64, device="cpu").unsqueeze(1)
    channels = torch.arange(width, device="cpu")
    angles = positions / 10000 ** (2 * (channels // 2) / width)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float().unsqueeze(0)


class LGIFormerPositions(nn.Module):
    """The fixed position table (1, N, D). It is computed, so it is no part of a checkpoint."""

    def __init__(self, num_positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(1, num_positions, width), persistent=False)

    def forward(self) -> torch.Tensor:
        """(1, N, D)."""
        return self.table


def check_clip_size(pixel_values: torch.Tensor, expected: tuple[int, int, int, int]) -> None:
    """Raises a `ValueError` unless the clips have the (frames, channels, height, width) that a model takes."""
    if pixel_values.ndim != 5 or tuple(pixel_values.shape[1:]) != expected:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; this model takes (clips, {expected[0]} frames, "
            f"{expected[1]} channels, {expected[2]}, {expected[3]})."
        )


class LGIFormerEmbedding(nn.Module):
    """One token per tubelet of the clip, plus its position."""

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.num_frames = config.num_frames
        self.image_size = as_height_and_width(config.image_size)
        kernel = (config.tubelet_size, *as_height_and_width(config.patch_size))
        self.projection = nn.Conv3d(config.num_channels, config.hidden_size, kernel_size=kernel, stride=kernel)
        self.positions = LGIFormerPositions(math.prod(compute_token_grid(config)), config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> (B, N, D)."""
        check_clip_size(pixel_values, (self.num_frames, self.num_channels, *self.image_size))
        # (B, T, C, H, W) -> (B, C, T, H, W) -> (B, D, t, h, w) -> (B, N, D)
        tokens = self.projection(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)
        return self.dropout(tokens + self.positions())


class LGIFormerAttention(nn.Module):
    """Multi-head attention of a query sequence on a context; biases on queries and values, none on keys."""

    def __init__(self, config: LGIFormerConfig, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def _split_heads(self, tokens: torch.Tensor) -> torch.Tensor:
        # (B, N, heads * head_dim) -> (B, heads, N, head_dim)
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, query: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Query (B, N, D), context (B, K, D) -> attended (B, N, D) and weights (B, heads, N, K) where eager."""
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self,
            self._split_heads(self.query(query)),
            self._split_heads(self.key(context)),
            self._split_heads(self.value(context)),
            None,
            is_causal=self.is_causal,
            scaling=self.scaling,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
        )
        # (B, N, heads, head_dim) -> (B, N, heads * head_dim)
        return self.output(attended.flatten(-2)), weights


class LGIFormerMLP(nn.Module):
    """Two dense layers with an activation between, applied to every token."""

    def __init__(self, config: LGIFormerConfig, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense_in = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dense_out = nn.Linear(intermediate_size, hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.dense_out(self.activation(self.dense_in(tokens)))


class LGIFormerResidual(nn.Module):
    """Dropout and drop path on a residual update. A drop falls on a whole entry of the first axis."""

    def __init__(self, dropout: float, drop_path_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.keep = 1.0 - drop_path_rate

    def forward(self, update: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D): kept entries grow so that the expected update stays the same."""
        update = self.dropout(update)
        if not self.training or self.keep == 1.0:
            return update
        kept = torch.rand(update.shape[0], 1, 1, device=update.device) < self.keep
        return update * (kept.to(update.dtype) / self.keep)


class LGIFormerLayer(GradientCheckpointingLayer):
    """One LGI block: attention inside each region, among the regions, and from local tokens to all regions.

    Every update is residual and starts with a norm. S: representative tokens, L: local tokens.

    S, L ─── within a region ───┬── S ─── among representatives ─── S ─┬─────┐
                                │                                      │     ├─── MLP ─── S, L
                                └── L ─── on all representatives ──────┴─ L ─┘
    """

    def __init__(self, config: LGIFormerConfig, drop_path_rate: float) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.norm_region = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.region_attention = LGIFormerAttention(config, size, heads)
        self.norm_representatives = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.representative_attention = LGIFormerAttention(config, size, heads)
        self.norm_interaction_query = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.norm_interaction_context = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.interaction_attention = LGIFormerAttention(config, size, heads)
        self.norm_mlp = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = LGIFormerMLP(config, size, config.intermediate_size)
        self.residual = LGIFormerResidual(config.hidden_dropout_prob, drop_path_rate)

    def forward(self, tokens: torch.Tensor, representatives_only: bool = False) -> torch.Tensor:
        """Regions behind their representatives, (B, M, 1 + n, D) -> (B, M, 1 + n, D).

        With `representatives_only` the result is (B, M, 1, D), the same numbers at a fraction of the work: nothing of
        the local tokens but their keys and values reaches the representatives of this block.
        """
        tokens = self._attend_within_regions(tokens, representatives_only)
        representatives = self._attend_among_representatives(tokens[:, :, 0])
        updated = [representatives.unsqueeze(2)]
        if not representatives_only:
            updated.append(self._attend_to_representatives(tokens[:, :, 1:], representatives))
        return self._transform(torch.cat(updated, dim=2))

    def _attend_within_regions(self, tokens: torch.Tensor, representatives_only: bool) -> torch.Tensor:
        # (B, M, 1 + n, D) -> (B * M, 1 + n, D): regions are independent here, and a drop path falls on a region
        regions = tokens.flatten(0, 1)
        normed = self.norm_region(regions)
        num_queries = 1 if representatives_only else regions.shape[1]
        attended, _ = self.region_attention(normed[:, :num_queries], normed)
        return (regions[:, :num_queries] + self.residual(attended)).unflatten(0, tokens.shape[:2])

    def _attend_among_representatives(self, representatives: torch.Tensor) -> torch.Tensor:
        # (B, M, D): here and in the next step a drop path falls on a clip
        normed = self.norm_representatives(representatives)
        attended, _ = self.representative_attention(normed, normed)
        return representatives + self.residual(attended)

    def _attend_to_representatives(self, local: torch.Tensor, representatives: torch.Tensor) -> torch.Tensor:
        # (B, M, n, D) -> (B, M * n, D): every local token reads the representatives of all regions
        query = self.norm_interaction_query(local).flatten(1, 2)
        attended, _ = self.interaction_attention(query, self.norm_interaction_context(representatives))
        return local + self.residual(attended).unflatten(1, local.shape[1:3])

    def _transform(self, tokens: torch.Tensor) -> torch.Tensor:
        # (B, M, 1 + n, D) -> (B * M, 1 + n, D), and back
        regions = tokens.flatten(0, 1)
        return (regions + self.residual(self.mlp(self.norm_mlp(regions)))).unflatten(0, tokens.shape[:2])


class LGIFormerPlainLayer(GradientCheckpointingLayer):
    """A plain transformer block: joint self-attention, then an MLP. The pre-training decoder is made of them."""

    def __init__(
        self,
        config: LGIFormerConfig,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = LGIFormerAttention(config, hidden_size, num_heads)
        self.norm_mlp = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = LGIFormerMLP(config, hidden_size, intermediate_size)
        self.residual = LGIFormerResidual(config.hidden_dropout_prob, drop_path_rate)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        normed = self.norm_attention(tokens)
        attended, _ = self.attention(normed, normed)
        tokens = tokens + self.residual(attended)
        return tokens + self.residual(self.mlp(self.norm_mlp(tokens)))


class LGIFormerPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config_class = LGIFormerConfig
    base_model_prefix = "lgi_former"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LGIFormerEmbedding", "LGIFormerLayer", "LGIFormerPlainLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": LGIFormerLayer,
        "attentions": OutputRecorder(LGIFormerAttention, index=1, layer_name="region_attention"),
        "representative_attentions": OutputRecorder(LGIFormerAttention, index=1, layer_name="representative_attention"),
        "interaction_attentions": OutputRecorder(LGIFormerAttention, index=1, layer_name="interaction_attention"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        bound = std if self.config.xavier_init else 2 * std
        if isinstance(module, LGIFormerPositions):
            init.copy_(module.table, sinusoid_positions(*module.table.shape[1:]))
        elif isinstance(module, LGIFormerClassifier):
            init.normal_(module.weight, std=self.config.classifier_initializer_range)
        elif isinstance(module, nn.Linear) and self.config.xavier_init:
            init.xavier_uniform_(module.weight)
        elif isinstance(module, LGIFormerModel):
            init.trunc_normal_(module.representative_tokens, std=std, a=-bound, b=bound)
        elif isinstance(module, LGIFormerForPreTraining):
            init.trunc_normal_(module.mask_token, std=std, a=-bound, b=bound)


class LGIFormerModel(LGIFormerPreTrainedModel):
    """The encoder: local tokens in raster order, and one representative token per region.

    Each region's representative token is a vector of its own, which serves as its position too.
    """

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config)
        self.embedding = LGIFormerEmbedding(config)
        self.representative_tokens = nn.Parameter(torch.empty(config.num_regions, config.hidden_size))
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * depth / last for depth in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList([LGIFormerLayer(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else nn.Identity()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.embedding.projection

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        representatives_only: bool = False,
        **kwargs: Any,
    ) -> LGIFormerModelOutput:
        """Encodes clips, or the visible tokens of masked clips.

        Args:
            pixel_values: (B, T, C, H, W).
            bool_masked_pos: boolean (B, N) in raster order, True where masked; every region keeps the same number of
                visible tokens.
            representatives_only: skips the work of the last block that only its local tokens need; their output is
                then None. Without effect where hidden states are asked for.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`).

        Raises:
            ValueError: the clip has another size than the model, or the mask's regions keep unequal counts.
        """
        records_hidden_states = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        representatives_only = representatives_only and not records_hidden_states
        order = None if bool_masked_pos is None else self.order_visible_tokens(bool_masked_pos)
        regions = self._enter_regions(self.embedding(pixel_values), order)
        outputs = self._run_layers(regions, representatives_only, **(kwargs | {"return_dict": True}))
        regions = outputs.last_hidden_state
        outputs.representative_tokens = regions[:, :, 0]
        outputs.last_hidden_state = None if representatives_only else self.norm(self._leave_regions(regions, order))
        if outputs.hidden_states is not None:
            outputs.hidden_states = tuple(
                None if state is None else self._leave_regions(state, order) for state in outputs.hidden_states
            )
        return outputs

    def order_visible_tokens(self, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        """Raster indices (B, visible tokens) of the visible tokens, region after region.

        Raises:
            ValueError: regions keep unequal counts of visible tokens.
        """
        grid, region = self.config.token_grid, self.config.region_size
        # A compiled graph cannot wait for the count of a mask; there it is the configuration's.
        compiling = torch.compiler.is_compiling()
        visible = self.config.num_visible_tokens if compiling else count_visible_tokens(bool_masked_pos, grid, region)
        return order_visible_tokens(bool_masked_pos, visible, grid, region)

    def _enter_regions(self, tokens: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
        # raster (B, N, D) -> (B, M, n, D) -> behind the representatives (B, M, 1 + n, D)
        config = self.config
        if order is None:
            local = partition_regions(tokens, config.token_grid, config.region_size)
        else:
            local = take_tokens(tokens, order).unflatten(1, (config.num_regions, -1))
        representatives = self.representative_tokens.to(local.dtype).expand(local.shape[0], -1, -1).unsqueeze(2)
        return torch.cat([representatives, local], dim=2)

    def _leave_regions(self, regions: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
        # (B, M, 1 + n, D) -> local tokens (B, M, n, D) -> raster (B, N, D)
        local = regions[:, :, 1:]
        if order is None:
            return merge_regions(local, self.config.token_grid, self.config.region_size)
        return take_tokens(local.flatten(1, 2), order.argsort(dim=1))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def _run_layers(self, regions: torch.Tensor, representatives_only: bool, **kwargs: Any) -> LGIFormerModelOutput:
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            regions = layer(regions, representatives_only and depth == last)
        return LGIFormerModelOutput(last_hidden_state=regions)


class LGIFormerClassifier(nn.Linear):
    """A dense layer whose fresh weights are so small that all classes start alike."""


class LGIFormerForVideoClassification(SavesWithProcessor, LGIFormerPreTrainedModel):
    """MAE-DFER's classifier: the mean of the representative tokens, a norm, a dense layer."""

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config.adapted(final_norm=False, xavier_init=False))
        self.lgi_former = LGIFormerModel(self.config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = LGIFormerClassifier(config.hidden_size, config.num_labels)
        self.post_init()
        self._freeze_unused_weights()

    def _freeze_unused_weights(self) -> None:
        """The last block's local tokens reach no representative token: what updates them never gets a gradient.

        Their weights are kept for the checkpoint's sake; data-parallel training needs to know that they stay as they
        are.
        """
        last = self.lgi_former.layers[-1]
        for module in (last.norm_interaction_query, last.norm_interaction_context, last.interaction_attention):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "LGIFormerForVideoClassification":
        """As in torch, except that weights without any use stay frozen."""
        super().train(mode)
        # Loading a checkpoint replaces the parameters by ones that ask for a gradient, and ends in evaluation mode.
        self._freeze_unused_weights()
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        person_found: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Scores of the classes and, given labels, their cross-entropy.

        Args:
            pixel_values: (B, T, C, H, W).
            labels: (B,) class ids, or (B, K) class probabilities.
            person_found: (B,) boolean, of a processor that crops to the face: where it is False, all classes have the
                same score.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`).
        """
        encoded = self.lgi_former(pixel_values, representatives_only=True, **kwargs)
        # (B, M, D) -> (B, D) -> (B, K)
        logits = self.classifier(self.fc_norm(encoded.representative_tokens.mean(dim=1)))
        return ImageClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits.float(), labels),
            logits=all_alike_without_a_person(logits, person_found),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class LGIFormerForPreTraining(LGIFormerPreTrainedModel):
    """Masked autoencoder: the encoder sees the visible tokens, a small decoder predicts the masked ones."""

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config.adapted(final_norm=True, xavier_init=True))
        has_motion = config.reconstruction_target == "appearance_and_motion"
        rule = "the target 'appearance_and_motion' needs 2 frames in a tubelet at least"
        require(config.tubelet_size > 1 or not has_motion, "tubelet_size", config.tubelet_size, rule)
        size, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.lgi_former = LGIFormerModel(self.config)
        self.encoder_to_decoder = nn.Linear(config.hidden_size, size, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size))
        self.decoder_positions = LGIFormerPositions(config.num_tokens, size)
        self.decoder_layers = nn.ModuleList(
            LGIFormerPlainLayer(self.config, size, heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.decoder_head = nn.Linear(size, config.num_token_values)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor, **kwargs: Any
    ) -> LGIFormerForPreTrainingOutput:
        """Predicts the masked tokens' targets and measures the mean squared error.

        Args:
            pixel_values: (B, T, C, H, W), normalised with the ImageNet mean and standard deviation.
            bool_masked_pos: boolean (B, N) in raster order, True where masked, from `stratified_tube_mask`.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`).

        Raises:
            ValueError: the clip has another size than the model, or the mask's regions keep unequal counts.
        """
        encoded = self.lgi_former(pixel_values, bool_masked_pos, **kwargs)
        num_visible = encoded.last_hidden_state.shape[1]
        # Stable: visible tokens come first, both groups in raster order.
        raster_order = bool_masked_pos.long().argsort(dim=1, stable=True)
        visible, masked = raster_order[:, :num_visible], raster_order[:, num_visible:]
        require(masked.shape[1] > 0, "bool_masked_pos", tuple(bool_masked_pos.shape), "must mask some tokens")
        logits = self._decode(self._order_for_decoder(encoded.last_hidden_state, bool_masked_pos), visible, masked)
        losses = self.measure_losses(logits, take_tokens(self.compute_targets(pixel_values), masked))
        return LGIFormerForPreTrainingOutput(
            **losses, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def _order_for_decoder(self, tokens: torch.Tensor, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        """Visible tokens (B, V, D) as they meet the decoder's positions: in raster order, each at its own place.

        The released decoder was trained with tokens region after region and positions in raster order, so that some
        tokens carry another one's position; `released_decoder_order` does the same.
        """
        if not self.config.released_decoder_order:
            return tokens
        # Raster indices, region after region -> the visible tokens' ranks in raster order
        ranks = self.lgi_former.order_visible_tokens(bool_masked_pos).argsort(dim=1).argsort(dim=1)
        return take_tokens(tokens, ranks)

    def _decode(self, tokens: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        # visible (B, V, D_encoder) and masked places (B, K) -> (B, V + K, D) -> (B, K, values)
        positions = self.decoder_positions()
        tokens = self.encoder_to_decoder(tokens) + take_tokens(positions, visible)
        tokens = torch.cat([tokens, self.mask_token + take_tokens(positions, masked)], dim=1)
        for layer in self.decoder_layers:
            tokens = layer(tokens)
        return self.decoder_head(self.decoder_norm(tokens[:, visible.shape[1] :]))

    def compute_targets(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> the configured target of every token, (B, N, values)."""
        config = self.config
        patch_size = as_height_and_width(config.patch_size)
        return reconstruction_targets(
            pixel_values, config.tubelet_size, patch_size, config.reconstruction_target, config.norm_pix_loss
        )

    def measure_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predictions and targets (B, K, values) -> `loss` and its parts, float32 scalars."""
        config = self.config
        return reconstruction_losses(
            logits, targets, config.tubelet_size, config.reconstruction_target, config.motion_loss_weight
        )


__all__ = [
    "LGIFormerForPreTraining",
    "LGIFormerForPreTrainingOutput",
    "LGIFormerForVideoClassification",
    "LGIFormerModel",
    "LGIFormerModelOutput",
    "LGIFormerPreTrainedModel",
    "frames_from_targets",
    "reconstruction_losses",
    "reconstruction_targets",
    "stratified_tube_mask",
]
