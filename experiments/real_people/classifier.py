"""Stage 1: a network that learns expressions, boxes and points from stills."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people import recipe
from mtcae_dfer.experiments.real_people.figures import rates_of, voted_rates
from mtcae_dfer.experiments.real_people.recipe import (
    BACKBONE,
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
from mtcae_dfer.image_backbones import build_image_backbone_config
from mtcae_dfer.modeling_frame_backbone import FrameBackboneModel
from mtcae_dfer.modeling_heads import MTCAEHeatMapHead
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceAugmentation, FaceCut, FaceSet, face_squares, make_batch
from mtcae_dfer.training.evaluation.metrics import landmark_nme
from mtcae_dfer.training.optimisation import WeightAverage

PLACES_WEIGHT = 20.0  # of the mean distance of boxes and points, in sides of the cut, beside the expression's loss
COMMON = (EXPRESSIONS.index("neutral"), EXPRESSIONS.index("happiness"))


class StillClassifier(nn.Module):
    """An image model with heads on its feature map: expressions, and the cascade's own heads of box and points.

    Args:
        backbone: an image model of 16 pixels a cell, whose feature map has as many channels as its last stage.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone
        sizes: Any = backbone.config.hidden_sizes
        config = cascade_config()
        self.grid = config.token_grid[1:]
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(sizes[-1], len(EXPRESSIONS))
        self.box, self.landmarks = (
            MTCAEHeatMapHead(config, task, sizes[-1]) for task in config.task_descriptions if task.pooling == "heat_map"
        )

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S) -> (B, K) scores; (B, 14) box and five points, divided by the side."""
        features = self.backbone(pictures).last_hidden_state.float()
        # (B, D, h, w) -> (B, rows * columns, D): the tokens of a clip of one frame, however large the pictures are
        tokens = functional.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2)
        places = torch.cat([head(tokens).flatten(1) for head in (self.box, self.landmarks)], dim=1)
        return self.output(self.dropout(features.mean(dim=(2, 3)))), places


def make_classifier(start: str = "") -> StillClassifier:
    """The network before its training.

    Args:
        start: folder of a cascade with whose backbone it begins; empty: at random.

    Raises:
        ValueError: the folder holds a cascade on another backbone.
    """
    if not start:
        return StillClassifier(AutoModel.from_config(build_image_backbone_config(BACKBONE, "BACKBONE")))
    encoder = MTCAEForMultiTaskVideo.from_pretrained(start).encoder
    stored = encoder.config.backbone_config if isinstance(encoder, FrameBackboneModel) else None
    different = [name for name, value in BACKBONE.items() if getattr(stored, name, None) != value]
    if not isinstance(encoder, FrameBackboneModel) or different:
        different = ["model_type"] if "model_type" in different else different
        told = f"its backbone differs in {', '.join(different)}; give the folder of a model of this command"
        raise ValueError(f"--start {start}: {told}")
    return StillClassifier(encoder.backbone)


def order_of_epoch(labels: np.ndarray, official: int, epoch: int, seed: int) -> np.ndarray:
    """Positions of one epoch's stills: the official ones all, of the others those of rare classes more often.

    Args:
        labels: (N,) of the stills of all data sets, the official ones first.
        official: how many these are.
        epoch: decides the order, with the seed.
    """
    random = np.random.default_rng([seed, 1, epoch])
    others = np.arange(official, len(labels))
    common = others[np.isin(labels[others], COMMON)]
    rare = others[~np.isin(labels[others], COMMON)]
    disgust = np.flatnonzero(labels[:official] == EXPRESSIONS.index("disgust"))
    some = random.choice(common, len(common) // 3, replace=False)
    return random.permutation(np.concatenate([np.arange(official), disgust, rare, rare, some]))


class StillTrainer:
    """Stage 1: AdamW, one cycle; where it begins at random, small frames first, and mixup.

    Args:
        model: as it begins, on the device of the stills.
        stills: all of them, the official ones first.
        official: how many these are.
        options: of the command.
    """

    def __init__(self, model: StillClassifier, stills: FaceSet, official: int, options: RealPeopleOptions) -> None:
        self.model, self.stills, self.options, self.epoch, self.step = model, stills, options, 0, 0
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(model.parameters(), recipe.AVERAGE_DECAY, model.buffers())
        self.optimiser = make_optimiser(model)
        epochs = range(options.backbone_epochs)
        self.orders = [order_of_epoch(stills.labels, official, epoch, options.seed) for epoch in epochs]
        self.total_steps = sum(len(order) // options.backbone_batch for order in self.orders)
        self.class_weights = soft_class_weights(stills.targets[self.orders[0]]).to(stills.pictures.device)
        self.squares = face_squares(stills.face_landmarks, FaceCut())
        # The pictures have few sizes; a form for any size would be slower.
        self.predict = torch.compile(model, dynamic=False) if options.compile else model

    @property
    def size(self) -> int:
        """The side of the cut frames in the epoch that is next."""
        if self.options.start:  # what was learned before is finished on large frames, and without mixup
            return recipe.SIZES[-1]
        return size_of_epoch(self.epoch, self.options.backbone_epochs)

    def run_epoch(self) -> float:
        """One pass over the stills; the mean loss of the expressions."""
        options, order = self.options, self.orders[self.epoch]
        random = np.random.default_rng([options.seed, 2, self.epoch])
        torch.manual_seed(1000 * options.seed + self.epoch)  # dropout is drawn anew in every epoch, also after a stop
        self.model.train()
        losses = torch.zeros((), device=self.stills.pictures.device)
        steps = len(order) // options.backbone_batch
        for number in range(steps):
            indices = order[number * options.backbone_batch : (number + 1) * options.backbone_batch]
            losses += self._run_step(indices, random)
        self.epoch += 1
        return losses.item() / steps

    def _run_step(self, indices: np.ndarray, random: np.random.Generator) -> torch.Tensor:
        """One step; its loss of the expressions."""
        device = self.stills.pictures.device
        batch = make_batch(self.stills, self.squares, indices, self.size, FaceAugmentation(), random)
        pictures, targets = batch.pixel_values[:, 0], batch.targets
        places = torch.cat([batch.face_boxes[:, 0], batch.face_landmarks[:, 0].flatten(1)], dim=1)
        if not self.options.start and random.random() < 0.5:
            share, partners = random.beta(0.4, 0.4), torch.from_numpy(random.permutation(len(indices))).to(device)
            pictures = torch.lerp(pictures[partners], pictures, share)
            targets = torch.lerp(targets[partners], targets, share)
            places = torch.full_like(places, math.nan)  # of which face?
        for group in self.optimiser.param_groups:
            group["lr"] = one_cycle(self.step / self.total_steps, self.options.backbone_learning_rate)
        with precision(device):
            scores, found_places = self.predict(pictures.contiguous(memory_format=torch.channels_last))
        loss = soft_cross_entropy(scores, targets, self.class_weights)
        known = places.isfinite()
        distances = (found_places - places.nan_to_num()).abs() * known
        self.optimiser.zero_grad()
        (loss + PLACES_WEIGHT * distances.sum() / known.sum().clamp(min=1)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimiser.step()
        self.average.update()
        self.step += 1
        return loss.detach()


def train_classifier(
    stills: FaceSet, official: int, validation: FaceSet, options: RealPeopleOptions
) -> StillClassifier:
    """Trains a classifier of stills; returns it with averaged weights and normalisation statistics.

    A checkpoint after every epoch; what is finished is only loaded.

    Args:
        stills: all of them, the official ones first.
        official: how many these are.
        validation: stills whose figures are printed; nothing is chosen by them.
        options: of the command.
    """
    file, epochs = Path(options.output_dir) / f"backbone{options.image_suffix}.pt", options.backbone_epochs
    torch.manual_seed(options.seed)
    model = make_classifier(options.start)
    model.to(stills.pictures.device)
    if finished(file).exists():
        model.load_state_dict(load_file(finished(file)))
        return model
    if epochs == 0:  # the image model of an earlier call stays as it is
        finish(model, file)
        return model
    trainer = StillTrainer(model, stills, official, options)
    if file.exists():
        counts = load_stage(trainer, file, stills.pictures.device)
        trainer.epoch, trainer.step = counts["epoch"], counts["step"]
    while trainer.epoch < epochs:
        size, start = trainer.size, time.perf_counter()
        loss = trainer.run_epoch()
        with trainer.average.in_place():
            scores, points_error = score_stills(model, validation, size)
        print(
            f"stage 1, epoch {trainer.epoch} of {epochs}, {size} pixels: loss {loss:.3f}, "
            f"validation {tell_rates(scores, validation)}, landmark error {points_error:.3f}, "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
        save_stage(trainer, file, epoch=trainer.epoch, step=trainer.step)
    trainer.average.keep()
    finish(model, file)
    return model


def tell_rates(scores: torch.Tensor, stills: FaceSet) -> str:
    """Accuracy and UAR of scores (N, K) in words: by the labels, and by what most raters saw where they were asked."""
    predicted = scores.argmax(dim=-1).cpu().numpy()
    rates = {"": rates_of(predicted, stills.labels), " by raters": voted_rates(predicted, stills.votes)}
    told = [f"accuracy{by} {rate['accuracy']:.3f}, UAR{by} {rate['uar']:.3f}" for by, rate in rates.items() if rate]
    return ", ".join(told)


def size_of_epoch(epoch: int, epochs: int) -> int:
    """The side of the cut frames in an epoch of so many: `recipe.SIZES` by their shares, one after the other."""
    ends = np.cumsum(recipe.SIZE_SHARES) * epochs
    # The last is that of all epochs behind the end of the one before.
    return recipe.SIZES[int((epoch >= ends[:-1] - 1e-9).sum())]


@torch.no_grad()
def score_stills(model: StillClassifier, stills: FaceSet, size: int) -> tuple[torch.Tensor, float]:
    """Scores (N, K) of stills as they are, cut as at prediction, and the mean error of their points."""
    model.eval()
    squares, scores, points, labels = face_squares(stills.face_landmarks, FaceCut()), [], [], []
    for begin in range(0, len(stills), recipe.FRAMES_ASKED):
        indices = np.arange(begin, min(begin + recipe.FRAMES_ASKED, len(stills)))
        batch = make_batch(stills, squares, indices, size)
        pictures = batch.pixel_values[:, 0]
        with precision(pictures.device):
            batch_scores, places = model(pictures.contiguous(memory_format=torch.channels_last))
        scores.append(batch_scores.float())
        points.append(places[:, 4:].float().cpu().unflatten(1, (1, 5, 2)))
        labels.append(batch.face_landmarks.cpu())
    known = torch.cat(labels)
    found = known.isfinite().all(dim=(-2, -1)).numpy()
    return torch.cat(scores), landmark_nme(torch.cat(points).numpy(), known.numpy(), found)
