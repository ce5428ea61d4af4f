"""A small cascade for real people: stills and motion trained together ("static for dynamic", S4D, IEEE TAC 2025).

    python -m mtcae_dfer.experiments.real_people --stills FER2013 LFW --clips AVATARS --output_dir runs/real-people

    stills ──► 1. teachers: residual networks, each trained on the stills of all folds but one, say what they see in
                  the stills of that fold; half of every still's target is their answer (its label may be wrong)
    stills ──► 2. a residual network learns these targets, boxes and points
                  │ its feature map, frame by frame
    stills ─┐     ▼
    clips ──┴► 3. box → landmarks → expression: the cascade on this encoder, on stills (clips of one frame), on clips,
                  and on sequences that fade from the features of a neutral still to those of an expressive one
                  │
    stills ──► 4. a temperature for the scores on the validation stills; then the test stills, once

The data sets are built by `mtcae dataset build stills` and `mtcae dataset build ravdess`. Every stage is kept in the
output folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import HfArgumentParser, ResNetConfig, ResNetModel

from mtcae_dfer.configuration_mtcae import EXPRESSIONS, MTCAEConfig
from mtcae_dfer.hub_dataset.clips import UNKNOWN_SUBJECT, DatasetError
from mtcae_dfer.hub_dataset.files import hash_file, replacing, write_json, writing_in
from mtcae_dfer.hub_dataset.folds import SPLITS
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset
from mtcae_dfer.hub_dataset.loading.protocols import find_fold, resolve_protocol
from mtcae_dfer.modeling_frame_backbone import FrameBackboneModel
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.data.faces import (
    PIXEL_MEAN,
    PIXEL_STD,
    FaceAugmentation,
    FaceBatch,
    FaceCut,
    FaceSet,
    face_squares,
    join_faces,
    make_batch,
    smooth_targets,
)
from mtcae_dfer.training.data.frame_cache import READING_THREADS
from mtcae_dfer.training.errors import line_for_the_user
from mtcae_dfer.training.evaluation.metrics import (
    confusion_matrix,
    face_box_iou,
    landmark_nme,
    per_class_recall,
    unweighted_average_recall,
    weighted_average_recall,
)
from mtcae_dfer.training.optimisation import WeightAverage
from mtcae_dfer.video_reading import read_clip, resize_frames

PICTURE_SIDE = 128  # pixels of a kept picture
KEPT_FACES = 1.6  # side of a kept picture / side of the square that is cut around the face, where there is so much
SIZES = (64, 96)  # sides of the cut frames in pixels: of the first epochs of stages 1 and 2, and of everything else
SMOOTHING = 0.1  # share of a label that is spread over all classes
TEACHER_SHARE = 0.5  # of a still's target that is the teachers' answer
MOTION_FRAMES = 16  # the most frames of a clip
PLACES_GRID = 4  # cells along a side of the feature map from which stage 2 reads boxes and points
CLIP_WEIGHT, FADE_WEIGHT, FADE_FRAMES = 0.5, 0.5, 8  # of the losses of clips and fades beside the stills'; frames
BACKBONE_SHARE = 0.3  # of the learning rate in stage 3
SAVE_STEPS = 200
AVERAGE_DECAY = 0.998  # of the averaged weights that a stage ends with
MEMORY_ADVICE = "give fewer data sets: their pictures are kept in memory"
BACKBONE: dict[str, Any] = {
    "num_channels": 3,
    "embedding_size": 32,
    "hidden_sizes": [64, 128, 256],
    "depths": [2, 2, 2],
    "layer_type": "basic",
}
COMMON = (EXPRESSIONS.index("neutral"), EXPRESSIONS.index("happiness"))


@dataclass
class RealPeopleOptions:
    """Options of the command. The defaults are those of the published weights."""

    stills: list[str] = field(
        metadata={"help": "Data sets of stills; the first has official validation and test splits."}
    )
    clips: list[str] = field(default_factory=list, metadata={"help": "Data sets of clips, for stage 3."})
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
    teachers: int = field(default=3, metadata={"help": "Folds and teachers of stage 1; 0: labels alone."})
    teacher_epochs: int = field(default=36, metadata={"help": "Passes over its stills of each teacher."})
    teacher_width: float = field(default=1.0, metadata={"help": "Channels of a teacher / those of the backbone."})
    start: str = field(
        default="",
        metadata={
            "help": "Folder of a model of an earlier call, with whose backbone stage 2 goes on; empty: at random."
        },
    )
    backbone_epochs: int = field(default=60, metadata={"help": "Passes over the stills in stage 2."})
    small_share: float = field(default=0.4, metadata={"help": "Share of the epochs with frames of 64 pixels; then 96."})
    backbone_batch: int = field(default=256, metadata={"help": "Stills of a step of stages 1 and 2."})
    backbone_learning_rate: float = field(default=3e-3, metadata={"help": "Peak of stages 1 and 2."})
    cascade_steps: int = field(default=2000, metadata={"help": "Steps of stage 3."})
    still_batch: int = field(default=128, metadata={"help": "Stills of a step of stage 3."})
    clip_batch: int = field(default=8, metadata={"help": "Clips of a step of stage 3."})
    fade_batch: int = field(default=16, metadata={"help": "Fading sequences of a step of stage 3."})
    cascade_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak of stage 3; the backbone learns at 0.3 of it."}
    )

    @property
    def fold_suffix(self) -> str:
        """Behind the names of what belongs to one fold of the clips: such runs share stages 1 and 2."""
        return f"-fold_{self.clip_fold}" if self.clip_fold is not None else ""


# ------------------------------------------------------------------------------ stages 1 and 2: teachers and backbone


@dataclass(frozen=True)
class Lesson:
    """What one classifier of stills is trained on."""

    name: str  # of the checkpoint's file and of the lines that are printed
    epochs: int
    width: float = 1.0  # channels / those of the published backbone
    seen: np.ndarray | None = None  # (N,) which stills it is trained on; None: all
    start: str = ""  # folder of the cascade with whose backbone it begins; empty: at random


class StillClassifier(nn.Module):
    """A residual network with dense layers on its feature map: expressions, and where box and points are.

    Args:
        backbone: a residual network of 16 pixels a cell.
    """

    def __init__(self, backbone: ResNetModel) -> None:
        super().__init__()
        self.backbone = backbone
        sizes: Any = backbone.config.hidden_sizes
        channels = sizes[-1]
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(channels, len(EXPRESSIONS))
        self.places = nn.Linear(channels * PLACES_GRID**2, 14)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S) -> (B, K) scores; (B, 14) box and five points, divided by the side."""
        features = self.backbone(pictures).last_hidden_state.float()
        cells = functional.adaptive_avg_pool2d(features, PLACES_GRID)
        return self.output(self.dropout(features.mean(dim=(2, 3)))), self.places(cells.flatten(1))


