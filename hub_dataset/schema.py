"""The columns of a built data set, and how one clip's labels become a row and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtcae_dfer.hub_dataset.clips import Clip
from mtcae_dfer.hub_dataset.labelling import ClipLabels, LabelledClip

if TYPE_CHECKING:
    from datasets import Features

LANDMARK_COUNT = 5


def dataset_features(class_names: Sequence[str], num_frames: int) -> Features:
    """Columns of a data set whose clips have T = `num_frames` labelled frames."""
    from datasets import Array2D, Array3D, ClassLabel, Features, Sequence, Value, Video

    return Features(
        {
            "video": Video(decode=False),  # {"bytes", "path"}: the untouched file; this package's own reader decodes it
            "expression": ClassLabel(names=list(class_names)),
            "subject": Value("string"),
            "name": Value("string"),
            "sha256": Value("string"),
            "frame_indices": Sequence(Value("int32"), length=num_frames),
            "face_boxes": Array2D((num_frames, 4), "float32"),
            "face_landmarks": Array3D((num_frames, LANDMARK_COUNT, 2), "float32"),
            "face_found": Sequence(Value("bool"), length=num_frames),
            "face_confidence": Sequence(Value("float32"), length=num_frames),
            "face_count": Sequence(Value("int32"), length=num_frames),
        }
    )


def row_from_clip(clip: Clip, labelled: LabelledClip, labels: ClipLabels, video: bytes) -> dict[str, Any]:
    """One row: the clip, its video file's bytes and its labels."""
    return {
        "video": {"bytes": video, "path": clip.name},
        "expression": clip.expression,
        "subject": clip.subject,
        "name": clip.name,
        "sha256": labelled.sha256,
        "frame_indices": labels.frame_indices,
        "face_boxes": labels.face_boxes,
        "face_landmarks": labels.face_landmarks,
        "face_found": labels.face_found,
        "face_confidence": labels.face_confidence,
        "face_count": labels.face_count,
    }


def labels_from_row(row: Mapping[str, Any]) -> ClipLabels:
    """The face labels of a row (as `dataset[i]` gives it) as numpy arrays."""
    return ClipLabels(
        frame_indices=np.asarray(row["frame_indices"], dtype=np.int64),
        face_boxes=np.asarray(row["face_boxes"], dtype=np.float32).reshape(-1, 4),
        face_landmarks=np.asarray(row["face_landmarks"], dtype=np.float32).reshape(-1, LANDMARK_COUNT, 2),
        face_found=np.asarray(row["face_found"], dtype=bool),
        face_confidence=np.asarray(row["face_confidence"], dtype=np.float32),
        face_count=np.asarray(row["face_count"], dtype=np.int64),
    )
