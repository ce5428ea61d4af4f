"""The columns of a built data set, and how one clip's labels become a row and come back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtcae_dfer.hub_dataset.clips import BuiltClip, ClipLabels, DatasetError

if TYPE_CHECKING:
    from datasets import Dataset, Features

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
    clip, labels, told = built.clip, built.labels, built.clip.frame_labels
    affect: dict[str, np.ndarray] = {}
    if told is not None:
        last = labels.frame_indices.max()
        if last >= len(told.valence):
            raise DatasetError(f"{clip.name} has a frame {last}, but affect labels of {len(told.valence)} frames only.")
        values = np.column_stack([told.valence, told.arousal, told.action_units]).astype(np.float32)
        affect = dict(zip(affect_columns(told.action_unit_numbers), values[labels.frame_indices].T, strict=True))
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
        **affect,
    }


def affect_columns(action_units: Sequence[int]) -> list[str]:
    """Names of the columns of affect labels, in their order."""
    return ["valence", "arousal", *(f"{ACTION_UNIT_PREFIX}{unit}" for unit in action_units)]


# How a label column is decoded: its type, and the shape of one frame's value.
LABEL_COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "frame_indices": (np.int64, ()),
    "face_boxes": (np.float32, (4,)),
    "face_landmarks": (np.float32, (LANDMARK_COUNT, 2)),
    "face_found": (np.bool_, ()),
    "face_confidence": (np.float32, ()),
    "face_count": (np.int64, ()),
    "face_interpolated": (np.bool_, ()),
}


def labels_from_row(row: Mapping[str, Any]) -> ClipLabels:
    """The face labels of a row, as `dataset[i]` gives it or with all arrays flat.

    Returns:
        Labels of the row's T frames, in the shapes that `ClipLabels` tells.
    """
    return ClipLabels(
        frame_indices=decode_labels("frame_indices", row["frame_indices"]),
        face_boxes=decode_labels("face_boxes", row["face_boxes"]),
        face_landmarks=decode_labels("face_landmarks", row["face_landmarks"]),
        face_found=decode_labels("face_found", row["face_found"]),
        face_confidence=decode_labels("face_confidence", row["face_confidence"]),
        face_count=decode_labels("face_count", row["face_count"]),
        face_interpolated=decode_labels("face_interpolated", row["face_interpolated"]),
    )


def labels_from_rows(rows: Dataset, names: Sequence[str] = tuple(LABEL_COLUMNS)) -> dict[str, np.ndarray]:
    """Face labels of many rows at once.

    Args:
        rows: N rows of a built data set.
        names: the wanted ones of LABEL_COLUMNS.

    Returns:
        For each name an array (N, T, ...), in the shapes of a clip's labels behind N.
    """
    columns = rows.select_columns(list(names)).with_format("numpy")[:]
    decoded = {name: decode_labels(name, np.stack(list(columns[name]))) for name in names}
    # (N * T, ...) -> (N, T, ...)
    return {name: values.reshape(len(rows), -1, *values.shape[1:]) for name, values in decoded.items()}


def decode_labels(name: str, values: Any) -> np.ndarray:
    """The one decoder of a label column: values of any nesting to (frames, ...)."""
    kind, shape = LABEL_COLUMNS[name]
    return np.asarray(values, dtype=kind).reshape(-1, *shape)