def make_classifier(lesson: Lesson) -> StillClassifier:
    """The network with which a lesson begins.

    Raises:
        ValueError: the folder that it begins with holds a cascade on another backbone.
    """
    if not lesson.start:
        channels = [round(lesson.width * size) for size in BACKBONE["hidden_sizes"]]
        return StillClassifier(ResNetModel(ResNetConfig(**(BACKBONE | {"hidden_sizes": channels}))))
    encoder = MTCAEForMultiTaskVideo.from_pretrained(lesson.start).encoder
    stored = encoder.config.backbone_config if isinstance(encoder, FrameBackboneModel) else None
    different = [name for name, value in BACKBONE.items() if getattr(stored, name, None) != value]
    if not isinstance(encoder, FrameBackboneModel) or not isinstance(encoder.backbone, ResNetModel) or different:
        told = f"its backbone differs in {', '.join(different) or 'kind'}; give the folder of a model of this command"
        raise ValueError(f"--start {lesson.start}: {told}")
    return StillClassifier(encoder.backbone)


def order_of_epoch(stills: FaceSet, official: int, epoch: int, seed: int) -> np.ndarray:
    """Positions of one epoch's stills: the official ones all, of the others those of rare classes more often.

    Args:
        stills: those of all data sets, the official ones first.
        official: how many these are.
        epoch: decides the order, with the seed.
    """
    random = np.random.default_rng([seed, 1, epoch])
    others = np.arange(official, len(stills))
    common = others[np.isin(stills.labels[others], COMMON)]
    rare = others[~np.isin(stills.labels[others], COMMON)]
    disgust = np.flatnonzero(stills.labels[:official] == EXPRESSIONS.index("disgust"))
    some = random.choice(common, len(common) // 3, replace=False)
    return random.permutation(np.concatenate([np.arange(official), disgust, rare, rare, some]))


def fold_of_stills(subjects: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold (N,) for every still; all stills of a known subject are in one."""
    random = np.random.default_rng([seed, 5])
    names, positions = np.unique(subjects, return_inverse=True)
    of_names, of_stills = random.integers(0, folds, len(names)), random.integers(0, folds, len(subjects))
    return np.where(subjects == UNKNOWN_SUBJECT, of_stills, of_names[positions])


def teach(stills: FaceSet, official: int, validation: FaceSet, options: RealPeopleOptions) -> np.ndarray:
    """Stage 1: what the stills' targets become, (N, K).

    Every still is judged by a teacher that has not seen it, so that a wrong label is not learned by heart first.
    """
    file = Path(options.output_dir) / "teachers.safetensors"
    if not file.exists():
        folds = fold_of_stills(stills.subjects, options.teachers, options.seed)
        answers = np.zeros_like(stills.targets)
        for fold in range(options.teachers):
            lesson = Lesson(f"teacher_{fold + 1}", options.teacher_epochs, options.teacher_width, folds != fold)
            teacher = train_classifier(lesson, stills, official, validation, options)
            held_out = stills.select(folds == fold)
            scores = score_stills(teacher, held_out, SIZES[-1])
            answers[folds == fold] = scores.softmax(dim=-1).cpu().numpy()
            right = (answers[folds == fold].argmax(axis=1) == held_out.labels).mean()
            print(f"stage 1, teacher {fold + 1}: agrees with {right:.3f} of {len(held_out)} labels", flush=True)
        with replacing(file) as temporary:
            save_file({"answers": answers}, temporary)
    answers = load_file(file)["answers"]
    return ((1 - TEACHER_SHARE) * stills.targets + TEACHER_SHARE * answers).astype(np.float32)


def train_classifier(
    lesson: Lesson, stills: FaceSet, official: int, validation: FaceSet, options: RealPeopleOptions
) -> StillClassifier:
    """Trains a classifier of stills; returns it with averaged weights and normalisation statistics.

    AdamW, one cycle, mixup; where it begins at random, frames of 64 pixels first. A checkpoint after every epoch; what
    is finished is only loaded.

    Args:
        lesson: what is trained on what.
        stills: all of them, the official ones first.
        official: how many these are.
        validation: stills whose figures are printed; nothing is chosen by them.
        options: of the command.
    """
    file, epochs = Path(options.output_dir) / f"{lesson.name}.pt", lesson.epochs
    device, batch_size = stills.pictures.device, options.backbone_batch
    torch.manual_seed(options.seed)
    model = make_classifier(lesson)
    if finished(file).exists():
        model.load_state_dict(load_torch_file(finished(file)))
        return model.to(device)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = WeightAverage(model.parameters(), AVERAGE_DECAY, model.buffers())
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    )
    orders = [order_of_epoch(stills, official, epoch, options.seed) for epoch in range(epochs)]
    if lesson.seen is not None:
        orders = [order[lesson.seen[order]] for order in orders]
    total = sum(len(order) // batch_size for order in orders)
    class_weights = soft_class_weights(stills.labels[orders[0]]).to(device)
    squares, begun, step = face_squares(stills.face_landmarks, FaceCut()), 0, 0
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        begun, step = state["epoch"], state["step"]
    for epoch in range(begun, epochs):
        full_size = bool(lesson.start) or epoch >= options.small_share * epochs
        size, start = SIZES[full_size], time.perf_counter()
        random = np.random.default_rng([options.seed, 2, epoch])
        torch.manual_seed(1000 * options.seed + epoch)  # dropout is drawn anew in every epoch, also after a stop
        losses = torch.zeros((), device=device)
        model.train()
        for number in range(len(orders[epoch]) // batch_size):
            indices = orders[epoch][number * batch_size : (number + 1) * batch_size]
            batch = make_batch(stills, squares, indices, size, FaceAugmentation(), random)
            pictures, targets = batch.pixel_values[:, 0], batch.targets
            places = torch.cat([batch.face_boxes[:, 0], batch.face_landmarks[:, 0].flatten(1)], dim=1)
            if random.random() < 0.5:
                share, partners = random.beta(0.4, 0.4), torch.from_numpy(random.permutation(batch_size)).to(device)
                pictures = torch.lerp(pictures[partners], pictures, share)
                targets = torch.lerp(targets[partners], targets, share)
                places = torch.full_like(places, math.nan)  # of which face?
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step / total, options.backbone_learning_rate)
            with precision(device):
                scores, found_places = model(pictures.contiguous(memory_format=torch.channels_last))
            loss = soft_cross_entropy(scores, targets, class_weights)
            known = places.isfinite()
            distances = (found_places.float() - places.nan_to_num()).abs() * known
            optimiser.zero_grad()
            (loss + 2.0 * distances.sum() / known.sum().clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            step += 1
            losses += loss.detach()
            average.update()
        with average.in_place():
            scores = score_stills(model, validation, size)
        accuracy, uar = recalls(scores.argmax(dim=-1).cpu().numpy(), validation.labels)
        print(
            f"{lesson.name}, epoch {epoch + 1} of {epochs}, {size} pixels: loss {losses.item() / (number + 1):.3f}, "
            f"validation accuracy {accuracy:.3f}, UAR {uar:.3f}, {time.perf_counter() - start:.1f} s",
            flush=True,
        )
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        with replacing(file) as temporary:
            torch.save(state | {"epoch": epoch + 1, "step": step}, temporary)
    average.keep()
    finish(model, file)
    return model


def finished(checkpoint: Path) -> Path:
    """The weights that a stage ends with, beside its checkpoint."""
    return checkpoint.with_suffix(".safetensors")


def finish(model: nn.Module, checkpoint: Path) -> None:
    """Keeps a stage's weights and drops the checkpoint from which it would go on."""
    with replacing(finished(checkpoint)) as temporary:
        save_torch_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def score_stills(model: StillClassifier, stills: FaceSet, size: int) -> torch.Tensor:
    """Scores (N, K) of stills as they are, cut as at prediction."""
    model.eval()
    squares, scores = face_squares(stills.face_landmarks, FaceCut()), []
    for begin in range(0, len(stills), 256):
        indices = np.arange(begin, min(begin + 256, len(stills)))
        pictures = make_batch(stills, squares, indices, size).pixel_values[:, 0]
        with precision(pictures.device):
            scores.append(model(pictures.contiguous(memory_format=torch.channels_last))[0].float())
    return torch.cat(scores)


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it; a processor that does not would take twelve times float32's time."""
    computes = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=computes)


def recalls(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy and UAR."""
    classes = len(EXPRESSIONS)
    return (
        weighted_average_recall(predicted, labels, classes),
        unweighted_average_recall(predicted, labels, classes),
    )


def soft_cross_entropy(scores: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of scores (B, K) with probabilities (B, K), every class weighted by (K,)."""
    return -(targets * scores.float().log_softmax(dim=-1) * class_weights).sum(dim=-1).mean()


def one_cycle(progress: float, peak: float) -> float:
    """The learning rate after a share of all steps: up in the first 12 %, then down by a cosine."""
    return (
        peak * (progress / 0.12 if progress < 0.12 else (1 + math.cos(math.pi * (progress - 0.12) / 0.88)) / 2) + 1e-6
    )


def soft_class_weights(labels: np.ndarray) -> torch.Tensor:
    """Weights (K,) that fall with the 0.3rd power of a class's count; their mean over the stills is 1."""
    counts = torch.bincount(torch.from_numpy(labels), minlength=len(EXPRESSIONS)).float()
    weights = (counts.mean() / counts.clamp(min=1)) ** 0.3
    return weights * counts.sum() / (weights * counts).sum()


# -------------------------------------------------------------------------------------------------- stage 3: cascade


def cascade_config() -> MTCAEConfig:
    """Box -> landmarks -> expression over the frame backbone; heat maps for places, learned queries for expressions."""
    face: dict[str, Any] = {
        "per": "frame",
        "loss": "l1",
        "pooling": "heat_map",
        "heat_map_weight": 0.02,
        "mask_key": "face_found",
    }
    encoder: dict[str, Any] = {"model_type": "frame_backbone", "backbone_config": {"model_type": "resnet", **BACKBONE}}
    encoder |= {"image_size": SIZES[-1], "num_frames": MOTION_FRAMES, "num_temporal_layers": 1}
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


def make_cascade(classifier: StillClassifier, seed: int) -> MTCAEForMultiTaskVideo:
    """The cascade on the residual network of stage 2."""
    torch.manual_seed(seed)
    model = MTCAEForMultiTaskVideo(cascade_config())
    encoder_of(model).backbone.load_state_dict(classifier.backbone.state_dict())
    return model


def encoder_of(model: MTCAEForMultiTaskVideo) -> FrameBackboneModel:
    """The model's encoder, known to be a frame backbone."""
    assert isinstance(model.encoder, FrameBackboneModel)
    return model.encoder


def fade_strengths(random: np.random.Generator, count: int, frames: int) -> np.ndarray:
    """How strong an expression is in each frame of `count` sequences, (count, T) in [0, 1].

    Half rise from neutral to the end, a quarter rise and fall, a quarter hold the expression throughout.
    """
    time_axis = np.linspace(0, 1, frames)
    begin, length = random.uniform(-0.1, 0.6, (count, 1)), random.uniform(0.1, 0.4, (count, 1))
    rise = np.clip((time_axis - begin) / length, 0, 1)
    fall = np.clip((begin + length + random.uniform(0.2, 0.5, (count, 1)) - time_axis) / length, 0, 1)
    kind = random.random((count, 1))
    strengths = np.where(kind < 0.5, rise, np.where(kind < 0.75, np.minimum(rise, fall), 1.0))
    return (strengths * strengths * (3 - 2 * strengths)).astype(np.float32)


def fade_sequences(
    features: torch.Tensor, labels: np.ndarray, count: int, frames: int, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Sequences of features that fade from neutral stills to any stills.

    Args:
        features: (B, h * w, D) of stills.
        labels: (B,) their expressions.
        count: how many sequences.
        frames: T.
        random: where they are drawn from.

    Returns:
        (count, T, h * w, D), and which still each ends with, (count,); None where no still is neutral.
    """
    neutral = np.flatnonzero(labels == EXPRESSIONS.index("neutral"))
    if not len(neutral):
        return None
    first = torch.from_numpy(random.choice(neutral, count)).to(features.device)
    last = torch.from_numpy(random.choice(len(labels), count, replace=False)).to(features.device)
    strengths = torch.from_numpy(fade_strengths(random, count, frames)).to(features)[:, :, None, None]
    return torch.lerp(features[first].unsqueeze(1), features[last].unsqueeze(1), strengths), last


class CascadeTrainer:
    """Stage 3: a step sees stills, clips, and sequences of faded features. Normalisation statistics stay."""

    def __init__(
        self,
        model: MTCAEForMultiTaskVideo,
        stills: FaceSet,
        official: int,
        clips: FaceSet | None,
        options: RealPeopleOptions,
    ) -> None:
        self.model, self.stills, self.clips, self.options = model, stills, clips, options
        self.still_squares = face_squares(stills.face_landmarks, FaceCut())
        self.clip_squares = face_squares(clips.face_landmarks, FaceCut()) if clips is not None else None
        self.official, self.epoch, self.order = official, -1, np.zeros(0, int)
        self.encoder = encoder_of(model)
        known = {id(parameter) for parameter in self.encoder.backbone.parameters()}
        others = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in others if parameter.ndim > 1], "scale": 1.0},
            {"params": [parameter for parameter in others if parameter.ndim <= 1], "scale": 1.0, "weight_decay": 0.0},
            {"params": list(self.encoder.backbone.parameters()), "scale": BACKBONE_SHARE},
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
        order = order_of_epoch(stills, official, 0, options.seed)
        self.steps_per_epoch = len(order) // options.still_batch
        self.class_weights = soft_class_weights(stills.labels[order]).to(stills.pictures.device)
        self.average = WeightAverage(model.parameters(), AVERAGE_DECAY)
        self.step = 0

    def next_stills(self) -> np.ndarray:
        """Positions of the step's stills, epoch after epoch."""
        epoch, number = divmod(self.step, self.steps_per_epoch)
        if epoch != self.epoch:
            # Other orders than those of stages 1 and 2.
            self.order = order_of_epoch(self.stills, self.official, 1000 + epoch, self.options.seed)
            self.epoch = epoch
        return self.order[number * self.options.still_batch : (number + 1) * self.options.still_batch]

    def run_step(self) -> dict[str, torch.Tensor]:
        """One step; its losses by name."""
        options, device = self.options, self.stills.pictures.device
        random = np.random.default_rng([options.seed, 3, self.step])
        for group in self.optimiser.param_groups:
            group["lr"] = group["scale"] * one_cycle(self.step / options.cascade_steps, options.cascade_learning_rate)
        self.model.train()
        self.encoder.backbone.eval()
        self.optimiser.zero_grad()
        indices = self.next_stills()
        batch = make_batch(self.stills, self.still_squares, indices, SIZES[-1], FaceAugmentation(), random)
        labels = self.stills.labels[indices]
        with precision(device):
            # (B, 1, 3, S, S) -> (B, 1, h * w, D)
            features = self.encoder.encode_frames(batch.pixel_values)
            faded = fade_sequences(features[:, 0], labels, options.fade_batch, FADE_FRAMES, random)
            still_loss, losses = self._losses(self.encoder.encode_over_time(features), batch)
            fade_loss = torch.zeros((), device=device)
            if faded is not None:
                outputs = self.model(encoded_clips=self.encoder.encode_over_time(faded[0]))
                fade_loss = soft_cross_entropy(outputs.logits, batch.targets[faded[1]], self.class_weights)
        # The features' graph serves both losses, so it is walked through once.
        (still_loss + FADE_WEIGHT * fade_loss).backward()
        named = losses | {"faded": fade_loss}
        if self.clips is not None and self.clip_squares is not None:
            indices = random.choice(len(self.clips), options.clip_batch, replace=False)
            batch = make_batch(self.clips, self.clip_squares, indices, SIZES[-1], FaceAugmentation(), random)
            with precision(device):
                features = self.encoder.encode_frames(batch.pixel_values)
                clip_loss, losses = self._losses(self.encoder.encode_over_time(features), batch)
            (CLIP_WEIGHT * clip_loss).backward()
            named["clips"] = losses["expression"]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update()
        self.step += 1
        return {name: loss.detach() for name, loss in named.items()}

    def _losses(self, encoded: torch.Tensor, batch: FaceBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        outputs = self.model(
            encoded_clips=encoded,
            labels=batch.labels,
            face_boxes=batch.face_boxes,
            face_landmarks=batch.face_landmarks,
            face_found=batch.face_found,
        )
        expression_loss = soft_cross_entropy(outputs.logits, batch.targets, self.class_weights)
        losses = dict(outputs.task_losses) | {"expression": expression_loss}
        return torch.stack([task.weight * losses[task.name] for task in self.model.tasks]).sum(), losses


def train_cascade(
    model: MTCAEForMultiTaskVideo, stills: FaceSet, official: int, clips: FaceSet | None, options: RealPeopleOptions
) -> None:
    """Stage 3, with a checkpoint every `SAVE_STEPS`; the model ends with its averaged weights."""
    file = Path(options.output_dir) / f"cascade{options.fold_suffix}.pt"
    if finished(file).exists():
        model.load_state_dict(load_torch_file(finished(file)))
        model.eval()
        return
    trainer = CascadeTrainer(model, stills, official, clips, options)
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=stills.pictures.device)
        model.load_state_dict(state["model"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.average.load_state_dict(state["average"])
        trainer.step = state["step"]
    sums: dict[str, torch.Tensor] = {}
    start, begun = time.perf_counter(), trainer.step
    while trainer.step < options.cascade_steps:
        for name, loss in trainer.run_step().items():
            sums[name] = sums[name] + loss if name in sums else loss
        if trainer.step % SAVE_STEPS and trainer.step < options.cascade_steps:
            continue
        steps = (trainer.step - 1) % SAVE_STEPS + 1
        told = ", ".join(f"{name} {total.item() / steps:.3f}" for name, total in sums.items())
        pace = (time.perf_counter() - start) / (trainer.step - begun)
        print(f"stage 3, step {trainer.step} of {options.cascade_steps}: {told}, {pace:.3f} s a step", flush=True)
        sums.clear()
        save_cascade(trainer, file)
    trainer.average.keep()
    model.eval()
    finish(model, file)


def save_cascade(trainer: CascadeTrainer, file: Path) -> None:
    """A checkpoint, whole or not at all."""
    state = {"model": trainer.model.state_dict(), "optimiser": trainer.optimiser.state_dict()}
    with replacing(file) as temporary:
        torch.save(state | {"average": trainer.average.state_dict(), "step": trainer.step}, temporary)


# -------------------------------------------------------------------------------------------------- stage 4: figures


@dataclass
class Answers:
    """What a model says of N clips or stills.

    Attributes:
        scores: (N, K) before the softmax.
        boxes: (N, T, 4) in the cut.
        landmarks: (N, T, 5, 2), likewise.
        batch: the labels.
    """

    scores: torch.Tensor
    boxes: torch.Tensor
    landmarks: torch.Tensor
    batch: FaceBatch


@torch.no_grad()
def answer(model: MTCAEForMultiTaskVideo, faces: FaceSet) -> Answers:
    """Predictions for whole sets, cut as at prediction, in float32."""
    model.eval()
    squares, parts = face_squares(faces.face_landmarks, FaceCut()), []
    clips_at_once = max(1, 128 // faces.pictures.shape[1])
    for begin in range(0, len(faces), clips_at_once):
        indices = np.arange(begin, min(begin + clips_at_once, len(faces)))
        batch = make_batch(faces, squares, indices, SIZES[-1])
        outputs = model(batch.pixel_values)
        batch.pixel_values = batch.pixel_values[:, :0]  # only the labels are kept
        labels = FaceBatch(**{name: value.cpu() for name, value in vars(batch).items()})
        parts.append(Answers(outputs.logits.cpu(), outputs.face_boxes.cpu(), outputs.face_landmarks.cpu(), labels))
    joined = {name: torch.cat([getattr(part.batch, name) for part in parts]) for name in vars(parts[0].batch)}
    return Answers(
        scores=torch.cat([part.scores for part in parts]),
        boxes=torch.cat([part.boxes for part in parts]),
        landmarks=torch.cat([part.landmarks for part in parts]),
        batch=FaceBatch(**joined),
    )


def fit_temperature(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature that makes the softmax of scores / temperature most likely for the labels (Guo et al., 2017)."""
    log_temperature = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([log_temperature], max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(scores / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(log_temperature.detach().exp())


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean distance between confidence and share of right answers, over bins of equal width by their stills."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[places == place].mean() - right[places == place].mean()) * (places == place).mean()
        for place in range(bins)
        if (places == place).any()
    ]
    return float(sum(gaps))


def figures_of(answers: Answers) -> dict[str, Any]:
    """Accuracy, UAR, recalls, confusion, calibration, and the face tasks' figures where a face was found."""
    labels, found = answers.batch.labels.numpy(), answers.batch.face_found.numpy()
    probabilities = answers.scores.softmax(dim=-1).numpy()
    predicted, classes = probabilities.argmax(axis=1), len(EXPRESSIONS)
    return {
        "count": len(labels),
        "accuracy": weighted_average_recall(predicted, labels, classes),
        "uar": unweighted_average_recall(predicted, labels, classes),
        "recall": dict(zip(EXPRESSIONS, per_class_recall(predicted, labels, classes).tolist(), strict=True)),
        "confusion_matrix": confusion_matrix(predicted, labels, classes).tolist(),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "face_box_iou": face_box_iou(answers.boxes.numpy(), answers.batch.face_boxes.numpy(), found),
        "landmark_nme": landmark_nme(answers.landmarks.numpy(), answers.batch.face_landmarks.numpy(), found),
    }


# ------------------------------------------------------------------------------------------------------- the command


def read_faces(dataset_dir: str, splits: Sequence[str], cache_dir: Path) -> FaceSet:
    """Clips of a built data set as square pictures of `PICTURE_SIDE` pixels around the face, those of all given splits.

    They are kept in `cache_dir` once they are decoded. Clips of other classes than `EXPRESSIONS` are left out.

    Raises:
        DatasetError: there is no such data set, or none of its clips has one of `EXPRESSIONS`.
    """
    # Named by what was built, too: a data set of the same name, or built anew, is decoded anew.
    build = Path(dataset_dir) / "build_report.json"
    digest = hash_file(build)[0][:12] if build.is_file() else "unknown"
    file = cache_dir / f"faces-{Path(dataset_dir).name}-{digest}-{'-'.join(splits)}.safetensors"
    if not file.exists():
        rows = load_multitask_dataset(dataset_dir)
        names = rows[next(iter(rows))].features["expression"].names
        parts = [row for split in splits if split in rows for row in tqdm(rows[split], desc=f"{dataset_dir} {split}")]
        known = [row for row in parts if names[row["expression"]] in EXPRESSIONS]
        if not known:
            raise DatasetError(
                f"{dataset_dir}: has no clip in the splits {', '.join(splits)} with one of the expressions "
                f"{', '.join(EXPRESSIONS)}"
            )
        if len(known) < len(parts):
            foreign = sorted({names[row["expression"]] for row in parts} - set(EXPRESSIONS))
            print(f"{dataset_dir}: {len(parts) - len(known)} clips left out ({', '.join(foreign)})", flush=True)

        def read(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            frames = read_clip(clip_bytes(row), frame_indices=row["frame_indices"]).frames
            boxes, landmarks = (np.asarray(row[name], np.float32) for name in ("face_boxes", "face_landmarks"))
            return keep_face(frames, boxes, landmarks)

        with ThreadPoolExecutor(READING_THREADS) as readers:
            kept = list(tqdm(readers.map(read, known), total=len(known), desc="Decoding", unit="clip"))
        pictures, boxes, landmarks = (np.stack(column) for column in zip(*kept, strict=True))
        labels = np.array([EXPRESSIONS.index(names[row["expression"]]) for row in known])
        subjects = np.frombuffer("\n".join(row["subject"] for row in known).encode(), np.uint8)
        arrays = {"pictures": pictures, "face_boxes": boxes, "face_landmarks": landmarks, "labels": labels}
        with replacing(file) as temporary:
            save_file(arrays | {"subjects": subjects}, temporary)
    stored = load_file(file)
    return FaceSet(
        pictures=torch.from_numpy(stored["pictures"]),
        labels=stored["labels"],
        targets=smooth_targets(stored["labels"], len(EXPRESSIONS), SMOOTHING),
        face_boxes=stored["face_boxes"],
        face_landmarks=stored["face_landmarks"],
        subjects=np.array(stored["subjects"].tobytes().decode().split("\n")),
    )


def keep_face(
    frames: torch.Tensor, boxes: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The square around a clip's face, with room for random cuts.

    The whole frame where no face was found; a square that is larger than the frame is made as large as it.

    Args:
        frames: uint8 (T, 3, H, W).
        boxes: float32 (T, 4), divided by the frame's width and height.
        landmarks: float32 (T, 5, 2), likewise.

    Returns:
        Pictures uint8 (T, 3, P, P); boxes and points divided by their side.
    """
    height, width = frames.shape[-2:]
    scale = np.array([width, height], np.float32)
    rule = FaceCut(shortest=FaceCut().shortest * height)
    ((x, y, side),) = face_squares((landmarks * scale)[None], rule)
    if side == 1.0:  # of no face
        left, top, right, bottom = 0, 0, width, height
    else:
        extent = round(min(KEPT_FACES * side, width, height))
        left = round(min(max(x - extent / 2, 0), width - extent))
        top = round(min(max(y - extent / 2, 0), height - extent))
        right, bottom = left + extent, top + extent
    pictures = resize_frames(frames[:, :, top:bottom, left:right], (PICTURE_SIDE, PICTURE_SIDE)).numpy()
    corner, extents = np.array([left, top], np.float32), np.array([right - left, bottom - top], np.float32)
    # (T, 4) -> (T, 2, 2): the box's two corners
    corners = (boxes.reshape(-1, 2, 2) * scale - corner) / extents
    return pictures, corners.reshape(-1, 4), (landmarks * scale - corner) / extents


def refuse_other_options(options: RealPeopleOptions, file: Path) -> None:
    """Keeps what decides the stages, or compares it with what an earlier call kept.

    Raises:
        ValueError: the folder holds stages that were made with other options.
    """
    # Folds of the clips share the first stages and have names of their own; where it runs decides no stage.
    free = ("clip_fold", "output_dir", "device", "threads")
    asked = {name: value for name, value in asdict(options).items() if name not in free}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"--{name} {before.get(name)} -> {value}" for name, value in asked.items() if before.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{file.parent}: holds stages made with other options ({', '.join(changed)}): repeat those, or give "
                "another --output_dir"
            )
    write_json(file, asked)


def run(options: RealPeopleOptions) -> dict[str, Any]:
    """All stages; returns the report, which also stands in `real_people.json`.

    Raises:
        ValueError: another command works in the output folder, or it holds stages of other options.
    """
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with writing_in(output_dir):
        refuse_other_options(options, output_dir / "options.json")
        return run_stages(options, output_dir)


def run_stages(options: RealPeopleOptions, output_dir: Path) -> dict[str, Any]:
    """What `run` does in its folder."""
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    started = time.perf_counter()

    def read(name: str, splits: Sequence[str]) -> FaceSet:
        faces = read_faces(name, splits, output_dir)
        return replace(faces, pictures=faces.pictures.to(device))

    training = [read(name, ["train"]) for name in options.stills]
    validation = read(options.stills[0], ["validation"])
    stills, official = join_faces(training), len(training[0])
    clips = join_faces([read(name, SPLITS) for name in options.clips]) if options.clips else None
    test_clips = None
    if clips is not None and options.clip_fold is not None:
        fold = find_fold(resolve_protocol(options.clips[0], options.clip_protocol), options.clip_fold)
        tested = np.isin(clips.subjects, fold.test)
        first = np.arange(len(clips)) < len(read(options.clips[0], SPLITS))
        test_clips, clips = clips.select(tested & first), clips.select(~tested)
    if options.teachers:
        stills.targets = teach(stills, official, validation, options)
    lesson = Lesson("backbone", options.backbone_epochs, start=options.start)
    classifier = train_classifier(lesson, stills, official, validation, options)
    model = make_cascade(classifier, options.seed)
    model.to(device)  # type: ignore[arg-type]
    train_cascade(model, stills, official, clips, options)
    answers = answer(model, validation)
    model.config.temperature = fit_temperature(answers.scores, answers.batch.labels)
    report = {"options": asdict(options), "temperature": model.config.temperature}
    report["validation"] = figures_of(answer(model, validation))
    if test_clips is not None:
        # The test stills are looked at once, by the model that is trained on all clips.
        report["test_clips"] = figures_of(answer(model, test_clips))
    else:
        report["test"] = figures_of(answer(model, read(options.stills[0], ["test"])))
    report["minutes"] = (time.perf_counter() - started) / 60
    folder = output_dir / f"model{options.fold_suffix}"
    model.save_pretrained(folder)
    cut = FaceCut()
    processor = MTCAEVideoProcessor(
        num_frames=MOTION_FRAMES,
        size={"height": SIZES[-1], "width": SIZES[-1]},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
        do_face_crop=True,
        face_crop_margin=cut.margin,
        face_crop_rise=cut.rise,
    )
    processor.save_pretrained(folder)
    write_json(output_dir / f"real_people{options.fold_suffix}.json", report)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    described: Any = RealPeopleOptions
    (options,) = HfArgumentParser(described, description=__doc__).parse_args_into_dataclasses(args=arguments)
    try:
        report = run(options)
    except KeyboardInterrupt:
        print("\nStopped. Go on with the same command.", file=sys.stderr)
        return 130
    except Exception as error:
        told = line_for_the_user(error, MEMORY_ADVICE)
        if told is None:
            raise
        print(f"real_people: error: {told}", file=sys.stderr)
        return 2
    figures = ("temperature", "validation", "test", "test_clips")
    print(json.dumps({name: report[name] for name in figures if name in report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
