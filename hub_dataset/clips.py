"""What a corpus reader hands on: clips with their expression and their subject; and what labelling makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtcae_dfer.configuration_mtcae import EXPRESSIONS as SEVEN_EXPRESSIONS

# Class ids of the expression task are positions in this list, never a folder's order.
EXPRESSIONS = (*SEVEN_EXPRESSIONS, "contempt")

UNKNOWN_SUBJECT = "unknown"


class DatasetError(ValueError):
    """A data set cannot be read, built or loaded. The message is one line for the user: what, where, what to do."""


class OptionError(DatasetError):
    """An option has a value that it cannot have: `name=value: rule`.

    A command line has names of its own: it tells name, value and rule by them. Names of other options stand in the rule
    between backticks.
    """

    def __init__(self, name: str, value: Any, rule: str) -> None:
        super().__init__(name, value, rule)
        self.name, self.value, self.rule = name, value, rule

    def __str__(self) -> str:
        return f"{self.name}={self.value!r}: {self.rule}"


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """What a corpus tells of every frame of a video, of its F frames; NaN where it does not know."""

    valence: np.ndarray  # (F,) float32, -1..1
    arousal: np.ndarray  # (F,) float32, -1..1
    action_units: np.ndarray  # (F, U) float32, 0 or 1
    action_unit_numbers: tuple[int, ...]  # FACS numbers of the U units


@dataclass(frozen=True, eq=False)
class CameraPath:
    """How a still moves through the F frames of a clip that was filmed of it."""

    matrices: np.ndarray  # (F, 2, 3) from points of the still to those of the frame, both divided by width and height
    gains: np.ndarray  # (F,) what its light is multiplied by


@dataclass(frozen=True)
class Clip:
    """One video of a corpus."""

    path: Path  # where the video file is
    expression: str  # name of its class
    subject: str  # who is seen in it; UNKNOWN_SUBJECT where nobody said
    name: str  # path relative to the corpus's folder, with forward slashes
    attributes: dict[str, str] = field(default_factory=dict, hash=False)  # everything else that the corpus tells
    part: str = ""  # part of the corpus's official division, where its owners divide clips and not subjects
    frame_labels: FrameLabels | None = field(default=None, compare=False)  # for corpora that label affect per frame
    camera_path: CameraPath | None = field(default=None, compare=False)  # for clips that were filmed of a still


@dataclass(frozen=True)
class Findings:
    """What preparing a source found that belongs into the report of a data set."""

    left_out: dict[str, str] = field(default_factory=dict)  # reason by name of what is not among the clips
    remarks: dict[str, str] = field(default_factory=dict)  # by name of a clip, what a user should know of it


@dataclass(eq=False)
class ClipLabels:
    """Face labels of the T sampled frames of one clip. Coordinates are divided by the frame's width and height."""

    frame_indices: np.ndarray  # int64 (T,) frames in display order that were looked at; sorted, repeats possible
    face_boxes: np.ndarray  # float32 (T, 4) x1, y1, x2, y2; NaN where no face is found
    face_landmarks: np.ndarray  # float32 (T, 5, 2); NaN where no face is found
    face_found: np.ndarray  # bool (T,) whether box and points are given
    face_confidence: np.ndarray  # float32 (T,); 0 where the detector found no face
    face_count: np.ndarray  # int64 (T,) all faces in the frame
    face_interpolated: np.ndarray  # bool (T,) box and points lie between those of neighbouring frames; confidence is 0
    warning: str | None = None  # one line where only a part of the video could be read


@dataclass(eq=False)
class LabelledClip:
    """What came of one clip: labels, or the reason why there are none."""

    labels: ClipLabels | None
    failure: str | None  # one line
    sha256: str  # of the video file; "" where it cannot be read
    byte_count: int  # of the video file


@dataclass(frozen=True, eq=False)
class BuiltClip:
    """A clip that becomes a row of a data set."""

    clip: Clip
    labels: ClipLabels
    sha256: str  # of the video file that was labelled
    byte_count: int  # of that file


def order_class_names(expressions: Iterable[str], class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Given names are taken as they are. Otherwise names that all belong to EXPRESSIONS stand in that fixed order, and any
    other set of names stands in alphabetical order.

    Args:
        expressions: the expressions of a corpus's clips, with repeats.
        class_names: all classes in the wanted order, where the caller knows them; may hold more than `expressions`.

    Raises:
        DatasetError: `class_names` repeats a name or lacks one of the expressions.
    """
    present = sorted(set(expressions))
    if class_names is None:
        known = set(present) <= set(EXPRESSIONS)
        return tuple(name for name in EXPRESSIONS if name in present) if known else tuple(present)
    if len(set(class_names)) < len(class_names):
        raise DatasetError(f"The class names {', '.join(class_names)} hold a name twice: give each class once.")
    unknown = [name for name in present if name not in class_names]
    if unknown:
        raise DatasetError(f"Expression {unknown[0]!r} is not among the class names {', '.join(class_names)}: add it.")
    return tuple(class_names)
