"""Configuration of the frame backbone: any image model of transformers on every frame, then layers over time."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from .configuration_common import as_height_and_width, require, require_positive, require_share
from .image_backbones import FeatureMap, build_image_backbone_config, measure_feature_map

# Every saved folder names its own classes, so that the Auto* classes find them with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_frame_backbone.FrameBackboneConfig",
    "AutoModel": "modeling_frame_backbone.FrameBackboneModel",
}

# DINOv2 ViT-S/14, whose weights are free to use (Apache 2.0).
DEFAULT_BACKBONE = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}


@strict
class FrameBackboneConfig(PreTrainedConfig):
    """Configuration of `FrameBackboneModel`. Without arguments: DINOv2 ViT-S/14 on 16 x 224 x 224, no temporal layers.

    The size of the feature map and the width of its channels are measured from the image model, not configured.

    Raises:
        ValueError: a value breaks its rule, or the image model gives no feature map; the message names the field, the
            value and the rule.
    """

    model_type = "frame_backbone"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None  # an image model of transformers; None = DINOv2 ViT-S/14
    image_size: int | list[int] | tuple[int, int] = 224  # height and width of a frame in pixels; one number for both
    num_channels: int = 3  # colour channels
    num_frames: int = 16  # T, the most frames of a clip; a still is a clip of one
    num_temporal_layers: int = 0  # transformer layers over time at every place of the feature map
    num_temporal_attention_heads: int = 8  # heads of their attention
    temporal_mlp_ratio: float | int = 4.0  # hidden channels of their MLP / channels of the feature map
    hidden_act: str = "gelu"  # activation in their MLP
    hidden_dropout_prob: float | int = 0.0  # dropout on what an attention or MLP of theirs adds
    attention_probs_dropout_prob: float | int = 0.0  # dropout on their attention's weights
    drop_path_rate: float | int = 0.0  # share of dropped residual updates in their last layer; linear from 0
    initializer_range: float | int = 0.02  # standard deviation of their fresh weights
    layer_norm_eps: float | int = 1e-6  # epsilon of their norms

    def __post_init__(self, **kwargs: Any) -> None:
        given = DEFAULT_BACKBONE if self.backbone_config is None else self.backbone_config
        self.backbone_config = build_image_backbone_config(given, "backbone_config")
        super().__post_init__(**kwargs)
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        require_positive(self, "num_channels", "num_frames", "num_temporal_attention_heads", "temporal_mlp_ratio")
        require_share(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        require(self.num_temporal_layers >= 0, "num_temporal_layers", self.num_temporal_layers, "must be at least 0")
        require(min(as_height_and_width(self.image_size)) > 0, "image_size", self.image_size, "must be greater than 0")
        require(self.hidden_act in ACT2FN, "hidden_act", self.hidden_act, "is no activation of transformers")
        if self.num_temporal_layers:
            heads = self.num_temporal_attention_heads
            rule = f"must divide the {self.hidden_size} channels of the feature map"
            require(self.hidden_size % heads == 0, "num_temporal_attention_heads", heads, rule)
        # An image model of patches would leave out the pixels behind the last whole one.
        patch, found = getattr(self.backbone_config, "patch_size", None), self.feature_map
        if patch is not None:
            patch, size = as_height_and_width(patch), as_height_and_width(self.image_size)
            cut_off = (found.rows, found.columns) == (size[0] // patch[0], size[1] // patch[1])
            cut_off = cut_off and (size[0] % patch[0] > 0 or size[1] % patch[1] > 0)
            rule = f"must be a multiple of the image model's patch of {patch[0]} x {patch[1]} pixels"
            require(not cut_off, "image_size", self.image_size, rule)

    @property
    def feature_map(self) -> FeatureMap:
        """What the image model makes of a frame: channels, rows and columns."""
        size = as_height_and_width(self.image_size)
        known = getattr(self, "_measured", None)
        # A forward pass asks for it too, also one that is compiled; so it is kept beside what it was measured for.
        if known is None or known[0] is not self.backbone_config or known[1:3] != (size, self.num_channels):
            built: Any = self.backbone_config
            measured = measure_feature_map(built, self.num_channels, size, "backbone_config")
            known = self._measured = (self.backbone_config, size, self.num_channels, measured)
        return known[3]

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without what was measured."""
        described = super().to_dict()
        described.pop("_measured", None)
        return described

    @property
    def hidden_size(self) -> int:
        """Width of a token: channels of the feature map."""
        return self.feature_map.channels

    @property
    def tubelet_size(self) -> int:
        """How many frames one token covers."""
        return 1

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width, in pixels, of a frame's share for one token; rounded up."""
        height, width = as_height_and_width(self.image_size)
        return -(-height // self.feature_map.rows), -(-width // self.feature_map.columns)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(t, h, w): the feature maps of all frames, in raster order."""
        return self.num_frames, self.feature_map.rows, self.feature_map.columns


__all__ = ["FrameBackboneConfig"]
