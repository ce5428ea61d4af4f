"""Models of toy size for tests, with every loose end random: zero biases would hide what is lost on the way."""

import torch
from transformers import VideoMAEConfig

from mtcae_dfer import MTCAEConfig, MTCAEForMultiTaskVideo

FRAMES, SIDE, CLASSES = 4, 32, 7

ENCODER = {
    "model_type": "videomae",
    "image_size": SIDE,
    "patch_size": 16,
    "num_frames": FRAMES,
    "tubelet_size": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "use_mean_pooling": False,
    "layer_norm_eps": 1e-6,
}

ONE_LAYER = ENCODER | {"num_hidden_layers": 1}  # for what is done layer by layer, as tracing is

EXPRESSION_TASK = {"name": "expression", "kind": "classification", "label_key": "labels"}


def tiny_config(**overrides) -> MTCAEConfig:
    """Width 20 with 3 heads of width 8: heads that do not divide the width."""
    sizes = {
        "decoder_hidden_size": 20,
        "decoder_num_layers": 2,
        "decoder_num_attention_heads": 3,
        "decoder_head_dim": 8,
    }
    return MTCAEConfig(**{"encoder_config": dict(ENCODER), **sizes, **overrides})


def tiny_encoder_config(**overrides) -> VideoMAEConfig:
    """The encoder's config alone."""
    return VideoMAEConfig(**{name: value for name, value in (ENCODER | overrides).items() if name != "model_type"})


def tiny_model(seed: int = 0, **overrides) -> MTCAEForMultiTaskVideo:
    """A model in evaluation mode whose weights are all random."""
    torch.manual_seed(seed)
    return randomise(MTCAEForMultiTaskVideo(tiny_config(**overrides))).eval()


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Random values for every parameter, biases and norms included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def random_clips(batch: int = 2, seed: int = 1) -> torch.Tensor:
    """pixel_values (B, T, 3, H, W)."""
    return torch.randn(batch, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def random_labels(batch: int = 2, seed: int = 2) -> dict[str, torch.Tensor]:
    """Labels of the paper's three tasks, with a face in every frame."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "labels": torch.randint(0, CLASSES, (batch,), generator=generator),
        "face_boxes": torch.rand(batch, FRAMES, 4, generator=generator),
        "face_landmarks": torch.rand(batch, FRAMES, 5, 2, generator=generator),
        "face_found": torch.ones(batch, FRAMES, dtype=torch.bool),
    }
