"""The columns of a built data set, and how one clip's labels become a row and come back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtcae_dfer.hub_dataset.clips import BuiltClip, Clip, ClipLabels, DatasetError

if TYPE_CHECKING:
    from datasets import Features

LANDMARK_COUNT = 5
ACTION_UNIT_PREFIX = "action_unit_"


def dataset_features(
    class_names: Sequence[str], num_frames: int, with_videos: bool = True, action_units: Sequence[int] | None = None
) -> Features:
    """Columns of a data set whose clips have T = `num_frames` labelled frames.

    Where the corpus labels affect (`action_units` is not None) there are the columns valence, arousal, and for each of
    these units action_unit_NUMBER, each with one number for each of these frames, NaN where unknown.
    """
    from datasets import Array2D, Array3D, ClassLabel, Features, Sequence, Value, Video

    # {"bytes", "path"}: the untouched file; this package's own reader decodes it
    video = {"video": Video(decode=False)} if with_videos else {}
    affect = [] if action_units is None else affect_columns(action_units)
    return Features(
        {
            **video,
            "expression": ClassLabel(names=list(class_names)),
            "subject": Value("string"),
            "name": Value("string"),
            "attributes": Value("string"),  # a JSON object of words: every corpus tells other things
            "sha256": Value("string"),
            "frame_indices": Sequence(Value("int32"), length=num_frames),
            "face_boxes": Array2D((num_frames, 4), "float32"),
            "face_landmarks": Array3D((num_frames, LANDMARK_COUNT, 2), "float32"),
            "face_found": Sequence(Value("bool"), length=num_frames),
            "face_confidence": Sequence(Value("float32"), length=num_frames),
            "face_count": Sequence(Value("int32"), length=num_frames),
            "face_interpolated": Sequence(Value("bool"), length=num_frames),
            **{name: Sequence(Value("float32"), length=num_frames) for name in affect},
        }
    )


def row_from_clip(built: BuiltClip, video: bytes | None) -> dict[str, Any]:
    """One row: the clip, its video file's bytes (None: a row without the video) and its labels."""
    clip, labels = built.clip, built.labels
    return {
        **({} if video is None else {"video": {"bytes": video, "path": clip.name}}),
        "expression": clip.expression,
        "subject": clip.subject,
        "name": clip.name,
        "attributes": json.dumps(clip.attributes, ensure_ascii=False, sort_keys=True),
        "sha256": built.sha256,
        "frame_indices": labels.frame_indices,
        "face_boxes": labels.face_boxes,
        "face_landmarks": labels.face_landmarks,
        "face_found": labels.face_found,
        "face_confidence": labels.face_confidence,
        "face_count": labels.face_count,
        "face_interpolated": labels.face_interpolated,
        **_affect_of_frames(clip, labels.frame_indices),
    }


def affect_columns(action_units: Sequence[int]) -> list[str]:
    """Names of the columns of affect labels, in their order."""
    return ["valence", "arousal", *(f"{ACTION_UNIT_PREFIX}{unit}" for unit in action_units)]


def _affect_of_frames(clip: Clip, frame_indices: np.ndarray) -> dict[str, np.ndarray]:
    told = clip.frame_labels
    if told is None:
        return {}
    if frame_indices.max() >= len(told.valence):
        raise DatasetError(
            f"{clip.name} has a frame {frame_indices.max()}, but affect labels of {len(told.valence)} frames only."
        )
    values = np.column_stack([told.valence, told.arousal, told.action_units])[frame_indices].astype(np.float32)
    return dict(zip(affect_columns(told.action_unit_numbers), values.T, strict=True))


def labels_from_row(row: Mapping[str, Any]) -> ClipLabels:
    """The face labels of a row, as `dataset[i]` gives it or with all arrays flat: the one decoder of a row.

    Returns:
        Labels of the row's T frames, in the shapes that `ClipLabels` tells.
    """
    return ClipLabels(
        frame_indices=np.asarray(row["frame_indices"], dtype=np.int64),
        face_boxes=np.asarray(row["face_boxes"], dtype=np.float32).reshape(-1, 4),
        face_landmarks=np.asarray(row["face_landmarks"], dtype=np.float32).reshape(-1, LANDMARK_COUNT, 2),
        face_found=np.asarray(row["face_found"], dtype=bool),
        face_confidence=np.asarray(row["face_confidence"], dtype=np.float32),
        face_count=np.asarray(row["face_count"], dtype=np.int64),
        face_interpolated=np.asarray(row["face_interpolated"], dtype=bool),
    )
