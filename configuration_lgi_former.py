"""Configuration of LGI-Former, the encoder of MAE-DFER: a token grid cut into regions, each with a representative."""

import copy
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_common import compute_token_grid, require, require_choice, require_positive, require_share

# Every saved folder names its own classes, so that the Auto* classes find them with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_lgi_former.LGIFormerConfig",
    "AutoModel": "modeling_lgi_former.LGIFormerModel",
    "AutoModelForVideoClassification": "modeling_lgi_former.LGIFormerForVideoClassification",
    "AutoModelForPreTraining": "modeling_lgi_former.LGIFormerForPreTraining",
}

RECONSTRUCTION_TARGETS = ("appearance_and_motion", "pixels")


def count_masked_places(region_size: list[int] | tuple[int, int, int], mask_ratio: float) -> int:
    """How many of a region's height x width places `mask_ratio` masks, rounded down: one at least stays visible."""
    _, rows, columns = region_size
    return int(mask_ratio * rows * columns)


@strict
class LGIFormerConfig(PreTrainedConfig):
    """Configuration of the LGI-Former models. Without arguments it is MAE-DFER's encoder on 16 x 160 x 160.

    Fields that `VideoMAEConfig` has too carry its names, so that either encoder can stand under the cascade.

    Raises:
        ValueError: a value breaks its rule, for example regions that do not divide the token grid; the message names
            the field, the value and the rule.
    """

    model_type = "lgi_former"

    image_size: int | list[int] | tuple[int, int] = 160  # height and width of a frame in pixels; one number for both
    patch_size: int | list[int] | tuple[int, int] = 16  # height and width of a token in pixels
    num_channels: int = 3  # colour channels
    num_frames: int = 16  # T, frames of a clip
    tubelet_size: int = 2  # consecutive frames in one token
    region_size: list[int] | tuple[int, int, int] = (2, 5, 10)  # tokens of a region along time, height and width
    hidden_size: int = 512  # width of the tokens
    num_hidden_layers: int = 16  # LGI blocks
    num_attention_heads: int = 8  # heads of each of a block's three attentions
    intermediate_size: int = 2048  # hidden channels of the MLP
    hidden_act: str = "gelu"  # activation in the MLP
    hidden_dropout_prob: float | int = 0.0  # dropout on the embedded tokens and on what an attention or MLP adds
    attention_probs_dropout_prob: float | int = 0.0  # dropout on the attentions' weights
    drop_path_rate: float | int = 0.0  # share of dropped residual updates in the last block; linear from 0 in the first
    initializer_range: float = 0.02  # standard deviation of fresh weights
    classifier_initializer_range: float = 2e-5  # standard deviation of the fresh classifier: 0.02 scaled by 0.001
    xavier_init: bool = False  # True: fresh dense layers are xavier-uniform; the pre-training model always starts so
    layer_norm_eps: float = 1e-6  # epsilon of every norm
    final_norm: bool = True  # a norm after the last block, over the local tokens; the classifier always goes without
    decoder_num_attention_heads: int = 6  # pre-training: heads of the decoder
    decoder_hidden_size: int = 384  # pre-training: width of the decoder's tokens
    decoder_num_hidden_layers: int = 4  # pre-training: blocks of the decoder
    decoder_intermediate_size: int = 1536  # pre-training: hidden channels of the decoder's MLP
    mask_ratio: float = 0.9  # pre-training: share of masked places in every region
    reconstruction_target: str = "appearance_and_motion"  # appearance_and_motion (MAE-DFER) | pixels (VideoMAE)
    norm_pix_loss: bool = True  # pre-training: targets are normalised per tubelet and channel
    motion_loss_weight: float | None = None  # weight of the motion loss, 1 - weight of appearance; None = by dimension
    released_decoder_order: bool = False  # True: visible tokens reach the decoder as in the released checkpoint

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        self.region_size = list(self.region_size)
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        require_positive(self, *sizes, *(f"decoder_{name}" for name in sizes), "tubelet_size", "num_frames")
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            require(width % heads == 0, f"{prefix}hidden_size", width, f"must be a multiple of its {heads} heads")
        require_share(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "mask_ratio")
        require(len(self.region_size) == 3, "region_size", self.region_size, "must be [time, height, width] in tokens")
        for axis, grid, region in zip(("time", "height", "width"), self.token_grid, self.region_size, strict=True):
            divisors = [size for size in range(1, grid + 1) if grid % size == 0]
            rule = f"does not divide the token grid {self.token_grid}: along {axis} take one of {divisors}"
            require(region in divisors, "region_size", self.region_size, rule)
        target, weight = self.reconstruction_target, self.motion_loss_weight
        require_choice(target, "reconstruction_target", RECONSTRUCTION_TARGETS)
        if weight is not None:
            require(0 <= weight <= 1, "motion_loss_weight", weight, "must be from 0 to 1")
            rule = "the target 'pixels' has no motion part; leave it None"
            require(target != "pixels", "motion_loss_weight", weight, rule)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(t, h, w): tubelets, rows and columns of the tokens."""
        return compute_token_grid(self)

    @property
    def num_tokens(self) -> int:
        """N, the number of a clip's tokens."""
        return math.prod(self.token_grid)

    @property
    def num_regions(self) -> int:
        """M, the number of regions and of representative tokens."""
        return self.num_tokens // math.prod(self.region_size)

    @property
    def num_visible_tokens(self) -> int:
        """Tokens of a clip that `mask_ratio` leaves visible in pre-training, over all regions."""
        tubelets, rows, columns = self.region_size
        visible_places = rows * columns - count_masked_places(self.region_size, self.mask_ratio)
        return self.num_regions * tubelets * visible_places

    def adapted(self, **values: Any) -> "LGIFormerConfig":
        """A copy of this configuration with other values; the configuration itself where they are its own already."""
        if all(getattr(self, name) == value for name, value in values.items()):
            return self
        changed = copy.deepcopy(self)
        for name, value in values.items():
            setattr(changed, name, value)
        return changed


__all__ = ["LGIFormerConfig"]
