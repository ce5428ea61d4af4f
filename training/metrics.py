"""The figures of a test: UAR, WAR, confusion matrix, box overlap and landmark error.

Every formula stands once, as a function of numpy arrays; the `evaluate.Metric` classes below call it and need no
network.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np

from mtcae_dfer.face_geometry import box_intersection_over_union

LEFT_EYE, RIGHT_EYE = 0, 1


def confusion_matrix(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (K, K): rows are true classes, columns predicted ones.

    Args:
        predictions: class ids (N,).
        references: class ids (N,).
        num_classes: K.

    Raises:
        ValueError: different lengths, no clips, or ids outside 0..K-1.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape or predictions.ndim != 1:
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} must be two equal lists")
    if predictions.size == 0:
        raise ValueError("there are no clips to compute a metric of")
    for name, ids in (("predictions", predictions), ("references", references)):
        outside = np.unique(ids[(ids < 0) | (ids >= num_classes)])
        if outside.size:
            raise ValueError(f"{name} hold class ids {outside.tolist()}, but there are classes 0 to {num_classes - 1}")
    return np.bincount(references * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, -1)


def per_class_recall(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Recall of each class (K,); NaN for a class of which there is no clip. Errors as in `confusion_matrix`."""
    counts = confusion_matrix(predictions, references, num_classes)
    clips = counts.sum(axis=1)
    return np.divide(counts.diagonal(), clips, out=np.full(num_classes, np.nan), where=clips > 0)


def unweighted_average_recall(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> float:
    """UAR: mean recall of the classes that occur among the references. Errors as in `confusion_matrix`."""
    return float(np.nanmean(per_class_recall(predictions, references, num_classes)))


def weighted_average_recall(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> float:
    """WAR: share of clips whose class is right (accuracy). Errors as in `confusion_matrix`."""
    counts = confusion_matrix(predictions, references, num_classes)
    return float(counts.trace() / counts.sum())


def face_box_iou(predictions: np.ndarray, references: np.ndarray, face_found: np.ndarray) -> float:
    """Mean overlap of boxes (..., 4) with the reference boxes over frames with a face; NaN if there is none.

    Raises:
        ValueError: shapes that do not fit.
    """
    predictions, references, found = _select_frames(predictions, references, face_found, 1)
    return float(box_intersection_over_union(predictions, references).mean()) if found else float("nan")


def landmark_nme(
    predictions: np.ndarray, references: np.ndarray, face_found: np.ndarray, width: float = 1.0, height: float = 1.0
) -> float:
    """Mean distance of five points (..., 5, 2) from the reference points / distance of the reference's eyes.

    Mean over frames with a face and over points; NaN if no frame has a face. Coordinates are divided by frame width and
    height, and distances are those in a frame of `width` x `height`; by default the square frame that the model sees.

    Raises:
        ValueError: shapes that do not fit.
    """
    predictions, references, found = _select_frames(predictions, references, face_found, 2)
    if not found:
        return float("nan")
    scale = np.array([width, height], dtype=np.float64)
    distances = np.linalg.norm((predictions - references) * scale, axis=-1)
    between_eyes = np.linalg.norm((references[:, LEFT_EYE] - references[:, RIGHT_EYE]) * scale, axis=-1)
    return float((distances / between_eyes[:, None]).mean())


def _select_frames(
    predictions: np.ndarray, references: np.ndarray, face_found: np.ndarray, label_axes: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Predictions and references of the frames with a face, as float64, and how many these are."""
    predictions, references = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    found = np.asarray(face_found, dtype=bool)
    if predictions.shape != references.shape or references.shape[:-label_axes] != found.shape:
        raise ValueError(
            f"predictions {predictions.shape}, references {references.shape} and face_found {found.shape} do not fit"
        )
    return predictions[found], references[found], int(found.sum())


class OfflineMetric(evaluate.Metric):
    """A metric that is a class of this module: constructed by its name, computed in memory, without the network."""

    description: str
    features: datasets.Features

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.description, citation="", features=self.features)


CLASS_FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})


class UnweightedAverageRecall(OfflineMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"uar"}; see `unweighted_average_recall`."""

    description = "Mean of the per-class recalls."
    features = CLASS_FEATURES

    def _compute(self, predictions: list[int], references: list[int], num_classes: int) -> dict[str, float]:
        return {"uar": unweighted_average_recall(np.array(predictions), np.array(references), num_classes)}


class WeightedAverageRecall(OfflineMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"war"}; see `weighted_average_recall`."""

    description = "Share of clips whose class is right."
    features = CLASS_FEATURES

    def _compute(self, predictions: list[int], references: list[int], num_classes: int) -> dict[str, float]:
        return {"war": weighted_average_recall(np.array(predictions), np.array(references), num_classes)}


class ConfusionMatrix(OfflineMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"confusion_matrix"}; see `confusion_matrix`."""

    description = "Counts of clips: rows are true classes, columns predicted ones."
    features = CLASS_FEATURES

    def _compute(self, predictions: list[int], references: list[int], num_classes: int) -> dict[str, Any]:
        counts = confusion_matrix(np.array(predictions), np.array(references), num_classes)
        return {"confusion_matrix": counts.tolist()}


def _face_features(shape: tuple[int, ...]) -> datasets.Features:
    feature: Any = datasets.Value("float32")
    for size in reversed(shape):
        feature = datasets.Sequence(feature, length=size)
    return datasets.Features({"predictions": feature, "references": feature})


class FaceMetric(OfflineMetric):
    """One frame per entry; frames whose reference is NaN have no face and do not count."""

    name_of_result: str
    formula: Callable[..., float]

    def _compute(self, predictions: list, references: list, **options: float) -> dict[str, float]:
        references = np.array(references, dtype=np.float64)
        found = ~np.isnan(references.reshape(len(references), -1)).any(axis=1)
        value = type(self).formula(np.array(predictions, dtype=np.float64), references, found, **options)
        return {self.name_of_result: value}


class FaceBoxIoU(FaceMetric):
    """`compute(predictions=, references=)` of boxes, one frame per entry -> {"face_box_iou"}; see `face_box_iou`."""

    description = "Mean overlap of face boxes over frames with a face."
    features = _face_features((4,))
    name_of_result = "face_box_iou"
    formula = staticmethod(face_box_iou)


class NormalisedLandmarkError(FaceMetric):
    """`compute(predictions=, references=)` of five points, one frame per entry -> {"landmark_nme"}."""

    description = "Mean landmark distance / inter-ocular distance over frames with a face."
    features = _face_features((5, 2))
    name_of_result = "landmark_nme"
    formula = staticmethod(landmark_nme)
