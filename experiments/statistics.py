"""Means over folds, and what resampling the tested subjects says about a figure or a difference.

Clips of one person are alike, so a resample draws whole subjects, never single clips. It holds trained models fixed:
an interval says how much a figure depends on who was tested, not how much training again would change it; for that
there are several folds and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1); the latter is NaN for fewer than two values.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("there is no value to take a mean of")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


@dataclass(frozen=True)
class SubjectSums:
    """All that the figures of S tested subjects need, as sums over their clips, so that resampling is adding."""

    subjects: tuple[str, ...]  # S different names
    confusion: np.ndarray  # int (S, K, K): rows are true classes, columns predicted ones
    box_overlap: np.ndarray  # (S,) sum of intersection over union over frames with a face; NaN: not predicted
    landmark_error: np.ndarray  # (S,) sum of the normalised error over frames with a face; NaN: not predicted
    frames: np.ndarray  # (S,) frames with a face

    def select(self, chosen: Sequence[bool]) -> SubjectSums:
        """The sums of some of the subjects."""
        kept = np.asarray(chosen, dtype=bool)
        subjects = tuple(name for name, keep in zip(self.subjects, kept, strict=True) if keep)
        arrays = (self.confusion, self.box_overlap, self.landmark_error, self.frames)
        return SubjectSums(subjects, *(array[kept] for array in arrays))


def figures_of(sums: SubjectSums, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The figures of all subjects together.

    Args:
        sums: of S subjects.
        weights: (..., S) how often each subject counts; None: once.

    Returns:
        "uar", "war", "face_box_iou", "landmark_nme" (...) and "per_class_recall" (..., K); NaN where nothing counts.
    """
    weights = np.ones(len(sums.subjects)) if weights is None else weights
    confusion = np.tensordot(weights, sums.confusion.astype(float), axes=1)  # (..., K, K)
    hits, clips = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)  # (..., K)
    recalls = _ratio(hits, clips)
    frames = weights @ sums.frames
    return {
        "uar": _ratio(np.nansum(recalls, axis=-1), (clips > 0).sum(axis=-1)),
        "war": _ratio(hits.sum(axis=-1), clips.sum(axis=-1)),
        "face_box_iou": _ratio(weights @ sums.box_overlap, frames),
        "landmark_nme": _ratio(weights @ sums.landmark_error, frames),
        "per_class_recall": recalls,
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def resampled_weights(subjects: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of S subjects is drawn in each of B resamples of S subjects with replacement: int (B, S)."""
    random = np.random.default_rng(seed)
    return random.multinomial(subjects, np.full(subjects, 1 / subjects), size=resamples)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The central `level` of resampled values (B,); NaN resamples do not count, (NaN, NaN) where all are."""
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_intervals(sums: SubjectSums, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """95 % intervals of every figure over resampled subjects.

    Returns:
        For each key of `figures_of`: (2,) low and high, for "per_class_recall" (K, 2). NaN for fewer than two subjects.
    """
    if len(sums.subjects) < 2:
        shape = (sums.confusion.shape[-1], 2)
        return {key: np.full(shape if key == "per_class_recall" else 2, np.nan) for key in figures_of(sums)}
    figures = figures_of(sums, resampled_weights(len(sums.subjects), resamples, seed))
    return {
        # (B,) -> (2,), (B, K) -> (K, 2)
        key: np.array([percentile_interval(column) for column in values.T])
        if values.ndim == 2
        else np.array(percentile_interval(values))
        for key, values in figures.items()
    }


@dataclass(frozen=True)
class PairedDifference:
    """How much better one model does than another on the same subjects."""

    difference: float  # of the figures over all subjects, model - reference
    low: float  # 95 % interval over resampled subjects, the same for both models; NaN for fewer than two
    high: float
    fold_differences: tuple[float, ...]  # of each fold and seed, in the same order for both models


def paired_difference(
    model: SubjectSums,
    reference: SubjectSums,
    figure: str,
    folds: Sequence[tuple[float, float]] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compares two models that were tested on the same subjects.

    Args:
        model: sums of one model's predictions.
        reference: of the other's, over the same subjects in the same order.
        figure: a key of `figures_of` with one number.
        folds: (model's figure, reference's figure) of each fold.
        resamples: how many resamples of the subjects are drawn.
        seed: of the resampling.

    Raises:
        ValueError: the subjects differ.
    """
    if model.subjects != reference.subjects:
        raise ValueError("two models can only be compared on the same subjects")
    low, high = math.nan, math.nan
    if len(model.subjects) > 1:
        weights = resampled_weights(len(model.subjects), resamples, seed)
        low, high = percentile_interval(figures_of(model, weights)[figure] - figures_of(reference, weights)[figure])
    difference = float(figures_of(model)[figure] - figures_of(reference)[figure])
    return PairedDifference(difference, low, high, tuple(first - second for first, second in folds))


def sum_by_subject(
    subjects: Sequence[str],
    labels: np.ndarray,
    predicted: np.ndarray,
    frames: np.ndarray,
    face_figures: Mapping[str, np.ndarray],
    num_classes: int,
) -> SubjectSums:
    """Adds up clips by subject; subjects in alphabetical order.

    Args:
        subjects: of the N clips.
        labels: class ids (N,).
        predicted: class ids (N,).
        frames: (N,) frames with a face.
        face_figures: "face_box_iou" and "landmark_nme" (N,), means over a clip's frames with a face; NaN where the clip
            has none. All NaN: the model does not predict them.
        num_classes: K.
    """
    names = sorted(set(subjects))
    places = np.array([names.index(subject) for subject in subjects])
    confusion = np.zeros((len(names), num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (places, labels, predicted), 1)
    sums = {}
    for key, means in face_figures.items():
        of_clips = np.where(frames > 0, means * frames, 0.0)
        unknown = np.isnan(means).all()
        sums[key] = np.full(len(names), np.nan) if unknown else np.bincount(places, of_clips, minlength=len(names))
    return SubjectSums(
        tuple(names),
        confusion,
        sums["face_box_iou"],
        sums["landmark_nme"],
        np.bincount(places, weights=frames, minlength=len(names)),
    )
