"""Labels on their way: as plain rows that travel between processes and machines, and as the files of a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtcae_dfer.hub_dataset.clips import LabelledClip
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.hub_dataset.schema import labels_from_row

if TYPE_CHECKING:
    import pyarrow as pa


def row_from_labelled(labelled: LabelledClip) -> dict[str, Any]:
    """What came of a clip, as a row of words, numbers and flat lists. `labelled_from_row` is the way back."""
    row: dict[str, Any] = {"failure": labelled.failure, "sha256": labelled.sha256, "byte_count": labelled.byte_count}
    if labelled.labels is not None:
        values = vars(labelled.labels)
        row |= {name: value.ravel() if isinstance(value, np.ndarray) else value for name, value in values.items()}
    return row


def labelled_from_row(row: Mapping[str, Any]) -> LabelledClip:
    """The way back from `row_from_labelled`."""
    if row["failure"] is not None:
        return LabelledClip(None, row["failure"], row["sha256"], row["byte_count"])
    labels = replace(labels_from_row(row), warning=row["warning"])
    return LabelledClip(labels, None, row["sha256"], row["byte_count"])


def label_table(shard: Sequence[LabelledClip]) -> pa.Table:
    """A table of one row per clip."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("failure", pa.string()),
            ("sha256", pa.string()),
            ("byte_count", pa.int64()),
            ("warning", pa.string()),
            ("frame_indices", pa.list_(pa.int64())),
            ("face_boxes", pa.list_(pa.float32())),  # 4 numbers per frame
            ("face_landmarks", pa.list_(pa.float32())),  # 10 numbers per frame
            ("face_found", pa.list_(pa.bool_())),
            ("face_confidence", pa.list_(pa.float32())),
            ("face_count", pa.list_(pa.int64())),
            ("face_interpolated", pa.list_(pa.bool_())),
        ]
    )
    return pa.Table.from_pylist([row_from_labelled(labelled) for labelled in shard], schema=schema)


def write_labels(file: Path, shard: Sequence[LabelledClip]) -> None:
    """Writes the labels of some clips; the file appears under its name when it is complete."""
    from pyarrow import parquet

    with replacing(file) as temporary:
        parquet.write_table(label_table(shard), temporary)


def read_labels(file: Path) -> list[LabelledClip]:
    """The labels that `write_labels` wrote."""
    from pyarrow import parquet

    return [labelled_from_row(row) for row in parquet.read_table(file).to_pylist()]
