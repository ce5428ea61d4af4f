"""What all stages go by: options, sizes, the network, learning rate and losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mtcae_dfer.configuration_mtcae import MTCAEConfig
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.training.optimisation import WeightAverage, computes_in_bfloat16

# Sides of the cut frames in pixels: stage 1 begins small, where an epoch is cheap; the last is that of all else.
SIZES, SIZE_SHARES = (48, 64, 80), (0.3, 0.4, 0.3)  # shares of the epochs
SMOOTHING = 0.1  # share of a label that is spread over all classes
# How much of the logarithm of an expression's part in the official stills' targets is taken off its scores at the end.
# The classes' weights take one half of it, this takes the other: as if all expressions were equally frequent.
PRIOR_SHARE = 0.5
MOTION_FRAMES = 16  # the most frames of a clip
# Asked at a time where nothing is learned. Tensors of more frames are above 32 MB, and glibc fetches those from the
# system anew each time: a quarter slower.
FRAMES_ASKED = 32
STAGE_PARTS = ("model", "optimiser", "average")  # of a checkpoint
AVERAGE_DECAY = 0.998  # of the averaged weights that a stage ends with
# A 3 x 3 stem and squeeze-and-excitation: stills of 48 pixels lose nothing in the first layers. Convolutions of all
# channels (groups_width above every width): grouped ones are slow on processors.
BACKBONE: dict[str, Any] = {
    "model_type": "regnet",
    "num_channels": 3,
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [1, 2, 4, 3],
    "groups_width": 4096,
    "layer_type": "y",
    "downsample_in_first_stage": False,
}


@dataclass
class RealPeopleOptions:
    """Options of the command. The published weights come from three calls with others (docs/real_people.md)."""

    stills: list[str] = field(
        metadata={"help": "Data sets of stills; the first has official validation and test splits."}
    )
    clips: list[str] = field(default_factory=list, metadata={"help": "Data sets of clips, for stage 2."})
    clip_protocol: str = field(
        default="folds:4",
        metadata={"help": "Protocol by which the first data set of clips is divided for --clip_fold."},
    )
    clip_fold: str | None = field(
        default=None,
        metadata={"help": "Fold whose test subjects no clip is trained on; the model is tested on their clips."},
    )
    output_dir: str = field(default="runs/real-people", metadata={"help": "Folder for stages, weights and report."})
    seed: int = field(default=0, metadata={"help": "Of weights, order and changes."})
    device: str = field(default="", metadata={"help": "Where the arithmetic runs; empty: a GPU where there is one."})
    threads: int = field(default=0, metadata={"help": "Threads of the arithmetic; 0: all processors."})
    start: str = field(
        default="",
        metadata={
            "help": "Folder of a model of an earlier call, with whose backbone stage 1 goes on; empty: at random."
        },
    )
    vote_share: float = field(
        default=0.75,
        metadata={
            "help": "Share of raters' votes in a still's target, where a data set tells them; the rest: its label."
        },
    )
    clip_stills: int = field(
        default=0,
        metadata={"help": "Frames of every clip, from its middle half, that are learned from as stills too."},
    )
    backbone_epochs: int = field(
        default=30,
        metadata={"help": "Passes over the stills in stage 1; 0: the image model of --start stays as it is."},
    )
    backbone_batch: int = field(default=128, metadata={"help": "Stills of a step of stage 1."})
    backbone_learning_rate: float = field(default=3e-3, metadata={"help": "Peak of stage 1."})
    compile: bool = field(
        default=False,
        metadata={"help": "Compile the steps of stage 1 (torch.compile; needs a C++ compiler on a processor)."},
    )
    cascade_steps: int = field(default=1000, metadata={"help": "Steps of stage 2."})
    still_batch: int = field(default=128, metadata={"help": "Stills of a step of stage 2."})
    clip_batch: int = field(default=32, metadata={"help": "Clips of a step of stage 2."})
    fade_batch: int = field(default=16, metadata={"help": "Fading sequences of a step of stage 2."})
    cascade_learning_rate: float = field(default=1e-3, metadata={"help": "Peak of stage 2."})

    @property
    def fold_suffix(self) -> str:
        """Behind the names of what belongs to one fold of the clips."""
        return f"-fold_{self.clip_fold}" if self.clip_fold is not None else ""

    @property
    def image_suffix(self) -> str:
        """Behind the names of what the image model decides: folds share it unless it learns from their clips."""
        return self.fold_suffix if self.clip_stills else ""


def cascade_config() -> MTCAEConfig:
    """Box -> landmarks -> expression over the frame backbone; heat maps for places, learned queries for expressions."""
    face: dict[str, Any] = {
        "per": "frame",
        "loss": "l1",
        "pooling": "heat_map",
        "heat_map_weight": 0.02,
        "mask_key": "face_found",
    }
    encoder: dict[str, Any] = {"model_type": "frame_backbone", "backbone_config": BACKBONE}
    encoder |= {"image_size": SIZES[-1], "num_frames": MOTION_FRAMES, "num_temporal_layers": 1}
    encoder |= {"weights_origin": "mtcae-real-people"}  # the card of what is trained on from here tells its terms
    return MTCAEConfig(
        encoder_config=encoder | {"num_temporal_attention_heads": 4, "temporal_mlp_ratio": 2.0},
        tasks=[
            {"name": "face_box", "output_shape": [4], "label_key": "face_boxes", "weight": 10.0, **face},
            {"name": "face_landmarks", "output_shape": [5, 2], "weight": 10.0, **face},
            {"name": "expression", "kind": "classification", "label_key": "labels", "pooling": "attention"},
        ],
        decoder_hidden_size=128,
        decoder_num_layers=1,
        decoder_num_attention_heads=2,
        decoder_head_dim=64,
        decoder_mlp_ratio=2.0,
        decoder_zero_start=True,
        pooling_maps=4,
    )


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device))


def make_optimiser(model: nn.Module) -> torch.optim.AdamW:
    """AdamW over what is trained of a model; biases and normalisations do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}])


