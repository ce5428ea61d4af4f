"""Video encoders of transformers at toy size, by model type, for 4 frames of 64 x 64 pixels."""

from collections.abc import Callable

import torch
from transformers import (
    PreTrainedModel,
    TimesformerForVideoClassification,
    TimesformerModel,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    VideoPrismForVideoClassification,
    VideoPrismVisionModel,
    VivitForVideoClassification,
    VivitModel,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
)

FRAMES, SIDE, PATCH = 4, 64, 16

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "num_frames": FRAMES,
}
VIDEOPRISM = {name: value for name, value in SIZES.items() if name != "num_hidden_layers"} | {
    "num_spatial_layers": 2,
    "num_temporal_layers": 2,
    "num_auxiliary_layers": 1,
    "tubelet_size": [1, PATCH, PATCH],
}
VJEPA2 = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2.0,
    "patch_size": PATCH,
    "crop_size": SIDE,
    "frames_per_clip": FRAMES,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "num_pooler_layers": 1,
}
VIDEO_ENCODERS = {
    "timesformer": SIZES | {"patch_size": PATCH},
    "videomae": SIZES | {"patch_size": PATCH, "use_mean_pooling": False},
    "videoprism_vision_model": VIDEOPRISM,
    "vivit": SIZES | {"tubelet_size": [2, PATCH, PATCH]},
    "vjepa2": VJEPA2,
}
TOKEN_GRIDS = dict.fromkeys(VIDEO_ENCODERS, (2, 4, 4)) | dict.fromkeys(
    ("timesformer", "videoprism_vision_model"), (4, 4, 4)
)
CHECKPOINTS: dict[str, tuple[type[PreTrainedModel], ...]] = {
    "timesformer": (TimesformerModel, TimesformerForVideoClassification),
    "videomae": (VideoMAEModel, VideoMAEForVideoClassification, VideoMAEForPreTraining),
    "videoprism_vision_model": (VideoPrismVisionModel, VideoPrismForVideoClassification),
    "vivit": (VivitModel, VivitForVideoClassification),
    "vjepa2": (VJEPA2Model, VJEPA2ForVideoClassification),
}


def _without_class_token(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 1:]


def _time_before_places(tokens: torch.Tensor) -> torch.Tensor:
    places = tokens[:, 1:]
    order = [place * FRAMES + frame for frame in range(FRAMES) for place in range(16)]
    return torch.stack([places[:, index] for index in order], dim=1)


# What transformers' own tokens are in raster order, by hand.
IN_RASTER_ORDER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "timesformer": _time_before_places,
    "vivit": _without_class_token,
}
