"""Options of a pre-training, and where their values come from; see `training/arguments.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mtcae_dfer.configuration_common import require
from mtcae_dfer.configuration_lgi_former import RECONSTRUCTION_TARGETS
from mtcae_dfer.training.arguments import (
    PRETRAINING_PRESETS,
    ClipStepArguments,
    FaceCropArguments,
    ProtocolArguments,
    SyntheticArguments,
    check_face_crop,
    check_step_arguments,
    flatten_options,
    option,
    parse_groups,
)


@dataclass
class VideoArguments(FaceCropArguments, ProtocolArguments, SyntheticArguments):
    """Which videos are watched, and what of them."""

    videos: str | None = option(
        None,
        "Any folder tree of videos, or a built data set, of which the training clips are watched; "
        "empty = draw synthetic clips.",
    )
    synthetic_dir: str = option("runs/synthetic-unlabelled", "Where the drawn clips are kept and reused.")
    synthetic_seed: int = option(1000, "Seed of the drawing; training/run.py's own default draws other people.")
    held_out_clips: int = option(8, "Videos that are not trained on: their loss is logged, some are drawn.")
    frame_stride: int | None = option(
        None, "Frames from one sampled frame to the next, from a random start; empty = the whole video."
    )
    crop_box: list[float] | None = option(
        None, "Part of every frame that is cut out first: x1 y1 x2 y2 / frame width and height."
    )
    crop_scales: list[float] = field(
        default_factory=lambda: [1.0, 0.875, 0.75, 0.66],
        metadata={"help": "Sides of the random crops / shorter side of the frame, the largest first."},
    )
    flip_probability: float = option(0.0, "Share of clips mirrored left to right.")
    cache_frames_gb: float = option(
        4.0, "Decoded frames up to this many GB stay in memory, where no stride draws new ones."
    )


@dataclass
class ObjectiveArguments:
    """Which model is pre-trained, and what it has to predict."""

    model: str = option(
        "tiny", "Preset (training/configs/pretraining), or a folder or Hub id of a pre-training checkpoint."
    )
    encoder_preset: str | None = option(None, "Preset of training/run.py whose encoder a preset pre-trains.")
    model_config: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Fields of the encoder's config that a preset or YAML file sets."}
    )
    whiten_patch_embedding: bool = option(
        False, "Start a fresh patch embedding from the videos' tubelets' principal components."
    )
    reconstruction_target: str = option(
        "appearance_and_motion", "appearance_and_motion (MAE-DFER) or pixels (VideoMAE)."
    )
    norm_pix_loss: bool = option(True, "Targets are normalised per tubelet and channel.")
    motion_loss_weight: float | None = option(
        None, "Share of the motion loss in 0 ... 1; empty = every predicted value alike."
    )
    mask_ratio: float = option(0.9, "Share of masked places in every region.")
    mask_region: list[int] | None = option(
        None,
        "Time, height and width of the mask's regions in tokens; empty = LGI-Former's own regions, "
        "or for VideoMAE the whole clip.",
    )


@dataclass
class PretrainingStepArguments(ClipStepArguments):
    """How it is trained, and what is drawn on the way."""

    picture_epochs: int = option(0, "Epochs between two pictures of reconstructions; 0 = one at the end.")


@dataclass
class PretrainingArguments:
    """All options of one pre-training."""

    data: VideoArguments
    objective: ObjectiveArguments
    optimisation: PretrainingStepArguments

    def to_dict(self) -> dict[str, Any]:
        """The resolved options as one flat dictionary, as `--config` reads it back."""
        return flatten_options(self.data, self.objective, self.optimisation)


def parse_pretraining_arguments(arguments: Sequence[str] | None = None) -> PretrainingArguments:
    """Resolves the options from a command line (default: this process's).

    Raises:
        ValueError: an options file is wrong, or a value breaks its rule.
    """
    groups = (VideoArguments, ObjectiveArguments, PretrainingStepArguments)
    parsed = parse_groups(groups, arguments, "Pre-trains an encoder on videos without labels.", PRETRAINING_PRESETS)
    resolved = PretrainingArguments(*parsed)
    check_pretraining_arguments(resolved.to_dict())
    return resolved


def check_pretraining_arguments(options: dict[str, Any]) -> None:
    """Refuses values that no pre-training can use, each with its option, value and rule."""
    check_step_arguments(options)
    check_face_crop(options)
    rule = "cannot be combined with --crop_box, which cuts all videos alike"
    require(not (options["face_crop"] and options["crop_box"]), "--face_crop", True, rule)
    lowest = {"held_out_clips": 1, "picture_epochs": 0, "cache_frames_gb": 0, "dataloader_num_workers": 0}
    for name, least in lowest.items():
        require(options[name] >= least, f"--{name}", options[name], f"must be at least {least}")
    stride, box, scales = options["frame_stride"], options["crop_box"], options["crop_scales"]
    require(stride is None or stride >= 1, "--frame_stride", stride, "must be at least 1")
    inside = box is None or (len(box) == 4 and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1)
    require(inside, "--crop_box", box, "must be x1 y1 x2 y2 with 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
    require(scales and all(0 < scale <= 1 for scale in scales), "--crop_scales", scales, "must lie in (0, 1]")
    flip = options["flip_probability"]
    require(0 <= flip <= 1, "--flip_probability", flip, "must be in [0, 1]")
    target, weight = options["reconstruction_target"], options["motion_loss_weight"]
    allowed = " or ".join(RECONSTRUCTION_TARGETS)
    require(target in RECONSTRUCTION_TARGETS, "--reconstruction_target", target, f"must be {allowed}")
    require(weight is None or 0 <= weight <= 1, "--motion_loss_weight", weight, "must be in [0, 1]")
    rule = "the target 'pixels' has no motion part; leave it out"
    require(weight is None or target != "pixels", "--motion_loss_weight", weight, rule)
    require(0 < options["mask_ratio"] < 1, "--mask_ratio", options["mask_ratio"], "must be in (0, 1)")
