"""Predictions of trained MTL-ER models and the figures of the systems that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS, AFFECT_EXPRESSIONS, TASKS
from mtcae_dfer.modeling_mtl_er import (
    MTLERForAffectiveBehavior,
    MTLERPrediction,
    average_predictions,
    smooth_over_time,
)
from mtcae_dfer.training.affect.arguments import AffectModelArguments, whole_numbers
from mtcae_dfer.training.affect.sequences import AffectSequence, AffectSplits
from mtcae_dfer.training.evaluation.metrics import concordance_correlation, multi_task_score

SMOOTHED = ("valence", "arousal")


def predict_videos(models: Sequence[MTLERForAffectiveBehavior], videos: Sequence[AffectSequence]) -> list[Any]:
    """Each video's prediction, without the axis of videos; several models are averaged."""
    for model in models:
        model.eval()
    device = models[0].device
    predictions = []
    for video in videos:
        features = torch.from_numpy(video.features)[None].to(device)
        mean = average_predictions([model.predict(features) for model in models])
        predictions.append(MTLERPrediction(**{name: value[0].cpu() for name, value in mean.items()}))
    return predictions


def join_tasks(parts: Sequence[Sequence[MTLERPrediction]]) -> list[MTLERPrediction]:
    """Predictions of models of one task each, put together video by video."""
    return [
        MTLERPrediction(**{name: value for part in video for name, value in part.items()})
        for video in zip(*parts, strict=True)
    ]


def as_table(prediction: MTLERPrediction, half_widths: dict[str, int] | None = None) -> np.ndarray:
    """A video's prediction in the columns of s-Aff-Wild2, (L, 3 + U); tasks that are not there become zeros.

    Args:
        prediction: of one video.
        half_widths: of the smoothing of valence and arousal; None: none.
    """
    length = len(next(iter(prediction.values())))
    columns = []
    for name in SMOOTHED:
        values = prediction.get(name)
        values = torch.zeros(length) if values is None else smooth_over_time(values, (half_widths or {}).get(name, 0))
        columns.append(values.clamp(-1.0, 1.0).numpy())
    scores, units = prediction.get("expression_probabilities"), prediction.get("action_unit_probabilities")
    columns.append(np.zeros(length) if scores is None else scores.argmax(dim=-1).numpy())
    columns.append(np.zeros((length, len(AFFECT_ACTION_UNITS))) if units is None else (units >= 0.5).numpy())
    return np.column_stack(columns).astype(np.float64)


def score(
    predictions: Sequence[MTLERPrediction],
    videos: Sequence[AffectSequence],
    half_widths: dict[str, int] | None = None,
) -> dict[str, float]:
    """P_MTL and its parts over all frames of all videos."""
    predicted = np.concatenate([as_table(prediction, half_widths) for prediction in predictions])
    return multi_task_score(predicted, reference_table(videos), len(AFFECT_EXPRESSIONS))


def reference_table(videos: Sequence[AffectSequence]) -> np.ndarray:
    """Labels of all frames of all videos (N, 3 + U)."""
    return np.concatenate([video.labels.as_table() for video in videos])


def validate(model: MTLERForAffectiveBehavior, videos: Sequence[AffectSequence]) -> dict[str, float]:
    """The figures of the model's tasks on the validation videos, without smoothing."""
    figures = score(predict_videos([model], videos), videos)
    of_task = dict(zip(TASKS, ("ccc_valence", "ccc_arousal", "expression_f1", "action_unit_f1"), strict=True))
    return {of_task[task]: figures[of_task[task]] for task in model.config.tasks}


def search_smoothing(
    predictions: Sequence[MTLERPrediction], videos: Sequence[AffectSequence], half_widths: Sequence[int]
) -> dict[str, int]:
    """The half width with the highest CCC on these videos, for valence and for arousal; the smallest of equals."""
    chosen = {}
    for name in SMOOTHED:
        true = np.concatenate([getattr(video.labels, name) for video in videos])
        agreement: dict[int, float] = {}
        for half_width in sorted(half_widths):
            smoothed = [smooth_over_time(prediction[name], half_width) for prediction in predictions]
            agreement[half_width] = concordance_correlation(torch.cat(smoothed).numpy(), true)
        chosen[name] = max(agreement, key=agreement.__getitem__)
    return chosen


def test_system(
    groups: Sequence[Sequence[MTLERForAffectiveBehavior]], splits: AffectSplits, options: AffectModelArguments
) -> dict[str, Any]:
    """Each group of models is averaged; groups of different tasks are put together."""
    validation, test = (
        join_tasks([predict_videos(group, videos) for group in groups]) for videos in (splits.validation, splits.test)
    )
    widths = whole_numbers("smoothing_half_widths", options.smoothing_half_widths)
    smoothing = search_smoothing(validation, splits.validation, widths)
    return {
        "test": score(test, splits.test, smoothing),
        "test_without_smoothing": score(test, splits.test),
        "validation": score(validation, splits.validation, smoothing),
        "smoothing_half_widths": smoothing,
    }


def score_constant(splits: AffectSplits) -> dict[str, float]:
    """Figures of what never looks: mean valence and arousal, most frequent expression, units seen in most frames."""
    train, test = reference_table(splits.train), reference_table(splits.test)
    row = np.zeros(train.shape[1])
    for column, missing in enumerate([-5, -5, *[-1] * (train.shape[1] - 2)]):
        known = train[:, column][train[:, column] != missing]
        if not len(known):
            continue
        row[column] = np.bincount(known.astype(np.int64)).argmax() if column == 2 else known.mean()
    row[3:] = row[3:] >= 0.5
    return multi_task_score(np.tile(row, (len(test), 1)), test, len(AFFECT_EXPRESSIONS))


def labelled_units(videos: Sequence[AffectSequence]) -> list[int]:
    """The action units that are labelled somewhere in these videos: those of which the F1 is a mean."""
    known = np.any(reference_table(videos)[:, 3:] >= 0, axis=0).tolist()
    return [unit for unit, there in zip(AFFECT_ACTION_UNITS, known, strict=True) if there]
