"""Predictions on a split, their metrics, and the constant predictor that every model must beat."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from mtcae_dfer.configuration_mtcae import TaskDescription
from mtcae_dfer.face_geometry import flip_horizontally
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.hub_dataset.votes import VOTES
from mtcae_dfer.training.affect.tasks import affect_figures, affect_tasks, constant_affect, label_key
from mtcae_dfer.training.data.clip_dataset import ClipDataset
from mtcae_dfer.training.evaluation.metrics import (
    confusion_matrix,
    face_box_iou,
    landmark_nme,
    per_class_recall,
    unweighted_average_recall,
    weighted_average_recall,
)

PREDICTIONS_FILE = "predictions.parquet"
FACE_FIGURES = ("face_box_iou", "landmark_nme")
NAMED_CLIPS = 3  # how many clips a message names
PREDICTED = {"expression": "scores", "face_box": "boxes", "face_landmarks": "landmarks"}  # by task


@dataclass
class AffectPrediction:
    """One task of valence, arousal or action units: predictions and labels float32 (N, [T,] outputs)."""

    task: TaskDescription
    predicted: np.ndarray
    true: np.ndarray  # NaN where unknown


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
    rows: np.ndarray | None = None  # int64 (N,) positions of the clips in their split; None: in its order
    affect: list[AffectPrediction] = field(default_factory=list)  # of the model's tasks of affect


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


@dataclass(frozen=True)
class ClipViews:
    """Looks at a clip whose predictions are joined to one."""

    segments: int = 1  # windows that stand one after the other in the clip's frames
    flip: bool = False  # each of them as it is, and mirrored


@torch.inference_mode()
def predict_split(
    model: torch.nn.Module,
    processor: Any,
    loader: DataLoader,
    accelerator: Accelerator,
    views: ClipViews = ClipViews(),  # noqa: B008 (frozen)
) -> tuple[Predictions, float]:
    """Predicts all clips of a prepared loader.

    Args:
        model: prepared, too.
        processor: makes its input.
        loader: of clips.
        accelerator: that prepared them.
        views: scores are means over all views, faces means of a frame and its mirror image; every segment's frames
            have their own.

    Returns:
        The predictions of all processes' clips, each clip once, and the mean loss over clips.
    """
    model.eval()
    tasks = accelerator.unwrap_model(model).tasks
    affect = affect_tasks(tasks)
    gathered: dict[str, list[torch.Tensor]] = {}
    for batch in loader:
        loss, outputs = predict_views(model, processor, batch, tasks, views)
        batch_size = len(batch["labels"])
        parts = {name: batch[name] for name in ("labels", "face_boxes", "face_landmarks", "face_found", "index")}
        parts |= {"loss": loss.expand(batch_size)}
        parts |= {f"predicted_{name}": outputs[task] for task, name in PREDICTED.items() if task in outputs}
        parts |= {f"task_{task.name}": outputs[task.name] for task in affect}
        parts |= {f"true_{task.name}": batch[task.label_key] for task in affect}
        for name, value in accelerator.gather_for_metrics(parts).items():
            gathered.setdefault(name, []).append(value.cpu())
    arrays = {name: torch.cat(values).numpy() for name, values in gathered.items()}
    refuse_nan_scores(arrays, loader.dataset)
    predictions = Predictions(
        scores=arrays["predicted_scores"],
        labels=arrays["labels"],
        face_found=arrays["face_found"],
        true_boxes=arrays["face_boxes"],
        true_landmarks=arrays["face_landmarks"],
        face_boxes=arrays.get("predicted_boxes"),
        face_landmarks=arrays.get("predicted_landmarks"),
        rows=arrays["index"],
        affect=[AffectPrediction(task, arrays[f"task_{task.name}"], arrays[f"true_{task.name}"]) for task in affect],
    )
    return predictions, float(arrays["loss"].mean())


def refuse_nan_scores(arrays: dict[str, np.ndarray], clips: Any) -> None:
    """Raises a ValueError that names the clips for which the model predicts what is no number."""
    predicted = [array for name, array in arrays.items() if name.startswith(("predicted_", "task_"))]
    wrong = np.any([~np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in predicted], axis=0)
    if wrong.any():
        names = [clips.names[row] for row in arrays["index"][wrong][:NAMED_CLIPS]]
        raise ValueError(
            f"the model's scores are no numbers for {wrong.sum()} of {len(wrong)} clips ({', '.join(names)}): lower "
            "--learning_rate, or train without --fp16; the last good checkpoint is kept"
        )


def predict_views(
    model: torch.nn.Module,
    processor: Any,
    batch: dict[str, torch.Tensor],
    tasks: Sequence[TaskDescription],
    views: ClipViews,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean loss of a batch's segments, and every task's prediction float32 (B, ...) or (B, segments * T, ...)."""
    parts = [_segment(batch, tasks, number, views.segments) for number in range(views.segments)]
    outputs = [model(**clip_arguments(processor, part), **label_arguments(part)) for part in parts]
    predicted = [{name: value.float() for name, value in output.task_outputs.items()} for output in outputs]
    if views.flip:
        mirrored = [model(**clip_arguments(processor, part | {"frames": part["frames"].flip(-1)})) for part in parts]
        predicted = [_join_mirrored(own, other) for own, other in zip(predicted, mirrored, strict=True)]
    joined = {
        task.name: torch.cat([part[task.name] for part in predicted], dim=1)
        if task.per == "frame"
        else torch.stack([part[task.name] for part in predicted]).mean(dim=0)
        for task in tasks
    }
    return torch.stack([output.loss.float() for output in outputs]).mean(), joined