def one_cycle(progress: float, peak: float) -> float:
    """The learning rate after a share of all steps: up in the first 12 %, then down by a cosine."""
    return (
        peak * (progress / 0.12 if progress < 0.12 else (1 + math.cos(math.pi * (progress - 0.12) / 0.88)) / 2) + 1e-6
    )


def soft_class_weights(targets: np.ndarray) -> torch.Tensor:
    """Weights (K,) that fall with the square root of a class's part in targets (N, K); their mean over these is 1."""
    parts = torch.from_numpy(targets.sum(axis=0)).float()
    weights = (parts.mean() / parts.clamp(min=1)) ** 0.5
    return weights * parts.sum() / (weights * parts).sum()


def soft_cross_entropy(scores: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of scores (B, K) with probabilities (B, K), every class weighted by (K,)."""
    return -(targets * scores.float().log_softmax(dim=-1) * class_weights).sum(dim=-1).mean()


class Trainer(Protocol):
    """What a stage trains."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def optimiser(self) -> torch.optim.Optimizer: ...
    @property
    def average(self) -> WeightAverage: ...


def save_stage(trainer: Trainer, checkpoint: Path, **counts: int) -> None:
    """Keeps, whole or not at all, from where a stage would go on; `counts` say how far it has come."""
    state: dict[str, Any] = {name: getattr(trainer, name).state_dict() for name in STAGE_PARTS}
    with replacing(checkpoint) as temporary:
        torch.save(state | counts, temporary)


def load_stage(trainer: Trainer, checkpoint: Path, device: torch.device) -> dict[str, int]:
    """Goes on from a checkpoint; returns the counts that were kept."""
    state = torch.load(checkpoint, weights_only=True, map_location=device)
    for name in STAGE_PARTS:
        getattr(trainer, name).load_state_dict(state.pop(name))
    return state


def finished(checkpoint: Path) -> Path:
    """The weights that a stage ends with, beside its checkpoint."""
    return checkpoint.with_suffix(".safetensors")


def finish(model: nn.Module, checkpoint: Path) -> None:
    """Keeps a stage's weights and drops the checkpoint from which it would go on."""
    with replacing(finished(checkpoint)) as temporary:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    checkpoint.unlink(missing_ok=True)
