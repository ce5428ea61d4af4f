"""Layers and small functions that several models of this repository are made of, each written once.

Shapes: B clips, T frames, N tokens in raster order (t, h, w), D channels.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_common import as_height_and_width, compute_token_grid

MOST_POSITIONS = 10_000  # longest wavelength of the sinusoids / 2 pi


class ZeroStartLinear(nn.Linear):
    """A dense layer whose fresh weights are zero, set by the model's `_init_weights`.

    It is a class of its own because transformers asks remote code only to initialise modules that own parameters.
    """


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention. Query, key, value: (B, heads, N, head_dim) -> ((B, N, heads, head_dim), weights)."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    # The softmax stays in float32: half precision loses the small weights of a long memory.
    weights = functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class Attention(nn.Module):
    """Multi-head attention of a query sequence on a memory.

    A model subclasses it for each kind of attention that transformers is to record apart: it records by class.

    Args:
        config: of the model, which names the implementation of attention.
        size: D, channels of the tokens.
        num_heads: heads.
        head_dim: channels of a head; heads x head_dim need not be D.
        dropout: on the attention's weights.
        key_bias: False: keys have no bias, which no softmax would notice.
        zero_start: what is added to the tokens starts at zero.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        size: int,
        num_heads: int,
        head_dim: int,
        dropout: float,
        key_bias: bool = True,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.head_dim = head_dim
        self.scaling = head_dim**-0.5
        self.dropout = dropout
        self.is_causal = False
        self.query = nn.Linear(size, num_heads * head_dim)
        self.key = nn.Linear(size, num_heads * head_dim, bias=key_bias)
        self.value = nn.Linear(size, num_heads * head_dim)
        self.output = (ZeroStartLinear if zero_start else nn.Linear)(num_heads * head_dim, size)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, values: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Query (B, N, D), memory (B, M, D) -> attended (B, N, D) and weights (B, heads, N, M) where eager.

        The values come from the memory too, unless there are tokens of their own for them: `values` (B, M, D).
        """
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        projected = [self.query(query), self.key(memory), self.value(memory if values is None else values)]
        # (B, N, heads * head_dim) -> (B, heads, N, head_dim)
        heads = [tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for tokens in projected]
        attended, weights = attend(
            self,
            *heads,
            None,
            is_causal=self.is_causal,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        # (B, N, heads, head_dim) -> (B, N, heads * head_dim)
        return self.output(attended.flatten(-2)), weights


class EncoderAttention(Attention):
    """The attention of LGI-Former and TPSBT: heads divide the width among them, and keys have no bias."""

    def __init__(self, config: PreTrainedConfig, size: int, num_heads: int) -> None:
        super().__init__(
            config, size, num_heads, size // num_heads, config.attention_probs_dropout_prob, key_bias=False
        )


class MLP(nn.Module):
    """Two dense layers with an activation between, applied to every token."""

    def __init__(self, size: int, hidden_size: int, activation: str, zero_start: bool = False) -> None:
        super().__init__()
        self.dense_in = nn.Linear(size, hidden_size)
        self.activation = ACT2FN[activation]
        self.dense_out = (ZeroStartLinear if zero_start else nn.Linear)(hidden_size, size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.dense_out(self.activation(self.dense_in(tokens)))


def keep_mask(update: torch.Tensor, keep: float) -> torch.Tensor:
    """(B, 1, ...): 0 for the dropped entries, 1 / keep for the others, so that the expected update stays the same."""
    kept = torch.rand(update.shape[0], *[1] * (update.ndim - 1), device=update.device) < keep
    return kept.to(update.dtype) / keep


class Residual(nn.Module):
    """Dropout and drop path on a residual update. A drop falls on a whole entry of the first axis.

    Attributes:
        keep: share of the entries that are kept; training may set it.
    """

    def __init__(self, dropout: float, drop_path_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.keep = 1.0 - drop_path_rate

    def forward(self, update: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        update = self.dropout(update)
        return update * keep_mask(update, self.keep) if self.training and self.keep < 1.0 else update


class PlainLayer(GradientCheckpointingLayer):
    """A plain transformer block: joint self-attention, then an MLP."""

    def __init__(
        self,
        config: PreTrainedConfig,
        size: int,
        num_heads: int,
        intermediate_size: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = EncoderAttention(config, size, num_heads)
        self.norm_mlp = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = MLP(size, intermediate_size, config.hidden_act)
        self.residual = Residual(config.hidden_dropout_prob, drop_path_rate)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        normed = self.norm_attention(tokens)
        attended, _ = self.attention(normed, normed)
        tokens = tokens + self.residual(attended)
        return tokens + self.residual(self.mlp(self.norm_mlp(tokens)))


def sinusoid_positions(num_positions: int, width: int) -> torch.Tensor:
    """float32 (num_positions, width): sine on even channels and cosine on odd; an odd width drops the last cosine."""
    # Always on the CPU: a model may be built on the meta device, and its table is filled afterwards.
    positions = torch.arange(num_positions, dtype=torch.float64, device="cpu").unsqueeze(1)
    channels = torch.arange(0, width, 2, device="cpu")
    angles = positions / MOST_POSITIONS ** (channels / width)
    # (num_positions, width / 2, 2) -> (num_positions, width): sine and cosine alternate
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


class PositionTable(nn.Module):
    """The fixed position table (1, N, D). It is computed, so it is no part of a checkpoint.

    It is there as soon as the module is, for those who build a model without its initialisation. On the meta device it
    holds nothing until the model computes it in `_init_weights`.
    """

    table: torch.Tensor

    def __init__(self, num_positions: int, width: int) -> None:
        super().__init__()
        table = torch.empty(1, num_positions, width)
        if not table.is_meta:
            table.copy_(sinusoid_positions(num_positions, width))
        self.register_buffer("table", table, persistent=False)

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


class TubeletEmbedding(nn.Module):
    """One token per tubelet of the clip, plus its position."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.clip_size = (config.num_frames, config.num_channels, *as_height_and_width(config.image_size))
        kernel = (config.tubelet_size, *as_height_and_width(config.patch_size))
        self.projection = nn.Conv3d(config.num_channels, config.hidden_size, kernel_size=kernel, stride=kernel)
        self.positions = PositionTable(math.prod(compute_token_grid(config)), config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> (B, N, D)."""
        check_clip_size(pixel_values, self.clip_size)
        # (B, T, C, H, W) -> (B, C, T, H, W) -> (B, D, t, h, w) -> (B, N, D)
        tokens = self.projection(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)
        return self.dropout(tokens + self.positions())


class SmallStartClassifier(nn.Linear):
    """A dense layer whose fresh weights are so small that all classes start alike."""


def cell_centres(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Centres (x, y) of a grid's cells in raster order, float32 (rows * columns, 2), in cells from the upper left."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    # 2 x (rows, columns) -> (rows, columns, 2) -> (rows * columns, 2)
    return torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5


def all_alike_without_a_person(logits: torch.Tensor, person_found: torch.Tensor | None) -> torch.Tensor:
    """Scores (B, K) that prefer no class where `person_found` (B,), of the processor, is False: nobody is there."""
    return logits if person_found is None else torch.where(person_found[:, None], logits, torch.zeros_like(logits))


__all__ = [
    "MLP",
    "Attention",
    "EncoderAttention",
    "PlainLayer",
    "PositionTable",
    "Residual",
    "SmallStartClassifier",
    "TubeletEmbedding",
    "ZeroStartLinear",
    "all_alike_without_a_person",
    "cell_centres",
    "check_clip_size",
    "eager_attention_forward",
    "keep_mask",
    "sinusoid_positions",
]
