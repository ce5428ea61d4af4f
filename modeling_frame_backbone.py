"""The frame backbone: an image model makes a feature map of every frame, and factorised layers attend over time.

frame 1 ─── image model ─── h x w tokens ─┐
frame 2 ─── image model ─── h x w tokens ─┼─ + position in time ─── at each place, over time ─── T x h x w tokens
frame T ─── image model ─── h x w tokens ─┘                         (num_temporal_layers)

Shapes: B clips, T frames, a feature map of h x w places, N = T * h * w tokens in raster order, D channels.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_common import as_height_and_width
from .configuration_frame_backbone import FrameBackboneConfig
from .image_backbones import build_image_backbone, encode_pictures
from .modeling_layers import EncoderAttention, PlainLayer, PositionTable, ZeroStartLinear, sinusoid_positions
from .weight_files import CheckedPreTrainedModel


class FrameBackboneTemporalLayer(PlainLayer):
    """A pre-norm transformer layer over the frames, at every place by itself: its cost grows with T, not T * h * w.

    A fresh layer changes nothing, so that training starts from the image model's own features.
    """

    def __init__(
        self, config: FrameBackboneConfig, hidden_size: int, intermediate_size: int, drop_path_rate: float
    ) -> None:
        heads = config.num_temporal_attention_heads
        super().__init__(config, hidden_size, heads, intermediate_size, drop_path_rate)
        self.attention.output = ZeroStartLinear(hidden_size, hidden_size)
        self.mlp.dense_out = ZeroStartLinear(intermediate_size, hidden_size)

    def forward(self, tokens: torch.Tensor, num_frames: int) -> torch.Tensor:  # type: ignore[override]
        """(B, T * s, D) of s places -> the same."""
        batch_size = tokens.shape[0]
        # (B, T * s, D) -> (B, T, s, D) -> (B, s, T, D) -> (B * s, T, D), and back
        over_time = tokens.unflatten(1, (num_frames, -1)).transpose(1, 2).flatten(0, 1)
        over_time = super().forward(over_time)
        return over_time.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(1, 2)


class FrameBackbonePreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config_class = FrameBackboneConfig
    base_model_prefix = "frame_backbone"
    main_input_name = "pixel_values"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FrameBackboneTemporalLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": FrameBackboneTemporalLayer,
        "attentions": OutputRecorder(EncoderAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PositionTable):
            init.copy_(module.table, sinusoid_positions(*module.table.shape[1:]).unsqueeze(0))
        elif isinstance(module, ZeroStartLinear):
            init.zeros_(module.weight)


class FrameBackboneModel(FrameBackbonePreTrainedModel):
    """The encoder. Class and register tokens of the image model are taken off; its heads take no part."""

    def __init__(self, config: FrameBackboneConfig) -> None:
        super().__init__(config)
        self.feature_map = config.feature_map
        backbone_config: Any = config.backbone_config  # the config has made an object of it
        self.backbone = build_image_backbone(backbone_config, self.feature_map)
        size = config.hidden_size
        self.positions = PositionTable(config.num_frames, size)
        last = max(config.num_temporal_layers - 1, 1)
        self.temporal_layers = nn.ModuleList(
            FrameBackboneTemporalLayer(
                config, size, int(config.temporal_mlp_ratio * size), config.drop_path_rate * depth / last
            )
            for depth in range(config.num_temporal_layers)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The image model's."""
        return self.backbone.get_input_embeddings()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encodes clips.

        Args:
            pixel_values: (B, T, C, H, W) of 1 to `num_frames` frames; position in time counts from the first.
            **kwargs: transformers' own (`output_hidden_states`, `output_attentions`, `return_dict`). Hidden states and
                attentions are the temporal layers': (layers + 1) x (B, N, D) and layers x (B * h * w, heads, T, T).

        Raises:
            ValueError: the clip has another size than the model, or more frames.
        """
        config = self.config
        expected = (config.num_channels, *as_height_and_width(config.image_size))
        fits = pixel_values.ndim == 5 and tuple(pixel_values.shape[2:]) == expected
        if not fits or not 0 < pixel_values.shape[1] <= config.num_frames:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; this model takes (clips, 1 to "
                f"{config.num_frames} frames, {expected[0]} channels, {expected[1]}, {expected[2]})."
            )
        return BaseModelOutput(last_hidden_state=self.encode_over_time(self.encode_frames(pixel_values)))

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> the image model's feature maps (B, T, h * w, D)."""
        frames, resizes_positions = pixel_values.flatten(0, 1), self.feature_map.resizes_positions
        # (B * T, C, H, W) -> (B * T, D, h, w) or (B * T, leading + h * w, D)
        features = encode_pictures(self.backbone, frames, resizes_positions).last_hidden_state
        if features.ndim == 4:
            # (B * T, D, h, w) -> (B * T, h * w, D)
            features = features.flatten(2).transpose(1, 2)
        # (B * T, leading + h * w, D) -> (B, T, h * w, D)
        return features[:, self.feature_map.num_leading_tokens :].unflatten(0, pixel_values.shape[:2])

    def encode_over_time(self, features: torch.Tensor) -> torch.Tensor:
        """Feature maps (B, T, h * w, D) of 1 to `num_frames` frames -> tokens (B, T * h * w, D)."""
        num_frames = features.shape[1]
        # (B, T, h * w, D), plus (1, T, 1, D) -> (B, T * h * w, D)
        tokens = (features + self.positions()[:, :num_frames].unsqueeze(2)).flatten(1, 2)
        for layer in self.temporal_layers:
            tokens = layer(tokens, num_frames)
        return tokens


__all__ = ["FrameBackboneModel", "FrameBackbonePreTrainedModel"]
