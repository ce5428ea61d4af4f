"""The figures of a test: UAR, WAR, confusion matrix, box overlap, landmark error, and those of affect (P_MTL).

Every formula stands once, as a function of numpy arrays; the `evaluate.Metric` classes below call it. They are classes
to import, not scripts to load, so that they need no network, and they keep their data in memory, so that any number of
them work at the same time and nothing is written to the home folder.

What does not count: a class of which there is no clip has no recall and is left out of the UAR's mean; a frame without
a found face is left out of box overlap and landmark error. Where no frame has a face these two are NaN, which is an
answer ("there was no face"), not an error. Input that cannot be a prediction or a label is a ValueError.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from mtcae_dfer.face_geometry import LANDMARK_NAMES, box_intersection_over_union
from mtcae_dfer.modeling_mtl_er import MISSING_LABEL, MISSING_VALENCE_AROUSAL

LEFT_EYE, RIGHT_EYE = LANDMARK_NAMES.index("left_eye"), LANDMARK_NAMES.index("right_eye")
BOX_SHAPE, LANDMARKS_SHAPE = (4,), (len(LANDMARK_NAMES), 2)


def confusion_matrix(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (K, K): rows are true classes, columns predicted ones.

    Args:
        predictions: class ids (N,), of any integer type.
        references: class ids (N,), likewise.
        num_classes: K.

    Raises:
        ValueError: different lengths, no clips, ids that are no integers, or ids outside 0..K-1.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape or predictions.ndim != 1:
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} must be two equal lists")
    if predictions.size == 0:
        raise ValueError("there are no clips to compute a metric of")
    predictions = _checked_ids("predictions", predictions, num_classes)
    references = _checked_ids("references", references, num_classes)
    # One number per pair (true, predicted), counted, then (K * K,) -> (K, K)
    pairs = references * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_recall(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Recall of each class (K,); NaN for a class of which there is no clip. Errors as in `confusion_matrix`."""
    counts = confusion_matrix(predictions, references, num_classes)
    clips = counts.sum(axis=1)
    return np.divide(counts.diagonal(), clips, out=np.full(num_classes, np.nan), where=clips > 0)


