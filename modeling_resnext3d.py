"""3D ResNeXt: bottlenecks of grouped convolutions over time, height and width; an encoder of video tokens.

Sources: "Aggregated Residual Transformations for Deep Neural Networks" (CVPR 2017) and "Can Spatiotemporal 3D CNNs
Retrace the History of 2D CNNs and ImageNet?" (CVPR 2018). Names of layers follow torchvision's ResNet. Shapes: B clips,
T frames, N tokens in raster order (t, h, w), D channels.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_common import as_height_and_width
from .configuration_resnext3d import ResNeXt3DConfig
from .modeling_layers import check_clip_size
from .weight_files import CheckedPreTrainedModel


class ResNeXt3DBottleneck(nn.Module):
    """A dense, a grouped and a dense convolution beside a shortcut, which is a convolution where the shape changes."""

    def __init__(self, in_channels: int, width: int, out_channels: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv3d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out_channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, t, h, w) -> (B, out_channels, t / stride, h / stride, w / stride)."""
        update = self.relu(self.bn1(self.conv1(features)))
        update = self.relu(self.bn2(self.conv2(update)))
        update = self.bn3(self.conv3(update))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.relu(update + shortcut)


class ResNeXt3DStage(nn.Sequential):
    """Blocks of one width; the first changes channels and resolution."""

    def __init__(self, in_channels: int, width: int, depth: int, stride: int, config: ResNeXt3DConfig) -> None:
        out_channels = width * config.expansion
        blocks = [ResNeXt3DBottleneck(in_channels, width, out_channels, config.groups, stride)]
        for _ in range(depth - 1):
            blocks.append(ResNeXt3DBottleneck(out_channels, width, out_channels, config.groups, 1))
        super().__init__(*blocks)


class ResNeXt3DPreTrainedModel(CheckedPreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks a model class for."""

    config_class = ResNeXt3DConfig
    base_model_prefix = "resnext3d"
    main_input_name = "pixel_values"
    input_modalities = "video"
    _no_split_modules = ["ResNeXt3DBottleneck"]
    _supports_sdpa = True  # there is no attention that an implementation could not serve
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": OutputRecorder(ResNeXt3DStage)}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            super()._init_weights(module)


class ResNeXt3DModel(ResNeXt3DPreTrainedModel):
    """The encoder: the last stage's features as tokens in raster order of `config.token_grid`."""

    def __init__(self, config: ResNeXt3DConfig) -> None:
        super().__init__(config)
        channels = config.stem_channels
        self.conv1 = nn.Conv3d(config.num_channels, channels, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for number, (width, depth) in enumerate(zip(config.stage_widths, config.stage_depths, strict=True)):
            self.stages.append(ResNeXt3DStage(channels, width, depth, stride=1 if number == 0 else 2, config=config))
            channels = width * config.expansion
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution."""
        return self.conv1

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encodes clips.

        Args:
            pixel_values: (B, T, C, H, W).
            **kwargs: transformers' own (`output_hidden_states`, `return_dict`). Hidden states are the stages' features
                (B, D, t, h, w).

        Raises:
            ValueError: the clip has another size than the model.
        """
        config = self.config
        size = as_height_and_width(config.image_size)
        check_clip_size(pixel_values, (config.num_frames, config.num_channels, *size))
        # (B, T, C, H, W) -> (B, C, T, H, W) -> (B, stem, T / 2, H / 4, W / 4)
        features = self.maxpool(self.relu(self.bn1(self.conv1(pixel_values.transpose(1, 2)))))
        for stage in self.stages:
            features = stage(features)
        # (B, D, t, h, w) -> (B, D, t * h * w) -> (B, t * h * w, D)
        return BaseModelOutput(last_hidden_state=features.flatten(2).transpose(1, 2))


__all__ = ["ResNeXt3DModel", "ResNeXt3DPreTrainedModel"]