def _segment(
    batch: dict[str, torch.Tensor], tasks: Sequence[TaskDescription], number: int, segments: int
) -> dict[str, torch.Tensor]:
    """What belongs to one of the windows that stand one after the other in a batch's frames."""
    per_frame = {key for task in tasks if task.per == "frame" for key in (task.label_key, task.mask_key)}
    per_frame |= {"frames", "face_boxes", "face_landmarks", "face_found"}
    # (B, segments * T, ...) -> (B, T, ...)
    return {
        name: value.unflatten(1, (segments, -1))[:, number] if name in per_frame else value
        for name, value in batch.items()
    }


def _join_mirrored(own: dict[str, torch.Tensor], mirrored: Any) -> dict[str, torch.Tensor]:
    """Means of a clip's predictions and those of its mirror image, whose faces are mirrored back."""
    other = {name: value.float() for name, value in mirrored.task_outputs.items()}
    like = next(iter(other.values()))
    faces = (other.get("face_box", like.new_zeros(4)), other.get("face_landmarks", like.new_zeros(5, 2)))
    other |= dict(zip(("face_box", "face_landmarks"), flip_horizontally(*faces), strict=True))
    return {name: (value + other[name]) / 2 for name, value in own.items()}


def clip_arguments(processor: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The clips of a batch as `MTCAEForMultiTaskVideo.forward` takes them: pixels, or what the encoder made of them."""
    if "encoded" in batch:
        return {"encoded_clips": batch["encoded"]}
    return {"pixel_values": normalise(processor, batch["frames"])}


def label_arguments(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The labels of a batch as `MTCAEForMultiTaskVideo.forward` takes them."""
    return {name: values for name, values in batch.items() if name not in ("frames", "encoded", "index", VOTES)}


def compute_metrics(predictions: Predictions, classes: list[str]) -> dict[str, Any]:
    """UAR, WAR, confusion matrix, recalls, box IoU and landmark error of the predictions, for a report.

    Box IoU and landmark error are means over frames with a found face; None where the model does not predict them,
    NaN where no frame has a face.
    """
    predicted = predictions.scores.argmax(axis=-1)
    recalls = per_class_recall(predicted, predictions.labels, len(classes))
    affect = [affect_figures(part.task, part.predicted, part.true) for part in predictions.affect]
    return {
        "uar": unweighted_average_recall(predicted, predictions.labels, len(classes)),
        "war": weighted_average_recall(predicted, predictions.labels, len(classes)),
        **_face_metrics(predictions),
        **{name: value for figures in affect for name, value in figures.items()},
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
        rows=test.rows,
        affect=[
            replace(part, predicted=constant_affect(part.task, labels[label_key(part.task)], part.true))
            for part in test.affect
        ],
    )


def _repeat_mean(labels: np.ndarray, found: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Mean of labels (N, T, ...) over frames with a face, repeated to the shape of `like` (M, T, ...)."""
    if not found.any():
        return np.full_like(like, math.nan)
    return np.broadcast_to(labels[found].mean(axis=0), like.shape).astype(like.dtype)


def write_clip_predictions(
    predictions: Predictions, rows: datasets.Dataset, classes: list[str], output_dir: Path
) -> Path:
    """Writes predictions.parquet: a row per clip, from which every figure can be computed for any group of clips.

    Columns: name, subject, attributes (JSON, what the corpus tells of the clip), expression and predicted (class
    names), score_CLASS (logits), frames_with_face, and the means face_box_iou and landmark_nme over these frames (null
    where there are none or the model does not predict them).

    Args:
        predictions: of the clips of `rows`.
        rows: the split that was predicted.
        classes: names of the expressions in the order of their ids.
        output_dir: of the run.
    """
    order = range(len(predictions.labels)) if predictions.rows is None else predictions.rows.tolist()
    names, subjects = list(rows["name"]), list(rows["subject"])
    # What the corpus tells of each clip; not every data set keeps it.
    attributes = list(rows["attributes"]) if "attributes" in rows.column_names else ["{}"] * len(rows)
    table = {
        "name": [names[row] for row in order],
        "subject": [subjects[row] for row in order],
        "attributes": [json.dumps(json.loads(attributes[row]), sort_keys=True) for row in order],
        "expression": [classes[label] for label in predictions.labels],
        "predicted": [classes[label] for label in predictions.scores.argmax(axis=-1)],
        **{f"score_{name}": predictions.scores[:, label].tolist() for label, name in enumerate(classes)},
        "frames_with_face": predictions.face_found.sum(axis=1).tolist(),
        **_face_figures_per_clip(predictions),
    }
    file = output_dir / PREDICTIONS_FILE
    with replacing(file) as temporary:
        parquet.write_table(pa.table(table), temporary)
    return file


def _face_figures_per_clip(predictions: Predictions) -> dict[str, list[float | None]]:
    arrays = {name: value for name, value in vars(predictions).items() if isinstance(value, np.ndarray)}
    figures: list[dict[str, float | None]] = []
    for position in range(len(predictions.labels)):
        # All fields but the list of affect are arrays over the clips.
        of_clip: dict[str, Any] = {name: value[position : position + 1] for name, value in arrays.items()}
        figures.append(_face_metrics(Predictions(**of_clip)) if predictions.face_found[position].any() else {})
    return {name: pa.array([clip.get(name) for clip in figures], pa.float64()) for name in FACE_FIGURES}
