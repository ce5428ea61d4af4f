"""Predictions on a split, their metrics, and the constant predictor that every model must beat."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from mtcae_dfer.modeling_mtcae import MTCAEForMultiTaskVideo
from mtcae_dfer.training.data import ClipDataset
from mtcae_dfer.training.metrics import (
    confusion_matrix,
    face_box_iou,
    landmark_nme,
    per_class_recall,
    unweighted_average_recall,
    weighted_average_recall,
)


@dataclass
class Predictions:
    """Predictions and labels of N clips on the CPU. Face labels are NaN where no face was found."""

    scores: np.ndarray  # float32 (N, K) logits
    labels: np.ndarray  # int64 (N,)
    face_found: np.ndarray  # bool (N, T)
    true_boxes: np.ndarray  # float32 (N, T, 4)
    true_landmarks: np.ndarray  # float32 (N, T, 5, 2)
    face_boxes: np.ndarray | None = None  # float32 (N, T, 4)
    face_landmarks: np.ndarray | None = None  # float32 (N, T, 5, 2)


def normalise(processor: Any, frames: torch.Tensor) -> torch.Tensor:
    """uint8 frames (B, T, 3, H, W) -> pixel_values, by the very function of the processor."""
    return processor.rescale_and_normalize(
        frames,
        processor.do_rescale,
        processor.rescale_factor,
        processor.do_normalize,
        processor.image_mean,
        processor.image_std,
    )


@torch.inference_mode()
def predict_split(
    model: MTCAEForMultiTaskVideo, processor: Any, loader: DataLoader, accelerator: Accelerator
) -> tuple[Predictions, float]:
    """Predicts all clips of a prepared loader.

    Returns:
        The predictions of all processes' clips, each clip once, and the mean loss over clips.
    """
    model.eval()
    gathered: dict[str, list[torch.Tensor]] = {}
    for batch in loader:
        outputs = model(pixel_values=normalise(processor, batch["frames"]), **label_arguments(batch))
        batch_size = len(batch["labels"])
        parts = {name: batch[name] for name in ("labels", "face_boxes", "face_landmarks", "face_found")}
        parts |= {"loss": outputs.loss.float().expand(batch_size)}
        parts |= {f"predicted_{name}": value.float() for name, value in _predicted(outputs).items()}
        for name, value in accelerator.gather_for_metrics(parts).items():
            gathered.setdefault(name, []).append(value.cpu())
    arrays = {name: torch.cat(values).numpy() for name, values in gathered.items()}
    return _as_predictions(arrays), float(arrays["loss"].mean())


def label_arguments(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The labels of a batch as `MTCAEForMultiTaskVideo.forward` takes them."""
    return {name: batch[name] for name in ("labels", "face_boxes", "face_landmarks", "face_found")}


def _predicted(outputs: Any) -> dict[str, torch.Tensor]:
    values = {"scores": outputs.logits, "boxes": outputs.face_boxes, "landmarks": outputs.face_landmarks}
    return {name: value for name, value in values.items() if value is not None}


def _as_predictions(arrays: dict[str, np.ndarray]) -> Predictions:
    return Predictions(
        scores=arrays["predicted_scores"],
        labels=arrays["labels"],
        face_found=arrays["face_found"],
        true_boxes=arrays["face_boxes"],
        true_landmarks=arrays["face_landmarks"],
        face_boxes=arrays.get("predicted_boxes"),
        face_landmarks=arrays.get("predicted_landmarks"),
    )


def compute_metrics(predictions: Predictions, classes: list[str]) -> dict[str, Any]:
    """UAR, WAR, confusion matrix, recalls, box IoU and landmark error of the predictions, for a report.

    Box IoU and landmark error are means over frames with a found face; None where the model does not predict them,
    NaN where no frame has a face.
    """
    predicted = predictions.scores.argmax(axis=-1)
    recalls = per_class_recall(predicted, predictions.labels, len(classes))
    return {
        "uar": unweighted_average_recall(predicted, predictions.labels, len(classes)),
        "war": weighted_average_recall(predicted, predictions.labels, len(classes)),
        **_face_metrics(predictions),
        "clips": len(predicted),
        "frames_with_face": int(predictions.face_found.sum()),
        "confusion_matrix": confusion_matrix(predicted, predictions.labels, len(classes)).tolist(),
        "per_class_recall": {name: float(recall) for name, recall in zip(classes, recalls, strict=True)},
    }


def _face_metrics(predictions: Predictions) -> dict[str, float | None]:
    found = predictions.face_found
    boxes, landmarks = predictions.face_boxes, predictions.face_landmarks
    return {
        "face_box_iou": None if boxes is None else face_box_iou(boxes, predictions.true_boxes, found),
        "landmark_nme": None if landmarks is None else landmark_nme(landmarks, predictions.true_landmarks, found),
    }


def constant_predictions(train: ClipDataset, test: Predictions, num_classes: int) -> Predictions:
    """What a model knows that never looks: the majority class, and the training clips' mean box and points."""
    labels = {name: values.numpy() for name, values in train.labels.items()}
    majority = np.bincount(labels["labels"], minlength=num_classes).argmax()
    scores = np.zeros_like(test.scores)
    scores[:, majority] = 1.0
    return Predictions(
        scores=scores,
        labels=test.labels,
        face_found=test.face_found,
        true_boxes=test.true_boxes,
        true_landmarks=test.true_landmarks,
        face_boxes=_repeat_mean(labels["face_boxes"], labels["face_found"], test.true_boxes),
        face_landmarks=_repeat_mean(labels["face_landmarks"], labels["face_found"], test.true_landmarks),
    )


def _repeat_mean(labels: np.ndarray, found: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Mean of labels (N, T, ...) over frames with a face, repeated to the shape of `like` (M, T, ...)."""
    if not found.any():
        return np.full_like(like, math.nan)
    return np.broadcast_to(labels[found].mean(axis=0), like.shape).astype(like.dtype)
