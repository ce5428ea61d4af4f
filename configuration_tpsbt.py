"""Configuration of TPSBT, the encoder of SVFAP: a temporal pyramid with spatial bottlenecks."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_common import compute_token_grid, require, require_positive, require_share

# Every saved folder names its own classes, so that the Auto* classes find them with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_tpsbt.TPSBTConfig",
    "AutoModel": "modeling_tpsbt.TPSBTModel",
    "AutoModelForVideoClassification": "modeling_tpsbt.TPSBTForVideoClassification",
}


@strict
class TPSBTConfig(PreTrainedConfig):
    """Configuration of the TPSBT models. Without arguments it is SVFAP's encoder on 16 x 160 x 160.

    Fields that `VideoMAEConfig` has too carry its names. The tokens that leave the encoder are fewer than those that
    are embedded: every stage after the first shortens time by `temporal_kernel`.

    Raises:
        ValueError: a value breaks its rule; the message names the field, the value and the rule.
    """

    model_type = "tpsbt"

    image_size: int | list[int] | tuple[int, int] = 160  # height and width of a frame in pixels; one number for both
    patch_size: int | list[int] | tuple[int, int] = 16  # height and width of a token in pixels
    num_channels: int = 3  # colour channels
    num_frames: int = 16  # T, frames of a clip
    tubelet_size: int = 2  # consecutive frames in one embedded token
    hidden_size: int = 512  # width of the tokens
    stage_depths: list[int] | tuple[int, ...] = (12, 6, 3)  # blocks of each stage
    temporal_kernel: int = 2  # how many tubelets become one at the start of every stage but the first
    num_bottleneck_tokens: int = 8  # spatial summaries of each tubelet
    bottleneck_hidden_size: int = 128  # hidden channels where their weights are computed
    num_attention_heads: int = 8  # heads of every attention
    intermediate_size: int = 2048  # hidden channels of the MLP
    hidden_act: str = "gelu"  # activation in the MLP
    hidden_dropout_prob: float | int = 0.0  # dropout on the embedded tokens and on what an attention or MLP adds
    attention_probs_dropout_prob: float | int = 0.0  # dropout on the attentions' weights
    drop_path_rate: float | int = 0.0  # share of dropped residual updates in the last block; linear from 0 in the first
    initializer_range: float = 0.02  # standard deviation of fresh weights
    classifier_initializer_range: float = 2e-5  # standard deviation of the fresh classifier: 0.02 scaled by 0.001
    layer_norm_eps: float = 1e-6  # epsilon of every norm

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        self.stage_depths = list(self.stage_depths)
        require_positive(self, "hidden_size", "num_attention_heads", "intermediate_size")
        require_positive(self, "bottleneck_hidden_size", "num_bottleneck_tokens", "temporal_kernel")
        require_share(self, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
        heads = self.num_attention_heads
        require(
            self.hidden_size % heads == 0, "hidden_size", self.hidden_size, f"must be a multiple of its {heads} heads"
        )
        depths = self.stage_depths
        require(bool(depths) and min(depths) > 0, "stage_depths", depths, "must hold a positive depth for every stage")
        shortened = self.temporal_kernel ** (len(depths) - 1)
        rule = f"its {self.embedded_grid[0]} tubelets must be a multiple of {shortened}, which the stages make one"
        require(self.embedded_grid[0] % shortened == 0, "num_frames", self.num_frames, rule)

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of all stages."""
        return sum(self.stage_depths)

    @property
    def embedded_grid(self) -> tuple[int, int, int]:
        """(t, h, w): tubelets, rows and columns of the tokens that enter the first stage."""
        return compute_token_grid(self)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(t, h, w) of the tokens that leave the last stage."""
        tubelets, rows, columns = self.embedded_grid
        return tubelets // self.temporal_kernel ** (len(self.stage_depths) - 1), rows, columns


__all__ = ["TPSBTConfig"]
