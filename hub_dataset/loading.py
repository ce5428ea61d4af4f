"""Opens a built data set, as `datasets.load_dataset(FOLDER)` does, with the fold checked and the protocol told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcae_dfer.hub_dataset.building import read_build_report
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.labelling import ClipLabels
from mtcae_dfer.hub_dataset.schema import labels_from_row

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

__all__ = ["clip_bytes", "labels_from_row", "load_multitask_dataset", "protocol_name", "ClipLabels"]


def load_multitask_dataset(
    dataset_dir: str | os.PathLike,
    fold: str | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Opens a data set that `build_dataset` wrote; needs no network.

    Args:
        dataset_dir: folder of the data set.
        fold: name of a fold of its protocol ("fold_1"); None takes the first, which of a holdout is the only one.
        streaming: whether to read rows one after the other instead of mapping a cached copy into memory.
        cache_dir: where `datasets` keeps that copy; None takes its default.

    Returns:
        The splits that hold clips, out of train, validation, test. Columns: see `schema.dataset_features`.

    Raises:
        DatasetError: the folder holds no data set of this package, or the fold is unknown.
    """
    import datasets

    report = read_build_report(dataset_dir)
    folds = [fold["name"] for fold in report.protocol["folds"]]
    if fold is not None and fold not in folds:
        raise DatasetError(f"{dataset_dir} has no fold {fold!r}: its protocol has {', '.join(folds)}.")
    return datasets.load_dataset(
        str(Path(dataset_dir)),
        fold or folds[0],
        streaming=streaming,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )


def protocol_name(dataset_dir: str | os.PathLike, fold: str | None = None) -> str:
    """Name of the data set's protocol, with the fold where it has several; belongs beside every result."""
    protocol = read_build_report(dataset_dir).protocol
    if len(protocol["folds"]) == 1:
        return protocol["name"]
    return f"{protocol['name']}, {fold or protocol['folds'][0]['name']}"


def clip_bytes(row: Mapping[str, Any]) -> bytes:
    """The video file of a row, as `read_clip` takes it."""
    return row["video"]["bytes"]
