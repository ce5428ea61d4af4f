"""Stage 2: the cascade on the network of stage 1 learns from stills, clips, and fading sequences of features."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people import recipe
from mtcae_dfer.experiments.real_people.classifier import StillClassifier, order_of_epoch
from mtcae_dfer.experiments.real_people.figures import log_prior
from mtcae_dfer.experiments.real_people.recipe import (
    RealPeopleOptions,
    cascade_config,
    finish,
    finished,
    load_stage,
    make_optimiser,
    one_cycle,
    precision,
    save_stage,
    soft_class_weights,
    soft_cross_entropy,
)
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.modeling_frame_backbone import FrameBackboneModel
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceAugmentation, FaceCut, FaceSet, face_squares, make_batch
from mtcae_dfer.training.optimisation import WeightAverage

# Of the losses of clips and fading sequences beside the stills'. At four times the weight clips of actors whom nobody
# trained on were told no better, and stills worse (docs/real_people.md).
CLIP_WEIGHT, FADE_WEIGHT = 1.0, 0.5
# Frames of a step's clips, and of its fading sequences: one of these. The last is what videos are looked at with: where
# sequences were shorter, 16 copies of a still had other answers than the still, too often neutral.
SEEN_FRAMES = (4, 8, recipe.MOTION_FRAMES)
STILL_VIEWS, CLIP_VIEWS = 2, 4  # random views in which the image model sees each
FRAMES_AT_ONCE = 128  # that the image model looks at
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


@dataclass
class EncodedBatch:
    """What a step is trained on.

    Attributes:
        features: float32 (B, T, h * w, D), the image model's feature maps.
        labels: (B,) class ids.
        targets: (B, K) probabilities.
        face_boxes: (B, T, 4), divided by the cut's side; NaN without a face.
        face_landmarks: (B, T, 5, 2), likewise.
    """

    features: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    face_boxes: torch.Tensor
    face_landmarks: torch.Tensor


class EncodedFaces:
    """Stills or clips as the image model sees them, each in some random views: it stays as it is, so once is enough.

    Args:
        encoder: of the cascade.
        faces: N stills or clips.
        num_views: how many views of each.
        seed: of the views.
        name: of the files, one for each view, that are kept.
        output_dir: their folder.
    """

    def __init__(
        self, encoder: FrameBackboneModel, faces: FaceSet, num_views: int, seed: int, name: str, output_dir: Path
    ) -> None:
        self.labels, self.targets, self.device = faces.labels, faces.targets, faces.pictures.device
        views = []
        for view in range(num_views):
            file = output_dir / f"features-{name}-{view}.safetensors"
            if not file.exists():
                encoded = encode_view(
                    encoder, faces, np.random.default_rng([seed, 4, view]), f"{name}, view {view + 1}"
                )
                with replacing(file) as temporary:
                    save_file(encoded, temporary)
            views.append(load_file(file))
        self.views = views

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, random: np.random.Generator, num_frames: int = 1) -> EncodedBatch:
        """A random view of each of some stills or clips: a random frame of each of `num_frames` equal parts."""
        parts = self.views[0]["features"].shape[1] / num_frames
        frames = ((np.arange(num_frames) + random.random(num_frames)) * parts).astype(int) if parts > 1 else slice(None)
        chosen = zip(random.integers(len(self.views), size=len(indices)), indices.tolist(), strict=True)
        rows = [{name: values[index, frames] for name, values in self.views[view].items()} for view, index in chosen]
        stacked = {name: torch.stack([row[name] for row in rows]).to(self.device).float() for name in rows[0]}
        return EncodedBatch(
            labels=torch.from_numpy(self.labels[indices]).long().to(self.device),
            targets=torch.from_numpy(self.targets[indices]).to(self.device),
            **stacked,
        )


@torch.no_grad()
def encode_view(
    encoder: FrameBackboneModel, faces: FaceSet, random: np.random.Generator, title: str
) -> dict[str, torch.Tensor]:
    """One random view of all stills or clips: features in bfloat16, boxes and points, as `EncodedBatch` has them."""
    encoder.eval()
    squares, parts = face_squares(faces.face_landmarks, FaceCut()), []
    clips_at_once = max(1, FRAMES_AT_ONCE // faces.pictures.shape[1])
    for begin in tqdm(range(0, len(faces), clips_at_once), desc=f"Encoding {title}", unit="batch"):
        indices = np.arange(begin, min(begin + clips_at_once, len(faces)))
        batch = make_batch(faces, squares, indices, recipe.SIZES[-1], FaceAugmentation(), random)
        with precision(faces.pictures.device):
            features = encoder.encode_frames(batch.pixel_values)
        part = {"features": features.bfloat16(), "face_boxes": batch.face_boxes, "face_landmarks": batch.face_landmarks}
        parts.append({name: values.cpu() for name, values in part.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def offset_of_clips(clip_targets: np.ndarray, still_targets: np.ndarray) -> torch.Tensor:
    """What is added to the scores of clips before they are judged, (K,).

    In the end `take_off_prior` moves the scores of stills and clips alike, by the stills' prior. Clips show other
    expressions often: judged as they are, what is rare among stills alone would be favoured twice in them.

    Args:
        clip_targets: (N, K) of the clips that are trained on.
        still_targets: (N, K) of the official stills.
    """
    return recipe.PRIOR_SHARE * (log_prior(clip_targets) - log_prior(still_targets))


class CascadeTrainer:
    """Stage 2: a step sees stills, clips, and sequences of faded features. The image model stays as it is."""

    def __init__(
        self,
        model: MTCAEForMultiTaskVideo,
        stills: EncodedFaces,
        official: int,
        clips: EncodedFaces | None,
        trained_clips: np.ndarray,
        options: RealPeopleOptions,
    ) -> None:
        self.model, self.stills, self.clips, self.options = model, stills, clips, options
        self.trained_clips = trained_clips
        self.official, self.epoch, self.order = official, -1, np.zeros(0, int)
        self.encoder = encoder_of(model)
        # What it learned from stills stays; learning on gained nothing on the validation stills (docs/real_people.md).
        self.encoder.backbone.requires_grad_(False)
        self.optimiser = make_optimiser(model)
        order = order_of_epoch(stills.labels, official, 0, options.seed)
        self.steps_per_epoch = len(order) // options.still_batch
        self.class_weights = soft_class_weights(stills.targets[order]).to(stills.device)
        if clips is not None:
            targets = clips.targets[trained_clips]
            self.clip_weights = soft_class_weights(targets).to(stills.device)
            self.clip_offset = offset_of_clips(targets, stills.targets[:official]).to(stills.device)
        self.average = WeightAverage(model.parameters(), recipe.AVERAGE_DECAY)
        self.step = 0

    def next_stills(self) -> np.ndarray:
        """Positions of the step's stills, epoch after epoch."""
        epoch, number = divmod(self.step, self.steps_per_epoch)
        if epoch != self.epoch:
            # Other orders than those of stage 1.
            self.order = order_of_epoch(self.stills.labels, self.official, 1000 + epoch, self.options.seed)
            self.epoch = epoch
        return self.order[number * self.options.still_batch : (number + 1) * self.options.still_batch]

    def run_step(self) -> dict[str, torch.Tensor]:
        """One step; its losses by name."""
        options, device = self.options, self.stills.device
        random = np.random.default_rng([options.seed, 3, self.step])
        for group in self.optimiser.param_groups:
            group["lr"] = one_cycle(self.step / options.cascade_steps, options.cascade_learning_rate)
        self.model.train()
        self.encoder.backbone.eval()
        self.optimiser.zero_grad()
        indices = self.next_stills()
        batch = self.stills.batch(indices, random)
        frames = int(random.choice(SEEN_FRAMES))
        faded = fade_sequences(batch.features[:, 0], self.stills.labels[indices], options.fade_batch, frames, random)
        with precision(device):
            loss, named = self._losses(batch, self.class_weights)
            named["faded"] = torch.zeros((), device=device)
            if faded is not None:
                outputs = self.model(encoded_clips=self.encoder.encode_over_time(faded[0]))
                named["faded"] = soft_cross_entropy(outputs.logits, batch.targets[faded[1]], self.class_weights)
        (loss + FADE_WEIGHT * named["faded"]).backward()
        if self.clips is not None:
            indices = random.choice(self.trained_clips, options.clip_batch, replace=False)
            with precision(device):
                encoded = self.clips.batch(indices, random, int(random.choice(SEEN_FRAMES)))
                clip_loss, losses = self._losses(encoded, self.clip_weights, self.clip_offset)
            (CLIP_WEIGHT * clip_loss).backward()
            named["clips"] = losses["expression"]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update()
        self.step += 1
        return {name: loss.detach() for name, loss in named.items()}

    def _losses(
        self, batch: EncodedBatch, class_weights: torch.Tensor, offset: torch.Tensor | float = 0.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum of all tasks' losses, and each; `offset` (K,) is added to the scores."""
        outputs = self.model(
            encoded_clips=self.encoder.encode_over_time(batch.features),
            labels=batch.labels,
            face_boxes=batch.face_boxes,
            face_landmarks=batch.face_landmarks,
            face_found=batch.face_boxes.isfinite().all(dim=-1),
        )
        expression_loss = soft_cross_entropy(outputs.logits + offset, batch.targets, class_weights)
        losses = dict(outputs.task_losses) | {"expression": expression_loss}
        return torch.stack([task.weight * losses[task.name] for task in self.model.tasks]).sum(), losses


def train_cascade(
    model: MTCAEForMultiTaskVideo,
    stills: FaceSet,
    official: int,
    clips: FaceSet | None,
    options: RealPeopleOptions,
    tested: np.ndarray | None = None,
) -> None:
    """Stage 2, with a checkpoint every `SAVE_STEPS`; the model ends with its averaged weights.

    Args:
        model: the cascade on the image model of stage 1.
        stills: all of them, the official ones first.
        official: how many these are.
        clips: None: stills alone.
        options: of the command.
        tested: (number of clips,) those on which nothing is trained; None: all are trained on.
    """
    file = Path(options.output_dir) / f"cascade{options.fold_suffix}.pt"
    if finished(file).exists():
        model.load_state_dict(load_file(finished(file)))
        model.eval()
        return
    views = [("stills", stills, STILL_VIEWS)] + ([("clips", clips, CLIP_VIEWS)] if clips is not None else [])
    encoded = {
        name: EncodedFaces(
            encoder_of(model), faces, count, options.seed, name + options.image_suffix, Path(options.output_dir)
        )
        for name, faces, count in views
    }
    trained = np.flatnonzero(~tested) if tested is not None else np.arange(len(encoded.get("clips", ())))
    trainer = CascadeTrainer(model, encoded["stills"], official, encoded.get("clips"), trained, options)
    if file.exists():
        trainer.step = load_stage(trainer, file, stills.pictures.device)["step"]
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
        save_stage(trainer, file, step=trainer.step)
    trainer.average.keep()
    model.eval()
    finish(model, file)
