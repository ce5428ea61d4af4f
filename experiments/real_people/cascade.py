"""Stage 2: the cascade on the network of stage 1 learns from stills, clips, and fading sequences of features."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people import recipe
from mtcae_dfer.experiments.real_people.classifier import StillClassifier, order_of_epoch
from mtcae_dfer.experiments.real_people.recipe import (
    RealPeopleOptions,
    cascade_config,
    finish,
    finished,
    make_optimiser,
    one_cycle,
    precision,
    soft_class_weights,
    soft_cross_entropy,
)
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.modeling_frame_backbone import FrameBackboneModel
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceAugmentation, FaceBatch, FaceCut, FaceSet, face_squares, make_batch
from mtcae_dfer.training.optimisation import WeightAverage

CLIP_WEIGHT, FADE_WEIGHT, FADE_FRAMES = 0.5, 0.5, 8  # of the losses of clips and fades beside the stills'; frames
SAVE_STEPS = 200


def make_cascade(classifier: StillClassifier, seed: int) -> MTCAEForMultiTaskVideo:
    """The cascade on the residual network of stage 1."""
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
    """Stage 2: a step sees stills, clips, and sequences of faded features. The image model stays as it is."""

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
        # What it learned from stills stays; learning on gained nothing on the validation stills (docs/real_people.md).
        self.encoder.backbone.requires_grad_(False)
        self.optimiser = make_optimiser(model)
        order = order_of_epoch(stills, official, 0, options.seed)
        self.steps_per_epoch = len(order) // options.still_batch
        self.class_weights = soft_class_weights(stills.labels[order]).to(stills.pictures.device)
        self.average = WeightAverage(model.parameters(), recipe.AVERAGE_DECAY)
        self.step = 0

    def next_stills(self) -> np.ndarray:
        """Positions of the step's stills, epoch after epoch."""
        epoch, number = divmod(self.step, self.steps_per_epoch)
        if epoch != self.epoch:
            # Other orders than those of stage 1.
            self.order = order_of_epoch(self.stills, self.official, 1000 + epoch, self.options.seed)
            self.epoch = epoch
        return self.order[number * self.options.still_batch : (number + 1) * self.options.still_batch]

    def run_step(self) -> dict[str, torch.Tensor]:
        """One step; its losses by name."""
        options, device = self.options, self.stills.pictures.device
        random = np.random.default_rng([options.seed, 3, self.step])
        for group in self.optimiser.param_groups:
            group["lr"] = one_cycle(self.step / options.cascade_steps, options.cascade_learning_rate)
        self.model.train()
        self.encoder.backbone.eval()
        self.optimiser.zero_grad()
        indices = self.next_stills()
        batch = make_batch(self.stills, self.still_squares, indices, recipe.SIZES[-1], FaceAugmentation(), random)
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
        (still_loss + FADE_WEIGHT * fade_loss).backward()
        named = losses | {"faded": fade_loss}
        if self.clips is not None and self.clip_squares is not None:
            indices = random.choice(len(self.clips), options.clip_batch, replace=False)
            batch = make_batch(self.clips, self.clip_squares, indices, recipe.SIZES[-1], FaceAugmentation(), random)
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
    """Stage 2, with a checkpoint every `SAVE_STEPS`; the model ends with its averaged weights."""
    file = Path(options.output_dir) / f"cascade{options.fold_suffix}.pt"
    if finished(file).exists():
        model.load_state_dict(load_file(finished(file)))
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
        print(f"stage 2, step {trainer.step} of {options.cascade_steps}: {told}, {pace:.3f} s a step", flush=True)
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
