"""Configuration of the 3D ResNeXt, a residual network of grouped convolutions over time, height and width."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_common import as_height_and_width, compute_token_grid, require, require_positive

# Every saved folder names its own classes, so that the Auto* classes find them with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_resnext3d.ResNeXt3DConfig",
    "AutoModel": "modeling_resnext3d.ResNeXt3DModel",
}


@strict
class ResNeXt3DConfig(PreTrainedConfig):
    """Configuration of `ResNeXt3DModel`. Without arguments it is the 3D ResNeXt-50 on 16 x 224 x 224.

    The stem halves height and width, its pooling halves all three, and so does every stage after the first.

    Raises:
        ValueError: a value breaks its rule; the message names the field, the value and the rule.
    """

    model_type = "resnext3d"

    image_size: int | list[int] | tuple[int, int] = 224  # height and width of a frame in pixels; one number for both
    num_channels: int = 3  # colour channels
    num_frames: int = 16  # T, frames of a clip
    stem_channels: int = 64  # channels of the first convolution
    stage_depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    stage_widths: list[int] | tuple[int, ...] = (128, 256, 512, 1024)  # channels of each stage's grouped convolutions
    groups: int = 32  # cardinality, the number of groups of a grouped convolution
    expansion: int = 2  # channels that leave a block / channels of its grouped convolution

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        self.stage_depths, self.stage_widths = list(self.stage_depths), list(self.stage_widths)
        require_positive(self, "num_channels", "stem_channels", "groups", "expansion")
        depths, widths = self.stage_depths, self.stage_widths
        require(bool(depths) and min(depths) > 0, "stage_depths", depths, "must hold a positive depth for every stage")
        require(len(widths) == len(depths), "stage_widths", widths, f"must hold {len(depths)} widths, one a stage")
        fits = all(width > 0 and width % self.groups == 0 for width in widths)
        require(fits, "stage_widths", widths, f"must be positive multiples of the {self.groups} groups")
        compute_token_grid(self)

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.stage_widths[-1] * self.expansion

    @property
    def tubelet_size(self) -> int:
        """How many frames one step of the last stage covers: its stride over time."""
        return 2 ** len(self.stage_depths)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Stride of the last stage over height and width, in pixels."""
        return as_height_and_width(2 * self.tubelet_size)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(t, h, w): what of time, rows and columns leaves the last stage."""
        return compute_token_grid(self)


__all__ = ["ResNeXt3DConfig"]
