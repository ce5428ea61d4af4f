"""Affect labels of a video's frames: valence, arousal, expression and action units, each known or not.

The columns and their marks of the unknown are those of s-Aff-Wild2 (ABAW challenges); `s_aff_wild2.py` reads its files,
and here the drawn corpus's truth takes the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS, AFFECT_EXPRESSIONS
from mtcae_dfer.hub_dataset.clips import Clip, DatasetError, FrameLabels
from mtcae_dfer.hub_dataset.synthetic.acting import ClipTruth
from mtcae_dfer.hub_dataset.synthetic.anatomy import ACTION_UNITS
from mtcae_dfer.hub_dataset.synthetic.corpus import load_ground_truth
from mtcae_dfer.modeling_mtl_er import MISSING_LABEL, MISSING_VALENCE_AROUSAL

# The drawn corpus knows strengths from 0 to 1. A unit counts as there from a third of its full strength, as human
# coders overlook traces; an expression likewise, and below a tenth the face is neutral. Between these nobody can say.
PRESENT_FROM, NEUTRAL_BELOW = 0.3, 0.1


@dataclass(frozen=True, eq=False)
class AffectLabels:
    """Labels of L frames of one video.

    Raises:
        DatasetError: the columns differ in length, or a value is none that a label can have.
    """

    frame_indices: np.ndarray  # (L,) int64, from 0, rising
    valence: np.ndarray  # (L,) float32 in [-1, 1], -5 where unknown
    arousal: np.ndarray  # (L,) likewise
    expression: np.ndarray  # (L,) int64 ids in AFFECT_EXPRESSIONS, -1 where unknown
    action_units: np.ndarray  # (L, U) int64, 0 or 1, -1 where unknown, in the order of AFFECT_ACTION_UNITS
    name: str = "labels"  # of the video, for messages

    def __post_init__(self) -> None:
        frames = len(self.frame_indices)
        for column in ("valence", "arousal", "expression", "action_units"):
            there = len(getattr(self, column))
            if there != frames:
                raise DatasetError(f"{self.name} has {there} labels of {column} for {frames} frames.")
        if (np.diff(self.frame_indices) <= 0).any():
            raise DatasetError(f"{self.name} has frame numbers that repeat or go back.")
        for column in ("valence", "arousal"):
            values = getattr(self, column)
            known = np.isfinite(values) & (np.abs(values) <= 1)
            self._refuse(column, values, known | (values == MISSING_VALENCE_AROUSAL), "in [-1, 1], or -5 where unknown")
        classes = len(AFFECT_EXPRESSIONS)
        known = (self.expression >= MISSING_LABEL) & (self.expression < classes)
        self._refuse("expression", self.expression, known, f"0 to {classes - 1}, or -1 where unknown")
        known = np.isin(self.action_units, (0, 1, MISSING_LABEL))
        self._refuse("action_units", self.action_units, known, "0 or 1, or -1 where unknown")

    def _refuse(self, column: str, values: np.ndarray, allowed: np.ndarray, rule: str) -> None:
        if not allowed.all():
            place = np.argwhere(~allowed)[0]
            frame, value = self.frame_indices[place[0]], values[tuple(place)]
            raise DatasetError(f"{self.name}, frame {frame}: {column} is {value:g}, but must be {rule}.")

    def __len__(self) -> int:
        return len(self.frame_indices)

    def as_table(self) -> np.ndarray:
        """(L, 3 + U) float64 in the columns of s-Aff-Wild2, as `training.metrics.multi_task_score` takes them."""
        return np.column_stack([self.valence, self.arousal, self.expression, self.action_units]).astype(np.float64)


def labels_from_truth(truth: ClipTruth, action_units: Sequence[int] = AFFECT_ACTION_UNITS) -> AffectLabels:
    """Labels of all frames of a drawn clip; units that are never drawn are unknown."""
    frames = len(truth.valence)
    expression = np.full(frames, MISSING_LABEL, dtype=np.int64)
    expression[truth.expression_strength < NEUTRAL_BELOW] = AFFECT_EXPRESSIONS.index("neutral")
    # Contempt is none of the eight names of s-Aff-Wild2, whose last is "other".
    name = truth.expression if truth.expression in AFFECT_EXPRESSIONS else "other"
    expression[truth.expression_strength >= PRESENT_FROM] = AFFECT_EXPRESSIONS.index(name)
    return AffectLabels(
        frame_indices=np.arange(frames),
        valence=truth.valence,
        arousal=truth.arousal,
        expression=expression,
        action_units=visible_units(truth, action_units),
        name=truth.path,
    )


def attach_drawn_labels(clips: Sequence[Clip], corpus_dir: str | Path) -> list[Clip]:
    """Clips of the drawn corpus with what was drawn in every frame: valence, arousal and all units that it draws."""
    truths = load_ground_truth(corpus_dir)
    labelled = []
    for clip in clips:
        truth = truths[clip.name]
        units = visible_units(truth, ACTION_UNITS).astype(np.float32)
        labels = FrameLabels(truth.valence, truth.arousal, units, ACTION_UNITS)
        labelled.append(replace(clip, frame_labels=labels))
    return labelled


def visible_units(truth: ClipTruth, action_units: Sequence[int]) -> np.ndarray:
    """(F, U) int64: 1 where a unit is visible in a drawn clip, 0 where not, -1 for units that are never drawn."""
    present = np.full((len(truth.valence), len(action_units)), MISSING_LABEL, dtype=np.int64)
    for column, unit in enumerate(action_units):
        if unit in ACTION_UNITS:
            present[:, column] = truth.action_units[:, ACTION_UNITS.index(unit)] >= PRESENT_FROM
    return present
