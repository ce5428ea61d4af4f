"""Reader for the label files of s-Aff-Wild2, and for its frames.

    image,valence,arousal,expression,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26
    VIDEO/00001.jpg,0.12,-0.3,4,0,0,0,1,0,0,1,0,0,0,1,0

One row a frame: the image, then 15 numbers. -5 marks unknown valence or arousal, -1 an unknown expression or unit.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS
from mtcae_dfer.hub_dataset.affect_labels import AffectLabels
from mtcae_dfer.hub_dataset.clips import DatasetError

COLUMN_COUNT = 3 + len(AFFECT_ACTION_UNITS)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_s_aff_wild2(file: str | os.PathLike) -> dict[str, AffectLabels]:
    """Labels of every video of a label file, by the video's name; frames in the order of their numbers.

    Args:
        file: as above; the header line may be missing. Frame "00001" of the file is frame 0.

    Raises:
        DatasetError: the file is missing or empty, a row has another number of columns or a value that no label can
            have, or a frame stands in it twice. The message names the row.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            lines = [(number, row) for number, row in enumerate(csv.reader(stream), start=1) if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read as a label file ({error}).") from error
    if lines and not PurePosixPath(lines[0][1][0].strip()).stem.isdigit():
        del lines[0]  # the header
    rows: dict[str, list[tuple[int, list[float]]]] = {}
    for number, (name, *values) in lines:
        where = f"{file}, line {number}"
        image = PurePosixPath(name.strip())
        if not re.fullmatch(r"\d+", image.stem) or int(image.stem) < 1 or len(image.parts) < 2:
            raise DatasetError(f"{where}: {name!r} is no image name; expected VIDEO/00001.jpg.")
        if len(values) != COLUMN_COUNT:
            raise DatasetError(f"{where}: {len(values)} columns after the image, but there must be {COLUMN_COUNT}.")
        try:
            labels = [float(value) for value in values]
        except ValueError as error:
            raise DatasetError(f"{where}: {error}; every label must be a number.") from error
        rows.setdefault(str(image.parent), []).append((int(image.stem) - 1, labels))
    if not rows:
        raise DatasetError(f"{file} holds no labels: give a label file of s-Aff-Wild2.")
    told = {}
    for video, frames in rows.items():
        numbers, labels_of = zip(*sorted(frames), strict=True)
        table = np.array(labels_of)
        if (table[:, 2:] != np.round(table[:, 2:])).any():
            raise DatasetError(f"{file}, {video}: expressions and action units must be whole numbers.")
        told[video] = AffectLabels(
            frame_indices=np.array(numbers, dtype=np.int64),
            valence=table[:, 0].astype(np.float32),
            arousal=table[:, 1].astype(np.float32),
            expression=table[:, 2].astype(np.int64),
            action_units=table[:, 3:].astype(np.int64),
            name=f"{file}, {video}",
        )
    return told


def images_by_frame(folder: Path) -> dict[int, Path]:
    """The images 00001.jpg … of one video, by frame number from 0, in rising order; empty without the folder."""
    if not folder.is_dir():
        return {}
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdigit()]
    return {int(path.stem) - 1: path for path in sorted(images, key=lambda path: int(path.stem))}
