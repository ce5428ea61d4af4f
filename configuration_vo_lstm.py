"""Configuration of VO-LSTM, the visual-only recurrent baseline: an image model on every frame, then an LSTM."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_common import as_height_and_width, require, require_positive, require_share

# Every saved folder names its own classes, so that the Auto* classes find them with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_vo_lstm.VOLSTMConfig",
    "AutoModel": "modeling_vo_lstm.VOLSTMModel",
}

# ResNet-18.
FRAME_ENCODER = {
    "model_type": "resnet",
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}


@strict
class VOLSTMConfig(PreTrainedConfig):
    """Configuration of `VOLSTMModel`. Without arguments: ResNet-18 frame features and one LSTM layer of 512.

    Raises:
        ValueError: a value breaks its rule; the message names the field, the value and the rule.
    """

    model_type = "vo_lstm"
    sub_configs = {"frame_encoder_config": AutoConfig}

    frame_encoder_config: dict | PreTrainedConfig | None = None  # an image model of transformers; None = ResNet-18
    image_size: int | list[int] | tuple[int, int] = 224  # height and width of a frame in pixels; one number for both
    num_channels: int = 3  # colour channels
    num_frames: int = 16  # T, frames of a clip
    hidden_size: int = 512  # width of a token: of the LSTM's state at a frame
    num_lstm_layers: int = 1  # LSTM layers, one on the other; 0: a frame's feature itself is its token
    lstm_dropout: float | int = 0.0  # dropout between LSTM layers
    initializer_range: float = 0.02  # standard deviation of fresh dense weights in the frame encoder

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.frame_encoder_config, PreTrainedConfig):
            values = dict(FRAME_ENCODER if self.frame_encoder_config is None else self.frame_encoder_config)
            model_type = values.pop("model_type", None)
            rule = "must be an image model of transformers, for example 'resnet'"
            require(model_type in CONFIG_MAPPING, "frame_encoder_config.model_type", model_type, rule)
            self.frame_encoder_config = AutoConfig.for_model(model_type, **values)
        super().__post_init__(**kwargs)
        self.auto_map = getattr(self, "auto_map", None) or dict(AUTO_MAP)
        require_positive(self, "num_channels", "num_frames", "hidden_size")
        require(self.num_lstm_layers >= 0, "num_lstm_layers", self.num_lstm_layers, "must be at least 0")
        require(min(self.patch_size) > 0, "image_size", self.image_size, "must be greater than 0")
        require_share(self, "lstm_dropout")
        frame: Any = self.frame_encoder_config
        known = hasattr(frame, "hidden_sizes") or hasattr(frame, "hidden_size")
        rule = "is no image model that can be read: its config tells no width"
        require(known, "frame_encoder_config.model_type", frame.model_type, rule)
        rule = f"must be the {self.frame_feature_size} channels of a frame's feature where there is no LSTM"
        fits = self.num_lstm_layers > 0 or self.hidden_size == self.frame_feature_size
        require(fits, "hidden_size", self.hidden_size, rule)

    @property
    def frame_feature_size(self) -> int:
        """Channels of a frame's feature."""
        frame: Any = self.frame_encoder_config
        return frame.hidden_sizes[-1] if hasattr(frame, "hidden_sizes") else frame.hidden_size

    @property
    def tubelet_size(self) -> int:
        """How many frames one token covers."""
        return 1

    @property
    def patch_size(self) -> tuple[int, int]:
        """One token covers a whole frame."""
        return as_height_and_width(self.image_size)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(t, h, w): one token a frame."""
        return self.num_frames, 1, 1


__all__ = ["VOLSTMConfig"]
