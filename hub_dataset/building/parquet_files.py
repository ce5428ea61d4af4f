"""The rows of a data set as Parquet: one group of files for all clips that stand in the same split of every fold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mtcae_dfer.hub_dataset.clips import BuiltClip, DatasetError
from mtcae_dfer.hub_dataset.files import hash_file
from mtcae_dfer.hub_dataset.folds import SPLITS, Protocol, divided_units, splits_of_units
from mtcae_dfer.hub_dataset.schema import row_from_clip

if TYPE_CHECKING:
    from datasets import Features

ROWS_PER_GROUP = 64
BYTES_PER_GROUP = 64 << 20  # a reader of a stream holds one row group in memory
BYTES_PER_FILE = 400 << 20


def write_groups(
    built: Sequence[BuiltClip], protocol: Protocol, features: Features, folder: Path, progress: bool
) -> dict[str, dict[str, list[str]]]:
    """Writes all Parquet files of a data set.

    Args:
        built: the clips, in the order of the rows.
        protocol: which clip stands in which split of which fold.
        features: columns; without `video`, rows lack the video files.
        folder: is made.
        progress: whether to show a progress bar.

    Returns:
        The files of each split of each fold, relative to the data set's folder.

    Raises:
        DatasetError: a video has changed since it was labelled.
        OSError: a file cannot be written or read.
    """
    folder.mkdir(parents=True)
    groups: dict[tuple[str, ...], list[BuiltClip]] = {}
    splits_of = splits_of_units(protocol)
    units = divided_units((each.clip for each in built), protocol.kind)
    for each, unit in zip(built, units, strict=True):
        groups.setdefault(splits_of[unit], []).append(each)
    files: dict[str, dict[str, list[str]]] = {fold.name: {split: [] for split in SPLITS} for fold in protocol.folds}
    with tqdm(total=len(built), desc="Writing Parquet", unit="clip", disable=not progress) as bar:
        for number, splits in enumerate(sorted(groups)):
            group = splits[0] if len(protocol.folds) == 1 else f"group-{number:04d}"
            names = _write_group(groups[splits], features, folder, group, bar)
            for fold, split in zip(protocol.folds, splits, strict=True):
                files[fold.name][split] += [f"{folder.name}/{name}" for name in names]
    return files


def _write_group(built: Sequence[BuiltClip], features: Features, folder: Path, group: str, bar: tqdm) -> list[str]:
    """Writes one group of clips into files of bounded size; returns their names."""
    from datasets import Dataset
    from pyarrow import parquet

    with_videos = "video" in features
    parts = cut_by_size(built, BYTES_PER_FILE, len(built), with_videos)
    names = []
    for number, part in enumerate(parts):
        temporary = folder / ".partial"
        # Videos are compressed already; a second compression costs time and saves nothing.
        with parquet.ParquetWriter(temporary, features.arrow_schema, compression="none") as writer:
            for row_group in cut_by_size(part, BYTES_PER_GROUP, ROWS_PER_GROUP, with_videos):
                rows = []
                for each in row_group:
                    video = each.clip.path.read_bytes() if with_videos else None
                    if video is not None and hashlib.sha256(video).hexdigest() != each.sha256:
                        raise DatasetError(
                            f"{each.clip.path} has changed since it was labelled: delete the unfinished build's folder "
                            "and start again."
                        )
                    rows.append(row_from_clip(each, video))
                writer.write_table(Dataset.from_list(rows, features=features).data.table)
                bar.update(len(row_group))
        # `datasets` keeps its copy of a local folder under a hash of the file names alone, and would go on serving the
        # rows of an earlier data set in a folder of the same name; so the content's digest is part of the name.
        digest, _ = hash_file(temporary)
        names.append(f"{group}-{number:05d}-of-{len(parts):05d}-{digest[:16]}.parquet")
        os.replace(temporary, folder / names[-1])
    return names


def cut_by_size(
    built: Sequence[BuiltClip], byte_limit: int, count_limit: int, with_videos: bool = True
) -> list[list[BuiltClip]]:
    """Cuts a list into runs within both limits; a single clip may exceed the byte limit.

    Beside the videos' bytes, the rest of a row does not count; without videos only the number of clips does.
    """
    runs: list[list[BuiltClip]] = []
    filled = 0
    for each in built:
        size = each.byte_count if with_videos else 0
        if not runs or filled + size > byte_limit or len(runs[-1]) == count_limit:
            runs.append([])
            filled = 0
        runs[-1].append(each)
        filled += size
    return runs
