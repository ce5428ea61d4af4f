"""Stage 3: what a cascade says of stills and clips, a temperature for it, and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.experiments.real_people import recipe
from mtcae_dfer.hub_dataset.votes import majority_of_votes
from mtcae_dfer.modeling_frame_backbone import FrameBackboneModel
from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data.faces import FaceBatch, FaceCut, FaceSet, face_squares, make_batch
from mtcae_dfer.training.evaluation.metrics import (
    confusion_matrix,
    face_box_iou,
    landmark_nme,
    per_class_recall,
    unweighted_average_recall,
    weighted_average_recall,
)
from mtcae_dfer.video_reading import uniform_frame_indices


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
    """Predictions for whole sets, cut as at prediction, in float32.

    A still or a short clip is shown as the processor shows it, its frames several times.
    """
    model.eval()
    encoder, frames = model.encoder, faces.pictures.shape[1]
    assert isinstance(encoder, FrameBackboneModel)
    shown = uniform_frame_indices(frames, recipe.MOTION_FRAMES)
    first = [shown.index(frame) for frame in range(frames)]
    squares, parts = face_squares(faces.face_landmarks, FaceCut()), []
    clips_at_once = max(1, recipe.FRAMES_ASKED // frames)
    for begin in range(0, len(faces), clips_at_once):
        indices = np.arange(begin, min(begin + clips_at_once, len(faces)))
        batch = make_batch(faces, squares, indices, recipe.SIZES[-1])
        features = encoder.encode_frames(batch.pixel_values)[:, shown]
        outputs = model(encoded_clips=encoder.encode_over_time(features))
        batch.pixel_values = batch.pixel_values[:, :0]  # only the labels are kept
        labels = FaceBatch(**{name: value.cpu() for name, value in vars(batch).items()})
        boxes, landmarks = outputs.face_boxes[:, first], outputs.face_landmarks[:, first]
        parts.append(Answers(outputs.logits.cpu(), boxes.cpu(), landmarks.cpu(), labels))
    joined = {name: torch.cat([getattr(part.batch, name) for part in parts]) for name in vars(parts[0].batch)}
    return Answers(
        scores=torch.cat([part.scores for part in parts]),
        boxes=torch.cat([part.boxes for part in parts]),
        landmarks=torch.cat([part.landmarks for part in parts]),
        batch=FaceBatch(**joined),
    )


@torch.no_grad()
def take_off_prior(model: MTCAEForMultiTaskVideo, targets: np.ndarray, share: float) -> None:
    """Moves the scores of a trained model towards rare expressions (logit adjustment; Menon et al., ICLR 2021).

    Args:
        model: its scores' biases are changed.
        targets: (N, K) that it was trained on.
        share: of the logarithm of each expression's part in them, which is taken off its score.
    """
    output = model.heads["expression"].output
    assert isinstance(output, nn.Linear)
    output.bias.sub_(share * log_prior(targets).to(output.bias))


def log_prior(targets: np.ndarray) -> torch.Tensor:
    """The logarithm of each expression's part in targets (N, K), less their mean: (K,)."""
    parts = np.log(targets.mean(axis=0).clip(min=1e-6))
    return torch.from_numpy(parts - parts.mean())


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


def rates_of(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and UAR of class ids (N,)."""
    told = (predicted, labels, len(EXPRESSIONS))
    return {"accuracy": weighted_average_recall(*told), "uar": unweighted_average_recall(*told)}


def voted_rates(predicted: np.ndarray, votes: np.ndarray) -> dict[str, Any]:
    """Count, accuracy and UAR of class ids (N,) where most raters (N, K) agree on one expression; empty: nowhere."""
    majority, agreed = majority_of_votes(votes)
    return {"count": int(agreed.sum()), **rates_of(predicted[agreed], majority[agreed])} if agreed.any() else {}


def figures_of(answers: Answers, votes: np.ndarray) -> dict[str, Any]:
    """Accuracy, UAR, recalls, confusion, calibration, and the face tasks' figures where a face was found.

    Args:
        answers: for N clips or stills.
        votes: (N, K) of raters. Where most agree on one expression the answers are compared with it as well: "voted".
    """
    labels, found = answers.batch.labels.numpy(), answers.batch.face_found.numpy()
    probabilities = answers.scores.softmax(dim=-1).numpy()
    predicted, classes = probabilities.argmax(axis=1), len(EXPRESSIONS)
    figures: dict[str, Any] = {
        "count": len(labels),
        **rates_of(predicted, labels),
        "recall": dict(zip(EXPRESSIONS, per_class_recall(predicted, labels, classes).tolist(), strict=True)),
        "confusion_matrix": confusion_matrix(predicted, labels, classes).tolist(),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "face_box_iou": face_box_iou(answers.boxes.numpy(), answers.batch.face_boxes.numpy(), found),
        "landmark_nme": landmark_nme(answers.landmarks.numpy(), answers.batch.face_landmarks.numpy(), found),
    }
    voted = voted_rates(predicted, votes)
    return figures | {"voted": voted} if voted else figures