def unweighted_average_recall(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> float:
    """UAR: mean of the per-class recalls, each class with the same weight.

    A class without a clip among the references is left out of the mean: it can be neither found nor missed. A clip
    that is wrongly taken for such a class still lowers the recall of its true class. Errors as in `confusion_matrix`.
    """
    return float(np.nanmean(per_class_recall(predictions, references, num_classes)))


def weighted_average_recall(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> float:
    """WAR: share of clips whose class is right (accuracy). Errors as in `confusion_matrix`."""
    counts = confusion_matrix(predictions, references, num_classes)
    return float(counts.trace() / counts.sum())


def face_box_iou(predictions: np.ndarray, references: np.ndarray, face_found: np.ndarray) -> float:
    """Mean intersection over union of face boxes over the frames with a face.

    Args:
        predictions: boxes (..., 4).
        references: boxes (..., 4) in the same unit; what stands where no face was found is not read.
        face_found: boolean (...).

    Returns:
        A value in [0, 1]; NaN if no frame has a face, or if a prediction on a frame with a face is NaN.

    Raises:
        ValueError: shapes that do not fit, no frames, or an unknown reference where a face was found.
    """
    predictions, references = _frames_with_face(predictions, references, face_found, BOX_SHAPE)
    return float(box_intersection_over_union(predictions, references).mean()) if len(references) else float("nan")


def landmark_nme(
    predictions: np.ndarray, references: np.ndarray, face_found: np.ndarray, width: float = 1.0, height: float = 1.0
) -> float:
    """Mean distance of five points from the reference's, divided by the distance between the reference's eyes.

    Coordinates are divided by frame width and height separately, so that a distance has a meaning only in a frame of
    given proportions. The default is the square frame that the model sees (its side cancels out); with the `width` and
    `height` of the source video, in any unit, distances are those in the source.

    Args:
        predictions: points (..., 5, 2) in the order of LANDMARK_NAMES, normalised.
        references: points (..., 5, 2), likewise; what stands where no face was found is not read.
        face_found: boolean (...).
        width: of the frame.
        height: of the frame.

    Returns:
        Mean over the frames with a face and over points, a fraction of the inter-ocular distance; NaN if no frame has
        a face, or if a prediction on a frame with a face is NaN.

    Raises:
        ValueError: shapes that do not fit, no frames, an unknown reference where a face was found, eyes of a reference
            that coincide, or a frame without an area.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"width {width} and height {height} of the frame must be greater than 0")
    predictions, references = _frames_with_face(predictions, references, face_found, LANDMARKS_SHAPE)
    if not len(references):
        return float("nan")
    scale = np.array([width, height], dtype=np.float64)
    distances = np.linalg.norm((predictions - references) * scale, axis=-1)  # (F, 5)
    between_eyes = np.linalg.norm((references[:, LEFT_EYE] - references[:, RIGHT_EYE]) * scale, axis=-1)  # (F,)
    if not between_eyes.all():
        raise ValueError(f"the two eyes coincide in {(between_eyes == 0).sum()} reference frames: look at these labels")
    return float((distances / between_eyes[:, None]).mean())


def _checked_ids(name: str, ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Class ids as int64: in a narrow type, id * K would overflow."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} hold {ids.dtype} values, but class ids are integers: take the argmax of scores first")
    outside = np.unique(ids[(ids < 0) | (ids >= num_classes)])
    if outside.size:
        raise ValueError(f"{name} hold class ids {outside.tolist()}, but there are classes 0 to {num_classes - 1}")
    return ids.astype(np.int64)


def _frames_with_face(
    predictions: np.ndarray, references: np.ndarray, face_found: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and references (..., *shape) of the frames with a face, as float64 (F, *shape)."""
    predictions, references = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    found = np.asarray(face_found, dtype=bool)
    if not predictions.shape == references.shape == (*found.shape, *shape):
        raise ValueError(
            f"predictions {predictions.shape}, references {references.shape} and face_found {found.shape} do not fit: "
            f"there must be {shape} numbers for each frame"
        )
    if found.size == 0:
        raise ValueError("there are no frames to compute a metric of")
    # (..., *shape) -> (F, *shape)
    predictions, references = predictions[found], references[found]
    unknown = int((~np.isfinite(references)).reshape(len(references), np.prod(shape)).any(axis=1).sum())
    if unknown:
        raise ValueError(f"{unknown} reference frames are said to show a face, but their labels are no numbers")
    return predictions, references


class OfflineMetric(evaluate.Metric):
    """A metric that is constructed by its class, and computed in memory, without the network and without files.

    Predictions and references are numpy arrays, torch tensors of any device and type, or lists. Any number of batches
    by `add_batch`, then `compute`, which forgets them. For processes that gather through files (`num_process` > 1)
    `evaluate` needs a shared `cache_dir` and an `experiment_id`.
    """

    description: str
    features: datasets.Features
    result_name: str

    def __init__(self, num_process: int = 1, **options: Any) -> None:
        super().__init__(**{"num_process": num_process, "keep_in_memory": num_process == 1, **options})
        # `evaluate` makes the name from the class's, and takes the U of "IoU" for a word.
        self.info.module_name = self.result_name

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.description, citation="", features=self.features)

    def _build_data_dir(self) -> str:
        # `evaluate` makes this folder in the home folder even where it will never write into it.
        return self._data_dir_root if self.keep_in_memory else super()._build_data_dir()

    def add_batch(self, predictions: Any = None, references: Any = None, **others: Any) -> None:
        """Adds predictions and their references.

        Raises:
            ValueError: shapes or types that do not fit.
        """
        predictions, references = _to_numpy(predictions), _to_numpy(references)
        if predictions.shape != references.shape:
            # Before anything is flattened: 2 clips of 8 frames are not 4 clips of 4.
            raise ValueError(f"predictions {predictions.shape} and references {references.shape} differ in shape")
        entries = self._as_entries("predictions", predictions), self._as_entries("references", references)
        super().add_batch(predictions=entries[0], references=entries[1], **others)

    def add(self, prediction: Any = None, reference: Any = None, **others: Any) -> None:
        """Adds one prediction and its reference, which `evaluate` also names `predictions` and `references`.

        Errors as in `add_batch`.
        """
        prediction, reference = others.pop("predictions", prediction), others.pop("references", reference)
        self.add_batch(_to_numpy(prediction)[None], _to_numpy(reference)[None], **others)

    def compute(self, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """Adds what is given, then computes the metric of all that was added, and forgets it.

        Raises:
            ValueError: nothing was added, or as in `add_batch` and in the function that holds the formula.
        """
        if predictions is None and references is None and self.writer is None:
            raise ValueError(f"{self.name}: nothing was added to compute a metric of")
        return super().compute(predictions=predictions, references=references, **options)

    def _as_entries(self, name: str, values: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def _to_numpy(values: Any) -> np.ndarray:
    """Tensors of any device and type, with or without a gradient, lists and arrays -> array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # numpy knows no bfloat16.
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


class ClassMetric(OfflineMetric):
    """A metric of class ids: `compute(predictions=, references=, num_classes=)`, one clip per entry."""

    features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
    formula: Callable[[np.ndarray, np.ndarray, int], Any]

    def _as_entries(self, name: str, ids: np.ndarray) -> np.ndarray:
        if ids.ndim != 1:
            raise ValueError(f"{name} have shape {ids.shape}, but must be a list of class ids")
        # `evaluate` would cut scores such as 0.7 down to the id 0. An empty list has no type of its own.
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} hold {ids.dtype} values, but class ids are integers: take the argmax first")
        return ids.astype(np.int64)

    def _compute(self, predictions: list[int], references: list[int], num_classes: int) -> dict[str, Any]:
        value = type(self).formula(np.array(predictions, np.int64), np.array(references, np.int64), num_classes)
        return {self.result_name: value.tolist() if isinstance(value, np.ndarray) else value}


class UnweightedAverageRecall(ClassMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"uar"}; see `unweighted_average_recall`."""

    description = "Mean of the recalls of the classes that occur among the references."
    result_name = "uar"
    formula = staticmethod(unweighted_average_recall)


class WeightedAverageRecall(ClassMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"war"}; see `weighted_average_recall`."""

    description = "Share of clips whose class is right."
    result_name = "war"
    formula = staticmethod(weighted_average_recall)


class ConfusionMatrix(ClassMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"confusion_matrix"}; see `confusion_matrix`."""

    description = "Counts of clips: rows are true classes, columns predicted ones."
    result_name = "confusion_matrix"
    formula = staticmethod(confusion_matrix)


def _face_features(shape: tuple[int, ...]) -> datasets.Features:
    feature: Any = datasets.Value("float32")
    for size in reversed(shape):
        feature = datasets.Sequence(feature, length=size)
    return datasets.Features({"predictions": feature, "references": feature})


class FaceMetric(OfflineMetric):
    """A metric of face labels (..., *shape), whatever axes of clips and frames come first.

    A frame whose reference is all NaN has no face and does not count: the labels' own convention.
    """

    shape: tuple[int, ...]
    formula: Callable[..., float]

    def _as_entries(self, name: str, labels: np.ndarray) -> np.ndarray:
        if labels.size and labels.shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"{name} have shape {labels.shape}, but their last axes must be {self.shape}")
        # (..., *shape) -> (frames, *shape)
        return labels.astype(np.float32).reshape(-1, *self.shape)

    def _compute(self, predictions: list, references: list, **options: float) -> dict[str, float]:
        predicted, reference = (
            np.array(values, np.float64).reshape(-1, *self.shape) for values in (predictions, references)
        )
        found = ~np.isnan(reference).reshape(len(reference), np.prod(self.shape)).all(axis=1)
        return {self.result_name: type(self).formula(predicted, reference, found, **options)}


class FaceBoxIoU(FaceMetric):
    """`compute(predictions=, references=)` of boxes (..., 4) -> {"face_box_iou"}; see `face_box_iou`."""

    description = "Mean intersection over union of face boxes over frames with a face."
    shape = BOX_SHAPE
    features = _face_features(BOX_SHAPE)
    result_name = "face_box_iou"
    formula = staticmethod(face_box_iou)


class NormalisedLandmarkError(FaceMetric):
    """`compute(predictions=, references=)` of points (..., 5, 2) -> {"landmark_nme"}; see `landmark_nme`.

    `compute` also takes the frame's `width` and `height`.
    """

    description = "Mean landmark distance / inter-ocular distance over frames with a face."
    shape = LANDMARKS_SHAPE
    features = _face_features(LANDMARKS_SHAPE)
    result_name = "landmark_nme"
    formula = staticmethod(landmark_nme)


# Valence, arousal, expression and action units of frames, as the ABAW challenges score them


def concordance_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """CCC of valence or arousal: 2 cov(y, p) / (var y + var p + (mean y - mean p)^2), population statistics.

    It is computed once over the frames of all videos together, and is no mean of the videos' values.

    Args:
        predictions: (...).
        references: of the same shape, in [-1, 1]; -5 or NaN where unknown, which does not count.

    Returns:
        A value in [-1, 1]; 0 where predictions or references do not vary, NaN where no frame is labelled or a
        prediction that counts is NaN.

    Raises:
        ValueError: shapes that differ, or references outside of [-1, 1].
    """
    predictions, references = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    if predictions.shape != references.shape:
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} differ in shape")
    known = ~np.isnan(references) & (references != MISSING_VALENCE_AROUSAL)
    predicted, true = predictions[known], references[known]
    outside = np.unique(true[np.abs(true) > 1])
    if outside.size:
        raise ValueError(f"references hold {outside[:5].tolist()}, but valence and arousal are in [-1, 1]")
    if not true.size:
        return float("nan")
    covariance = ((predicted - predicted.mean()) * (true - true.mean())).mean()
    spread = predicted.var() + true.var() + (predicted.mean() - true.mean()) ** 2
    return float(2 * covariance / spread) if spread != 0 else 0.0


def macro_f1(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> float:
    """Mean F1 over the expressions that occur among the labelled frames' references or predictions.

    Args:
        predictions: class ids (N,).
        references: class ids (N,); -1 where unknown, which does not count.
        num_classes: K.

    Returns:
        A value in [0, 1]; NaN where no frame is labelled.

    Raises:
        ValueError: as in `confusion_matrix`.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape:
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} differ in shape")
    known = references != MISSING_LABEL
    if not known.any():
        return float("nan")
    counts = confusion_matrix(predictions[known], references[known], num_classes)
    found, either = counts.diagonal(), counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * found[either > 0] / either[either > 0]).mean())


def per_unit_f1(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Binary F1 of each action unit (U,), over the frames in which this unit is labelled.

    Args:
        predictions: 0 or 1, (..., U).
        references: 0 or 1, (..., U); -1 where unknown, each unit by itself.

    Returns:
        F1 (U,): 0 for a unit that neither occurs nor is predicted, NaN for one that is labelled nowhere.

    Raises:
        ValueError: shapes that differ, or other values.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape or predictions.ndim < 1:
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} differ in shape")
    if not np.isin(predictions, (0, 1)).all():
        raise ValueError("predictions must hold 0 and 1: compare probabilities with 0.5 first")
    if not np.isin(references, (0, 1, MISSING_LABEL)).all():
        raise ValueError(f"references must hold 0, 1, and {MISSING_LABEL} where unknown")
    # (..., U) -> (frames, U)
    predicted = predictions.reshape(-1, predictions.shape[-1]) == 1
    true, known = (references.reshape(predicted.shape) == 1), references.reshape(predicted.shape) != MISSING_LABEL
    found = (predicted & true & known).sum(axis=0)
    either = (predicted & known).sum(axis=0) + true.sum(axis=0)
    scores = 2 * found / np.maximum(either, 1)
    return np.where(known.any(axis=0), scores, np.nan)


def action_unit_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """Mean of `per_unit_f1` over the action units that are labelled somewhere; NaN where there is none."""
    scores = per_unit_f1(predictions, references)
    return float(np.nanmean(scores)) if not np.isnan(scores).all() else float("nan")


def multi_task_score(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> dict[str, float]:
    """P_MTL of the ABAW challenges and its parts.

    Args:
        predictions: (N, 3 + U), one row a frame: valence, arousal, expression, action units 0 or 1.
        references: (N, 3 + U), likewise, with -5, -5, -1, -1 where unknown.
        num_classes: number of expressions.

    Returns:
        ccc_valence, ccc_arousal, expression_f1, action_unit_f1, and p_mtl = (ccc_valence + ccc_arousal) / 2 +
        expression_f1 + action_unit_f1, at most 3. NaN where a part has no labels.

    Raises:
        ValueError: as in the functions of the parts.
    """
    predictions, references = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    if predictions.shape != references.shape or predictions.ndim != 2 or predictions.shape[1] < 4:
        raise ValueError(
            f"predictions {predictions.shape} and references {references.shape} must be two equal tables of valence, "
            "arousal, expression and action units"
        )
    parts = {
        "ccc_valence": concordance_correlation(predictions[:, 0], references[:, 0]),
        "ccc_arousal": concordance_correlation(predictions[:, 1], references[:, 1]),
        "expression_f1": macro_f1(_whole("predictions", predictions), _whole("references", references), num_classes),
        "action_unit_f1": action_unit_f1(predictions[:, 3:], references[:, 3:]),
    }
    agreement = (parts["ccc_valence"] + parts["ccc_arousal"]) / 2
    return {**parts, "p_mtl": agreement + parts["expression_f1"] + parts["action_unit_f1"]}


def _whole(name: str, table: np.ndarray) -> np.ndarray:
    """The column of expressions as class ids."""
    ids = table[:, 2]
    if not (ids == np.round(ids)).all():
        raise ValueError(f"{name} hold expressions that are no whole numbers: take the argmax of scores first")
    return ids.astype(np.int64)


class ConcordanceCorrelation(OfflineMetric):
    """`compute(predictions=, references=)` of values (...) -> {"ccc"}; see `concordance_correlation`."""

    description = "Concordance correlation coefficient over all labelled frames together."
    features = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})
    result_name = "ccc"

    def _as_entries(self, name: str, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float64).reshape(-1)

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        # Missing values come back as None.
        pair = (np.array(values, np.float64) for values in (predictions, references))
        return {self.result_name: concordance_correlation(*pair)}


class ExpressionF1(ClassMetric):
    """`compute(predictions=, references=, num_classes=)` -> {"expression_f1"}; see `macro_f1`."""

    description = "Mean F1 over the expressions that occur; frames with the label -1 do not count."
    result_name = "expression_f1"
    formula = staticmethod(macro_f1)


class RowMetric(OfflineMetric):
    """A metric of rows of numbers (N, C), one row a frame."""

    features = datasets.Features(
        {name: datasets.Sequence(datasets.Value("float64")) for name in ("predictions", "references")}
    )

    def _as_entries(self, name: str, values: np.ndarray) -> np.ndarray:
        if values.ndim < 2:
            raise ValueError(f"{name} have shape {values.shape}, but must be rows of numbers, one a frame")
        # (..., C) -> (frames, C)
        return values.astype(np.float64).reshape(-1, values.shape[-1])


class ActionUnitF1(RowMetric):
    """`compute(predictions=, references=)` of rows (N, U) -> {"action_unit_f1"}; see `action_unit_f1`."""

    description = "Mean binary F1 over action units; labels -1 do not count."
    result_name = "action_unit_f1"

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return {self.result_name: action_unit_f1(np.array(predictions), np.array(references))}


class MultiTaskScore(RowMetric):
    """`compute(predictions=, references=, num_classes=)` of rows (N, 3 + U) -> P_MTL and its parts.

    See `multi_task_score`.
    """

    description = "P_MTL = mean CCC of valence and arousal + expression F1 + action unit F1."
    result_name = "p_mtl"

    def _compute(self, predictions: list, references: list, num_classes: int) -> dict[str, float]:
        return multi_task_score(np.array(predictions, np.float64), np.array(references, np.float64), num_classes)
