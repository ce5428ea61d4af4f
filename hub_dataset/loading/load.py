"""Opens a built data set, as `datasets.load_dataset(FOLDER)` does, with the fold checked and the protocol told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.clips import ClipLabels, DatasetError
from mtcae_dfer.hub_dataset.loading.joining import VideoMatch, VideoMatchError, match_videos
from mtcae_dfer.hub_dataset.schema import labels_from_row

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

__all__ = ["clip_bytes", "labels_from_row", "load_multitask_dataset", "match_labels", "protocol_name", "ClipLabels"]


def load_multitask_dataset(
    dataset_dir: str | os.PathLike,
    fold: str | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike | None = None,
    videos: str | os.PathLike | None = None,
    incomplete: bool = False,
    progress: bool = True,
) -> DatasetDict | IterableDatasetDict:
    """Opens a data set that `build_dataset` wrote; needs no network.

    Args:
        dataset_dir: folder of the data set.
        fold: name of a fold of its protocol ("fold_1"); None takes the first, which of a holdout is the only one.
        streaming: whether to read rows one after the other instead of mapping a cached copy into memory.
        cache_dir: where `datasets` keeps that copy; None takes its default.
        videos: folder with the corpus's videos, for labels without videos. Every video is checked against the hash of
            the one that was labelled (see `match_videos`); rows then have the column `video` with the file's path.
        incomplete: whether to leave out rows whose video is missing or differs, instead of refusing.
        progress: whether to show a progress bar while videos are checked.

    Returns:
        The splits that hold clips, out of train, validation, test. Columns: see `schema.dataset_features`; labels
        without videos lack `video` unless `videos` is given.

    Raises:
        VideoMatchError: videos are missing or differ; its `match` lists all of them.
        DatasetError: the folder holds no data set of this package, the fold is unknown, or `videos` is given for a data
            set that holds its videos.
    """
    import datasets

    report = read_build_report(dataset_dir)
    folds = [fold["name"] for fold in report.protocol["folds"]]
    if fold is not None and fold not in folds:
        raise DatasetError(f"{dataset_dir} has no fold {fold!r}: its protocol has {', '.join(folds)}.")
    match = None if videos is None else match_labels(dataset_dir, videos, progress)
    if match is not None and not (match.complete or incomplete):
        raise VideoMatchError(match)
    splits = datasets.load_dataset(
        str(Path(dataset_dir)),
        fold or folds[0],
        streaming=streaming,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    if match is None:
        return splits
    videos_found = {name: {"bytes": None, "path": str(file.absolute())} for name, file in match.found.items()}
    joined = {}
    for name, rows in splits.items():
        features = datasets.Features({"video": datasets.Video(decode=False), **rows.features})
        kept = rows.filter(videos_found.__contains__, input_columns="name")
        joined[name] = kept.map(lambda row: {"video": videos_found[row["name"]]}, features=features)
    return type(splits)(joined)


def match_labels(dataset_dir: str | os.PathLike, videos: str | os.PathLike, progress: bool = True) -> VideoMatch:
    """Looks for the videos of a data set of labels without videos.

    Raises:
        DatasetError: the data set holds its videos, or as `match_videos`.
    """
    from pyarrow import parquet

    if read_build_report(dataset_dir).options["embed_videos"]:
        raise DatasetError(f"{dataset_dir} holds its videos: it needs no folder of videos beside it.")
    files = sorted(Path(dataset_dir).glob("data/*.parquet"))  # labels alone are small
    tables = [parquet.read_table(file, columns=["name", "sha256"]) for file in files]
    hashes = {name: digest for table in tables for name, digest in zip(*table.to_pydict().values(), strict=True)}
    return match_videos(hashes, videos, progress)


def protocol_name(dataset_dir: str | os.PathLike, fold: str | None = None) -> str:
    """Name of the data set's protocol, with the fold where it has several; belongs beside every result."""
    protocol = read_build_report(dataset_dir).protocol
    if len(protocol["folds"]) == 1:
        return protocol["name"]
    return f"{protocol['name']}, {fold or protocol['folds'][0]['name']}"


def clip_bytes(row: Mapping[str, Any]) -> bytes:
    """The video file of a row, as `read_clip` takes it.

    Raises:
        DatasetError: the row has no video, or its file cannot be read.
    """
    if "video" not in row:
        raise DatasetError(
            f"{row.get('name', 'The row')} comes without its video: load the labels with videos=FOLDER of the corpus."
        )
    video = row["video"]
    if video["bytes"] is not None:
        return video["bytes"]
    try:
        return Path(video["path"]).read_bytes()
    except OSError as error:
        raise DatasetError(f"{video['path']} cannot be read ({error.strerror}): load the data set again.") from error
