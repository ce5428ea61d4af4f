"""A small cascade for real people: stills and motion trained together ("static for dynamic", S4D, IEEE TAC 2025).

    python -m mtcae_dfer.experiments.real_people --stills FER2013 LFW --clips AVATARS --output_dir runs/real-people

    stills ──► 1. a residual network learns their expressions alone
                  │ its feature map, frame by frame
    stills ─┐     ▼
    clips ──┴► 2. box → landmarks → expression: the cascade on this encoder, on stills (clips of one frame), on clips,
                  and on sequences that fade from the features of a neutral still to those of an expressive one
                  │
    stills ──► 3. a temperature for the scores on the validation stills; then the test stills, once

The data sets are built by `mtcae dataset build stills` and `mtcae dataset build ravdess`. Every stage is kept in the
output folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import HfArgumentParser, ResNetConfig, ResNetModel

from mtcae_dfer.configuration_mtcae import EXPRESSIONS, MTCAEConfig
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.files import replacing, write_json
from mtcae_dfer.hub_dataset.loading.load import clip_bytes, load_multitask_dataset
from mtcae_dfer.modeling_frame_backbone import FrameBackboneModel
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.data.faces import (
    FaceAugmentation,
    FaceBatch,
    FaceCut,
    FaceSet,
    face_squares,
    join_faces,
    make_batch,
)
from mtcae_dfer.training.errors import line_for_the_user
from mtcae_dfer.training.evaluation.metrics import (
    confusion_matrix,
    face_box_iou,
    landmark_nme,
    per_class_recall,
    unweighted_average_recall,
    weighted_average_recall,
)
from mtcae_dfer.training.losses import TrainingLoss
from mtcae_dfer.training.optimisation import WeightAverage
from mtcae_dfer.video_reading import read_clip

PICTURE_SIDE = 96  # pixels of a kept picture
SIZES = (64, 96)  # sides of the cut frames in pixels: of the first epochs of stage 1, and of everything else
BATCH = 128  # stills of a step of stage 1
SMOOTHING = 0.1  # share of a label that is spread over all classes
MOTION_FRAMES = 16  # the most frames of a clip
STILLS_A_STEP, CLIPS_A_STEP, FADES_A_STEP, FADE_FRAMES = 96, 3, 12, 8  # of stage 2
CLIP_WEIGHT, FADE_WEIGHT = 0.5, 0.5  # of their losses beside the stills'
BACKBONE_SHARE = 0.3  # of the learning rate in stage 2
REPORT_STEPS, SAVE_STEPS = 20, 100
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
    clips: list[str] = field(default_factory=list, metadata={"help": "Data sets of clips, for stage 2."})
    clip_splits: list[str] = field(
        default_factory=lambda: ["train", "validation", "test"],
        metadata={"help": "Their splits that are trained on; without test, the model is tested on it."},
    )
    output_dir: str = field(default="runs/real-people", metadata={"help": "Folder for stages, weights and report."})
    seed: int = field(default=0, metadata={"help": "Of weights, order and changes."})
    threads: int = field(default=0, metadata={"help": "Threads of the arithmetic; 0: all processors."})
    backbone_epochs: int = field(default=22, metadata={"help": "Passes over the stills in stage 1."})
    small_epochs: int = field(default=15, metadata={"help": "Of these, so many with frames of 64 pixels; then 96."})
    backbone_learning_rate: float = field(default=3e-3, metadata={"help": "Peak of stage 1."})
    cascade_steps: int = field(default=500, metadata={"help": "Steps of stage 2 that train the backbone too."})
    head_steps: int = field(default=400, metadata={"help": "Further steps, which leave the backbone as it is."})
    cascade_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak of stage 2; the backbone learns at 0.3 of it."}
    )


# ------------------------------------------------------------------------------------------------- stage 1: backbone


class StillClassifier(nn.Module):
    """A residual network with one dense layer on its mean feature: what stage 1 trains."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetModel(ResNetConfig(**BACKBONE))
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(BACKBONE["hidden_sizes"][-1], len(EXPRESSIONS))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, K) scores."""
        features = self.backbone(pictures).last_hidden_state.float()
        return self.output(self.dropout(features.mean(dim=(2, 3))))


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


def train_backbone(stills: FaceSet, official: int, validation: FaceSet, options: RealPeopleOptions) -> dict[str, Any]:
    """Stage 1: expressions of stills alone; the averaged weights of `StillClassifier`.

    AdamW, one cycle, label smoothing, mixup, averaged weights and normalisation statistics; frames of 64 pixels first.
    """
    file = Path(options.output_dir) / "backbone.pt"
    torch.manual_seed(options.seed)
    model, average = StillClassifier(), StillClassifier()
    for network in (model, average):
        network.to(memory_format=torch.channels_last)
    average.load_state_dict(model.state_dict())
    average.eval()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    )
    orders = [order_of_epoch(stills, official, epoch, options.seed) for epoch in range(options.backbone_epochs)]
    total = sum(len(order) // BATCH for order in orders)
    class_weights = soft_class_weights(stills.labels[orders[0]])
    squares, begun, step = face_squares(stills.face_landmarks, FaceCut()), 0, 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        begun, step = state["epoch"], state["step"]
    for epoch in range(begun, options.backbone_epochs):
        size, start, losses = SIZES[epoch >= options.small_epochs], time.perf_counter(), 0.0
        random = np.random.default_rng([options.seed, 2, epoch])
        model.train()
        for number in range(len(orders[epoch]) // BATCH):
            indices = orders[epoch][number * BATCH : (number + 1) * BATCH]
            batch = make_batch(stills, squares, indices, size, FaceAugmentation(), random)
            pictures, targets = batch.pixel_values[:, 0], functional.one_hot(batch.labels, len(EXPRESSIONS)).float()
            if random.random() < 0.5:
                share, partners = random.beta(0.4, 0.4), torch.from_numpy(random.permutation(BATCH))
                pictures = torch.lerp(pictures[partners], pictures, share)
                targets = torch.lerp(targets[partners], targets, share)
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step / total, options.backbone_learning_rate)
            with torch.autocast("cpu", torch.bfloat16):
                scores = model(pictures.contiguous(memory_format=torch.channels_last))
            targets = targets * (1 - SMOOTHING) + SMOOTHING / len(EXPRESSIONS)
            loss = -(targets * scores.float().log_softmax(dim=-1) * class_weights).sum(dim=-1).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            step, losses = step + 1, losses + loss.item()
            update_average(average, model, step)
        accuracy, uar = test_backbone(average, validation, size)
        print(
            f"stage 1, epoch {epoch + 1} of {options.backbone_epochs}, {size} pixels: loss "
            f"{losses / (len(orders[epoch]) // BATCH):.3f}, validation accuracy {accuracy:.3f}, UAR "
            f"{uar:.3f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        with replacing(file) as temporary:
            torch.save(state | {"epoch": epoch + 1, "step": step}, temporary)
    return average.state_dict()


@torch.no_grad()
def test_backbone(model: StillClassifier, stills: FaceSet, size: int) -> tuple[float, float]:
    """Accuracy and UAR on stills as they are."""
    squares, predicted = face_squares(stills.face_landmarks, FaceCut()), []
    for begin in range(0, len(stills), 2 * BATCH):
        indices = np.arange(begin, min(begin + 2 * BATCH, len(stills)))
        pictures = make_batch(stills, squares, indices, size).pixel_values[:, 0]
        with torch.autocast("cpu", torch.bfloat16):
            predicted.append(model(pictures.contiguous(memory_format=torch.channels_last)).argmax(dim=-1).numpy())
    answers, classes = np.concatenate(predicted), len(EXPRESSIONS)
    return (
        weighted_average_recall(answers, stills.labels, classes),
        unweighted_average_recall(answers, stills.labels, classes),
    )


def one_cycle(progress: float, peak: float) -> float:
    """The learning rate after a share of all steps: up in the first 12 %, then down by a cosine."""
    return (
        peak * (progress / 0.12 if progress < 0.12 else (1 + math.cos(math.pi * (progress - 0.12) / 0.88)) / 2) + 1e-6
    )


def soft_class_weights(labels: np.ndarray) -> torch.Tensor:
    """Weights (K,) that fall with the 0.3rd power of a class's count; their mean over the stills is 1."""
    counts = torch.bincount(torch.from_numpy(labels), minlength=len(EXPRESSIONS)).float()
    weights = (counts.mean() / counts) ** 0.3
    return weights * counts.sum() / (weights * counts).sum()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float = 0.998) -> None:
    """Takes the model's weights and normalisation statistics into their moving average."""
    reach = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - reach)
        else:
            mean.copy_(value)


