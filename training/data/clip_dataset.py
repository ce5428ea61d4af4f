"""From the rows of a built data set to batches: frames, expression, face labels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from mtcae_dfer.configuration_mtcae import TaskDescription
from mtcae_dfer.hub_dataset.loading.load import clip_bytes
from mtcae_dfer.training.affect.tasks import affect_tasks, label_key, read_affect_labels
from mtcae_dfer.training.data.augmentation import AugmentationConfig, LabelledFrames, augment
from mtcae_dfer.training.data.sampling import FrameWindow
from mtcae_dfer.video_reading import read_clip

READING_THREADS = 4


class ClipDataset(Dataset):
    """The clips of one split as the model sees them, before normalisation.

    Args:
        rows: rows of a built data set, with videos as bytes.
        size: (height, width) of the model's frames.
        augmentation: how clips are changed at random; None leaves them as they are.
        seed: with the epoch and the clip it decides a clip's augmentation, whatever process loads it.
        keep_frames: decode every clip once and keep its frames in memory.
        tasks: the model's; those of affect have their labels read.
        window: which of the labelled frames the model sees, at a random place where clips are changed at random; None
            where it sees all of them.
        segments: so many windows of a clip, one after the other as one clip of more frames.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        size: tuple[int, int],
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        keep_frames: bool = False,
        tasks: Sequence[TaskDescription] = (),
        window: FrameWindow | None = None,
        segments: int = 1,
    ) -> None:
        self.rows = rows
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.window, self.segments = window, segments
        self.shared_epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by processes that load already
        self.names, self.subjects = list(rows["name"]), list(rows["subject"])
        affect = read_affect_labels(rows, tasks)
        self.labels = read_labels(rows) | affect
        self.affect_names = list(affect)
        self.frame_labels = {"face_boxes", "face_landmarks", "face_found"}
        self.frame_labels |= {label_key(task) for task in affect_tasks(tasks) if task.per == "frame"}
        self.frames = self._read_all() if keep_frames else None

    @property
    def epoch(self) -> int:
        """The epoch whose augmentations are made."""
        return int(self.shared_epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's augmentations."""
        self.shared_epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip: frames uint8 (T, 3, H, W), labels, face_boxes (T, 4), face_landmarks (T, 5, 2), face_found (T,)."""
        return self._load(index, None if self.augmentation is None else self.epoch)

    def view(self, index: int, view: int) -> dict[str, Any]:
        """One of a clip's fixed views: 0 is the clip as it is, view v the augmentation of epoch v - 1."""
        return self._load(index, view - 1 if view else None)

    def _load(self, index: int, augmented_epoch: int | None) -> dict[str, Any]:
        draws = None if augmented_epoch is None else clip_generator(self.seed, augmented_epoch, index)
        positions = self._positions(draws)
        labels = self._labels(index, positions)
        frames = self.frames[index] if self.frames is not None else self._read(index)
        frames = frames if positions is None else frames[positions]
        clip = LabelledFrames(frames, labels["face_boxes"], labels["face_landmarks"])
        if draws is not None and self.augmentation is not None:
            clip = augment(clip, self.augmentation, draws)
        return {
            "frames": clip.frames,
            "labels": labels["labels"],
            "face_boxes": clip.face_boxes,
            "face_landmarks": clip.face_landmarks,
            "face_found": labels["face_found"],
            "index": torch.tensor(index),
            **{name: labels[name] for name in self.affect_names},  # the same in a mirrored or cropped clip
        }

    def view_labels(self, index: int, view: int) -> dict[str, torch.Tensor]:
        """The labels of a fixed view's frames, before its augmentation moves them."""
        draws = clip_generator(self.seed, view - 1, index) if view else None
        return self._labels(index, self._positions(draws))

    def _positions(self, draws: torch.Generator | None) -> list[int] | None:
        """Positions of the model's frames among the labelled ones; None: all of them."""
        if self.window is None:
            return None
        labelled = self.labels["face_found"].shape[1]
        if draws is not None:
            return self.window.draw(labelled, draws)
        return self.window.spread(labelled, self.segments)

    def _labels(self, index: int, positions: list[int] | None) -> dict[str, torch.Tensor]:
        labels = {name: values[index] for name, values in self.labels.items()}
        if positions is None:
            return labels
        return {name: value[positions] if name in self.frame_labels else value for name, value in labels.items()}

    def _read(self, index: int) -> torch.Tensor:
        row = self.rows[index]
        # The labels belong to exactly these frames, however the clip would be sampled today.
        return read_clip(clip_bytes(row), size=self.size, frame_indices=row["frame_indices"]).frames

    def _read_all(self) -> torch.Tensor:
        with ThreadPoolExecutor(READING_THREADS) as readers:
            clips = readers.map(self._read, range(len(self)))
            return torch.stack(list(tqdm(clips, total=len(self), desc="Reading clips", unit="clip")))


def clip_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The source of all randomness of one clip in one epoch, the same in whatever process loads it."""
    # A hash of the three numbers, so that neighbouring epochs and clips share nothing.
    entropy = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy))


def read_labels(rows: datasets.Dataset) -> dict[str, torch.Tensor]:
    """All labels of N clips: labels (N,), face_boxes (N, T, 4), face_landmarks (N, T, 5, 2), face_found (N, T)."""
    columns = rows.select_columns(["frame_indices", "face_boxes", "face_landmarks", "face_found"]).with_format("numpy")
    boxes, landmarks, found = (columns[:][name] for name in ("face_boxes", "face_landmarks", "face_found"))
    return {
        "labels": torch.tensor(rows["expression"], dtype=torch.long),
        "face_boxes": torch.from_numpy(np.stack(list(boxes)).astype(np.float32)),
        "face_landmarks": torch.from_numpy(np.stack(list(landmarks)).astype(np.float32)),
        "face_found": torch.from_numpy(np.stack(list(found)).astype(bool)),
    }


def frames_in_memory(rows: datasets.Dataset, size: tuple[int, int]) -> int:
    """Bytes that the decoded frames of these rows take."""
    return len(rows) * labelled_frame_count(rows) * 3 * size[0] * size[1]


def labelled_frame_count(rows: datasets.Dataset) -> int:
    """T, the number of labelled frames of every clip."""
    return rows.features["frame_indices"].length


def class_names(rows: datasets.Dataset) -> list[str]:
    """Names of the expressions in the order of their ids."""
    return list(rows.features["expression"].names)
