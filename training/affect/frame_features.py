"""Files of per-frame features: one vector a frame, with the frame's number, for every video.

NAME.parquet: a row a video with the columns video, frame_indices, features.
NAME.safetensors: the tensors "VIDEO:frame_indices" (L,) and "VIDEO:features" (L, D) for every video.

The encoder and its size stand in the file's metadata under "encoder".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mtcae_dfer.hub_dataset.files import replacing

SUFFIXES = (".parquet", ".safetensors")
INDICES_KEY, FEATURES_KEY = "frame_indices", "features"


class FeatureError(ValueError):
    """Feature files cannot be used. The message is one line for the user: what, which video, what to do."""


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """Features of L frames of one video.

    Raises:
        FeatureError: there are no frames, or the vectors are not one finite row for each frame number.
    """

    frame_indices: np.ndarray  # (L,) int64, from 0, rising
    vectors: np.ndarray  # (L, D) float32
    name: str = "features"  # of the video, for messages

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.frame_indices):
            raise FeatureError(
                f"{self.name}: features of shape {self.vectors.shape} for {len(self.frame_indices)} frames."
            )
        if len(self.vectors) == 0:
            raise FeatureError(f"{self.name} has no frames: leave the video out.")
        if (np.diff(self.frame_indices) <= 0).any():
            raise FeatureError(f"{self.name} has frame numbers that repeat or go back: extract its features again.")
        broken = ~np.isfinite(self.vectors).all(axis=1)
        if broken.any():
            frame = self.frame_indices[broken.argmax()]
            raise FeatureError(f"{self.name}, frame {frame}: a feature is no finite number; extract them again.")

    def __len__(self) -> int:
        return len(self.frame_indices)


def write_features(file: Path, videos: Iterable[FrameFeatures], encoder: str) -> Path:
    """Writes a feature file in the format of its suffix, complete or not at all.

    Raises:
        FeatureError: another suffix than .parquet or .safetensors.
    """
    _check_suffix(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write = _write_parquet if file.suffix == ".parquet" else _write_safetensors
    with replacing(file) as temporary:
        write(temporary, videos, encoder)
    return file


def read_features(file: Path) -> dict[str, FrameFeatures]:
    """Features of every video, by its name.

    Raises:
        FeatureError: the file is missing, is no feature file, or its features are no numbers.
    """
    _check_suffix(file)
    read = _read_parquet if file.suffix == ".parquet" else _read_safetensors
    try:
        videos = read(file)
    except (OSError, KeyError, ValueError, pa.ArrowException, SafetensorError) as error:
        if isinstance(error, FeatureError):
            raise
        raise FeatureError(f"{file} is no readable feature file ({error}); extract features again.") from error
    if not videos:
        raise FeatureError(f"{file} holds no video: extract features again.")
    return videos


def join_features(parts: Sequence[Mapping[str, FrameFeatures]], names: Sequence[str]) -> dict[str, FrameFeatures]:
    """Concatenates several features of the same frames, in their order, frame by frame.

    Args:
        parts: each by video.
        names: of the parts, for messages.

    Raises:
        FeatureError: the parts are of different videos or frames.
    """
    joined = {}
    for video, first in parts[0].items():
        for part, name in zip(parts[1:], names[1:], strict=True):
            if video not in part:
                raise FeatureError(f"{name} lacks the video {video}, which {names[0]} has: extract it too.")
            if not np.array_equal(part[video].frame_indices, first.frame_indices):
                raise FeatureError(
                    f"{video} has {len(first)} frames in {names[0]}, but {len(part[video])} or others in {name}: "
                    "extract the same frames for all features."
                )
        vectors = np.concatenate([part[video].vectors for part in parts], axis=1)
        joined[video] = FrameFeatures(first.frame_indices, vectors, video)
    return joined


def take_frames(features: FrameFeatures, frame_indices: np.ndarray) -> np.ndarray:
    """The vectors (L, D) of certain frames.

    Raises:
        FeatureError: a frame has no features.
    """
    positions = np.searchsorted(features.frame_indices, frame_indices).clip(max=len(features) - 1)
    missing = frame_indices[features.frame_indices[positions] != frame_indices]
    if len(missing):
        raise FeatureError(
            f"{features.name} has features of {len(features)} frames and labels of {len(frame_indices)}; frame "
            f"{missing[0]} has a label and no features: extract features of the same video."
        )
    return features.vectors[positions]


def _check_suffix(file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise FeatureError(f"{file}: a feature file ends in {' or '.join(SUFFIXES)}.")


def _write_parquet(file: Path, videos: Iterable[FrameFeatures], encoder: str) -> None:
    schema = pa.schema(
        [
            ("video", pa.string()),
            (INDICES_KEY, pa.list_(pa.int64())),
            (FEATURES_KEY, pa.list_(pa.list_(pa.float32()))),
        ],
        metadata={"encoder": encoder},
    )
    # A row group a video: a reader of one video need not read the others.
    with parquet.ParquetWriter(file, schema) as writer:
        for video in videos:
            values = pa.array(video.vectors.reshape(-1), pa.float32())
            rows = pa.ListArray.from_arrays(np.arange(len(video) + 1) * video.vectors.shape[1], values)
            columns = [
                pa.array([video.name]),
                pa.array([video.frame_indices.tolist()], pa.list_(pa.int64())),
                pa.ListArray.from_arrays([0, len(video)], rows),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _read_parquet(file: Path) -> dict[str, FrameFeatures]:
    table = parquet.read_table(file, columns=["video", INDICES_KEY, FEATURES_KEY])
    videos = {}
    for row in range(table.num_rows):
        name = table["video"][row].as_py()
        indices = np.asarray(table[INDICES_KEY][row].values, dtype=np.int64)
        vectors = table[FEATURES_KEY][row].values
        values = np.asarray(vectors.flatten(), dtype=np.float32)
        lengths = np.unique(np.asarray(vectors.value_lengths()))
        if len(lengths) != 1 or not lengths[0]:
            raise FeatureError(f"{file}, {name}: frames have vectors of different lengths, or none.")
        videos[name] = FrameFeatures(indices, values.reshape(-1, lengths[0]), name)
    return videos


def _write_safetensors(file: Path, videos: Iterable[FrameFeatures], encoder: str) -> None:
    tensors = {}
    for video in videos:
        tensors[f"{video.name}:{INDICES_KEY}"] = np.ascontiguousarray(video.frame_indices, dtype=np.int64)
        tensors[f"{video.name}:{FEATURES_KEY}"] = np.ascontiguousarray(video.vectors, dtype=np.float32)
    save_file(tensors, file, metadata={"encoder": encoder})


def _read_safetensors(file: Path) -> dict[str, FrameFeatures]:
    with safe_open(file, framework="numpy") as stored:
        names = [key.rpartition(":")[0] for key in stored.keys() if key.endswith(f":{FEATURES_KEY}")]  # noqa: SIM118
        return {
            name: FrameFeatures(
                stored.get_tensor(f"{name}:{INDICES_KEY}"), stored.get_tensor(f"{name}:{FEATURES_KEY}"), name
            )
            for name in names
        }