# -------------------------------------------------------------------------------------------------- stage 2: cascade


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


def make_cascade(backbone: Mapping[str, torch.Tensor], seed: int) -> MTCAEForMultiTaskVideo:
    """The cascade on what stage 1 returns."""
    torch.manual_seed(seed)
    model = MTCAEForMultiTaskVideo(cascade_config())
    prefix = "backbone."
    weights = {name.removeprefix(prefix): value for name, value in backbone.items() if name.startswith(prefix)}
    encoder_of(model).backbone.load_state_dict(weights)
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
    features: torch.Tensor, labels: torch.Tensor, count: int, frames: int, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Sequences of features that fade from neutral stills to any stills, and their labels.

    Args:
        features: (B, h * w, D) of stills.
        labels: (B,) their expressions.
        count: how many sequences.
        frames: T.

    Returns:
        (count, T, h * w, D) and (count,); None where no still is neutral.
    """
    neutral = np.flatnonzero(labels.numpy() == EXPRESSIONS.index("neutral"))
    if not len(neutral):
        return None
    first = torch.from_numpy(random.choice(neutral, count))
    last = torch.from_numpy(random.choice(len(labels), count, replace=False))
    strengths = torch.from_numpy(fade_strengths(random, count, frames))[:, :, None, None].to(features.dtype)
    return torch.lerp(features[first].unsqueeze(1), features[last].unsqueeze(1), strengths), labels[last]


@dataclass(frozen=True)
class Phase:
    """A part of stage 2 with a learning-rate cycle and a checkpoint of its own."""

    name: str
    steps: int
    trains_backbone: bool


class CascadeTrainer:
    """Stage 2: a step sees stills, clips, and sequences of faded features. Normalisation statistics stay."""

    def __init__(
        self,
        model: MTCAEForMultiTaskVideo,
        stills: FaceSet,
        official: int,
        clips: FaceSet | None,
        phase: Phase,
        options: RealPeopleOptions,
    ) -> None:
        self.model, self.stills, self.clips, self.phase, self.options = model, stills, clips, phase, options
        self.still_squares = face_squares(stills.face_landmarks, FaceCut())
        self.clip_squares = face_squares(clips.face_landmarks, FaceCut()) if clips is not None else None
        self.official, self.epoch, self.order = official, -1, np.zeros(0, int)
        # Edges and their first combinations are learned; going on with the later stages alone halves a step.
        self.encoder = encoder_of(model)
        residual_network: Any = self.encoder.backbone
        residual_network.requires_grad_(phase.trains_backbone)
        residual_network.embedder.requires_grad_(False)
        residual_network.encoder.stages[0].requires_grad_(False)
        known = {id(parameter) for parameter in residual_network.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        backbone = [parameter for parameter in trained if id(parameter) in known]
        others = [parameter for parameter in trained if id(parameter) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in others if parameter.ndim > 1], "scale": 1.0},
            {"params": [parameter for parameter in others if parameter.ndim <= 1], "scale": 1.0, "weight_decay": 0.0},
        ]
        if backbone:
            groups.append({"params": backbone, "scale": BACKBONE_SHARE})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
        self.loss = TrainingLoss(model.tasks, label_smoothing=SMOOTHING)
        self.average = WeightAverage(model.parameters(), decay=0.995)
        self.step = 0

    def next_stills(self, count: int) -> np.ndarray:
        """Positions of the step's stills, epoch after epoch."""
        steps = len(order_of_epoch(self.stills, self.official, 0, self.options.seed)) // count
        epoch, number = divmod(self.step, steps)
        if epoch != self.epoch:
            # Other orders than those of stage 1.
            begin = 1000 if self.phase.trains_backbone else 2000
            self.order, self.epoch = order_of_epoch(self.stills, self.official, begin + epoch, self.options.seed), epoch
        return self.order[number * count : (number + 1) * count]

    def run_step(self) -> dict[str, float]:
        """One step; its losses by name."""
        random = np.random.default_rng([self.options.seed, 3 if self.phase.trains_backbone else 4, self.step])
        for group in self.optimiser.param_groups:
            rate = one_cycle(self.step / self.phase.steps, self.options.cascade_learning_rate)
            group["lr"] = rate * group["scale"]
        self.model.train()
        self.encoder.backbone.eval()
        self.optimiser.zero_grad()
        batch = make_batch(
            self.stills, self.still_squares, self.next_stills(STILLS_A_STEP), SIZES[-1], FaceAugmentation(), random
        )
        with torch.autocast("cpu", torch.bfloat16):
            # (B, 1, 3, S, S) -> (B, 1, h * w, D)
            features = self.encoder.encode_frames(batch.pixel_values)
            faded = fade_sequences(features[:, 0], batch.labels, FADES_A_STEP, FADE_FRAMES, random)
            still_loss, losses = self._losses(self.encoder.encode_over_time(features), batch)
            fade_loss = torch.zeros(())
            if faded is not None:
                outputs = self.model(encoded_clips=self.encoder.encode_over_time(faded[0]))
                fade_loss = functional.cross_entropy(outputs.logits.float(), faded[1], label_smoothing=SMOOTHING)
        # The features' graph serves both losses, so it is walked through once.
        (still_loss + FADE_WEIGHT * fade_loss).backward()
        named = {name: loss.item() for name, loss in losses.items()} | {"faded": fade_loss.item()}
        if self.clips is not None and self.clip_squares is not None:
            indices = random.choice(len(self.clips), CLIPS_A_STEP, replace=False)
            batch = make_batch(self.clips, self.clip_squares, indices, SIZES[-1], FaceAugmentation(), random)
            with torch.autocast("cpu", torch.bfloat16):
                features = self.encoder.encode_frames(batch.pixel_values)
                clip_loss, losses = self._losses(self.encoder.encode_over_time(features), batch)
            (CLIP_WEIGHT * clip_loss).backward()
            named["clips"] = losses["expression"].item()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update()
        self.step += 1
        return named

    def _losses(self, encoded: torch.Tensor, batch: FaceBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        outputs = self.model(
            encoded_clips=encoded,
            labels=batch.labels,
            face_boxes=batch.face_boxes,
            face_landmarks=batch.face_landmarks,
            face_found=batch.face_found,
        )
        return self.loss(outputs, batch.labels)


def save_cascade(trainer: CascadeTrainer, file: Path) -> None:
    """A checkpoint, whole or not at all."""
    state = {"model": trainer.model.state_dict(), "optimiser": trainer.optimiser.state_dict()}
    with replacing(file) as temporary:
        torch.save(state | {"average": trainer.average.state_dict(), "step": trainer.step}, temporary)


def train_cascade(
    model: MTCAEForMultiTaskVideo, stills: FaceSet, official: int, clips: FaceSet | None, options: RealPeopleOptions
) -> None:
    """Stage 2: all but the first stages of the backbone, then decoders and heads alone, which is quicker by half."""
    for phase in (Phase("cascade", options.cascade_steps, True), Phase("heads", options.head_steps, False)):
        train_phase(CascadeTrainer(model, stills, official, clips, phase, options))


def train_phase(trainer: CascadeTrainer) -> None:
    """One phase, with a checkpoint every `SAVE_STEPS`; the model ends with its averaged weights."""
    model, phase = trainer.model, trainer.phase
    file = Path(trainer.options.output_dir) / f"{phase.name}.pt"
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        trainer.average.load_state_dict(state["average"])
        trainer.step = state["step"]
    sums: dict[str, float] = {}
    start, begun = time.perf_counter(), trainer.step
    while trainer.step < phase.steps:
        for name, loss in trainer.run_step().items():
            sums[name] = sums.get(name, 0.0) + loss
        if trainer.step % REPORT_STEPS == 0:
            told = ", ".join(f"{name} {total / REPORT_STEPS:.3f}" for name, total in sums.items())
            pace = (time.perf_counter() - start) / (trainer.step - begun)
            print(
                f"stage 2, {phase.name}, step {trainer.step} of {phase.steps}: {told}, {pace:.2f} s a step", flush=True
            )
            sums.clear()
        if trainer.step % SAVE_STEPS == 0 or trainer.step == phase.steps:
            save_cascade(trainer, file)
    with trainer.average.in_place():
        averaged = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(averaged)
    model.eval()


# -------------------------------------------------------------------------------------------------- stage 3: figures


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
        parts.append(Answers(outputs.logits, outputs.face_boxes, outputs.face_landmarks, batch))
    names = [field.name for field in fields(FaceBatch)]
    joined = {name: torch.cat([getattr(part.batch, name) for part in parts]) for name in names}
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


def read_faces(dataset_dir: str, splits: Sequence[str]) -> FaceSet:
    """Clips of a built data set as pictures of `PICTURE_SIDE` pixels, those of all given splits.

    Raises:
        DatasetError: there is no such data set, or it has other classes than `EXPRESSIONS`.
    """
    rows = load_multitask_dataset(dataset_dir)
    parts = [row for split in splits if split in rows for row in tqdm(rows[split], desc=f"{dataset_dir} {split}")]
    if not parts:
        raise DatasetError(f"{dataset_dir}: has no clip in the splits {', '.join(splits)}")
    names = rows[splits[0]].features["expression"].names
    foreign = sorted(set(names) - set(EXPRESSIONS))
    if foreign:
        raise DatasetError(f"{dataset_dir}: has classes that the model does not know ({', '.join(foreign)})")
    size = (PICTURE_SIDE, PICTURE_SIDE)
    # (T, 3, P, P) -> (T, P, P, 3)
    pictures = [
        read_clip(clip_bytes(row), size=size, frame_indices=row["frame_indices"]).frames.permute(0, 2, 3, 1).numpy()
        for row in tqdm(parts, desc="Decoding", unit="clip")
    ]
    return FaceSet(
        pictures=np.stack(pictures),
        labels=np.array([EXPRESSIONS.index(names[row["expression"]]) for row in parts]),
        face_boxes=np.stack([np.asarray(row["face_boxes"], np.float32) for row in parts]),
        face_landmarks=np.stack([np.asarray(row["face_landmarks"], np.float32) for row in parts]),
        subjects=np.array([row["subject"] for row in parts]),
    )


def run(options: RealPeopleOptions) -> dict[str, Any]:
    """All stages; returns the report, which also stands in `real_people.json`."""
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    cv2.setNumThreads(1)
    started = time.perf_counter()
    training = [read_faces(name, ["train"]) for name in options.stills]
    validation = read_faces(options.stills[0], ["validation"])
    stills, official = join_faces(training), len(training[0])
    clips = join_faces([read_faces(name, options.clip_splits) for name in options.clips]) if options.clips else None
    backbone = train_backbone(stills, official, validation, options)
    model = make_cascade(backbone, options.seed)
    train_cascade(model, stills, official, clips, options)
    answers = answer(model, validation)
    model.config.temperature = fit_temperature(answers.scores, answers.batch.labels)
    report = {"options": asdict(options), "temperature": model.config.temperature}
    report["validation"] = figures_of(answer(model, validation))
    report["test"] = figures_of(answer(model, read_faces(options.stills[0], ["test"])))
    if clips is not None and "test" not in options.clip_splits:
        report["test_clips"] = figures_of(
            answer(model, join_faces([read_faces(name, ["test"]) for name in options.clips]))
        )
    report["minutes"] = (time.perf_counter() - started) / 60
    model.save_pretrained(output_dir / "model")
    cut = FaceCut()
    processor = MTCAEVideoProcessor(
        num_frames=MOTION_FRAMES,
        size={"height": SIZES[-1], "width": SIZES[-1]},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        do_face_crop=True,
        face_crop_margin=cut.margin,
        face_crop_rise=cut.rise,
    )
    processor.save_pretrained(output_dir / "model")
    write_json(output_dir / "real_people.json", report)
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
    print(json.dumps({name: report[name] for name in ("temperature", "validation", "test")}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
