"""VO-LSTM: an image model makes a feature of every frame, an LSTM reads them in turn; an encoder of one token a frame.

A compact form of the visual branch in "Multimodal and Temporal Perception of Audio-visual Cues for Emotion Recognition"
(ACII 2019), without its metric learning against sound. Shapes: B clips, T frames, D channels.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_common import as_height_and_width
from .configuration_vo_lstm import VOLSTMConfig
from .modeling_layers import check_clip_size
from .weight_files import CheckedPreTrainedModel


class VOLSTMPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config_class = VOLSTMConfig
    base_model_prefix = "vo_lstm"
    main_input_name = "pixel_values"
    input_modalities = "video"
    _supports_sdpa = True  # the LSTM has no attention that an implementation could not serve
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            super()._init_weights(module)


class VOLSTMModel(VOLSTMPreTrainedModel):
    """The encoder: the LSTM's state at every frame is a token, or the frame's feature where there is no LSTM."""

    def __init__(self, config: VOLSTMConfig) -> None:
        super().__init__(config)
        self.frame_encoder = AutoModel.from_config(config.frame_encoder_config, dtype=None)
        self.lstm = None
        if config.num_lstm_layers:
            self.lstm = nn.LSTM(
                config.frame_feature_size,
                config.hidden_size,
                config.num_lstm_layers,
                dropout=config.lstm_dropout,
                batch_first=True,
            )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The frame encoder's."""
        return self.frame_encoder.get_input_embeddings()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encodes clips. Hidden states are the features of the frames, then the LSTM's; there are no attentions.

        Args:
            pixel_values: (B, T, C, H, W).
            **kwargs: transformers' own (`output_hidden_states`, `return_dict`).

        Raises:
            ValueError: the clip has another size than the model.
        """
        config = self.config
        size = as_height_and_width(config.image_size)
        check_clip_size(pixel_values, (config.num_frames, config.num_channels, *size))
        # (B, T, C, H, W) -> (B * T, C, H, W) -> (B * T, N, D) or (B * T, D, h, w)
        features = self.frame_encoder(pixel_values.flatten(0, 1)).last_hidden_state
        pooled = features.mean(dim=1) if features.ndim == 3 else features.mean(dim=(2, 3))
        # (B * T, D) -> (B, T, D)
        states = [pooled.unflatten(0, (-1, config.num_frames))]
        if self.lstm is not None:
            states.append(self.lstm(states[0])[0])
        asked = kwargs.get("output_hidden_states", config.output_hidden_states)
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states) if asked else None)


__all__ = ["VOLSTMModel", "VOLSTMPreTrainedModel"]
