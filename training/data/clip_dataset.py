"""From the rows of a built data set to batches: frames, expression, face labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import datasets
import torch
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from mtcae_dfer.configuration_mtcae import TaskDescription
from mtcae_dfer.face_crop import FACE_CROP_MARGIN, FaceCrop, face_crop
from mtcae_dfer.face_geometry import map_to_crop
from mtcae_dfer.hub_dataset.loading.load import clip_bytes
from mtcae_dfer.hub_dataset.schema import labels_from_rows
from mtcae_dfer.hub_dataset.votes import VOTES, read_votes, vote_shares
from mtcae_dfer.training.affect.tasks import affect_tasks, label_key, read_affect_labels
from mtcae_dfer.training.arguments import FaceCropArguments
from mtcae_dfer.training.data.augmentation import (
    AugmentationConfig,
    ClipChange,
    LabelledFrames,
    change_clips,
    draw_change,
)
from mtcae_dfer.training.data.frame_cache import (
    READING_THREADS,
    CachedClip,
    CachedFrames,
    FrameCache,
    FrameCacheConfig,
)
from mtcae_dfer.training.data.sampling import FrameWindow, seeded_generator
from mtcae_dfer.video_reading import probe_video, read_clip


@dataclass(frozen=True)
class FaceCropConfig:
    """How frames are cropped to the face, by the rule of `face_crop.face_crop`."""

    margin: float = FACE_CROP_MARGIN
    rise: float = 0.0

    @staticmethod
    def chosen(options: FaceCropArguments) -> FaceCropConfig | None:
        """The crop that the options ask for; None: whole frames."""
        return FaceCropConfig(options.face_crop_margin, options.face_crop_rise) if options.face_crop else None


class ClipDataset(Dataset):
    """The clips of one split, before their random changes and normalisation, which happen where the model is.

    Args:
        rows: rows of a built data set, with videos as bytes.
        size: (height, width) of the model's frames.
        augmentation: how clips are changed at random; None leaves them as they are.
        seed: with the epoch and the clip it decides a clip's changes, whatever process loads it.
        keep_frames: decode every clip once and keep its frames in memory; not where there is a cache.
        tasks: the model's; those of affect have their labels read.
        window: which of the labelled frames the model sees, at a random place where clips are changed at random; None
            where it sees all of them.
        segments: so many windows of a clip, one after the other as one clip of more frames.
        crop: how all frames are cropped to the face by its labels, which move along; None: they stay whole.
        optional_labels: labels of affect that the rows do not have are unknown, instead of an error.
        votes: read what several raters saw, too.
        cache: decode every clip once for all runs, and keep its frames in files.
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
        crop: FaceCropConfig | None = None,
        optional_labels: bool = False,
        votes: bool = False,
        cache: FrameCacheConfig | None = None,
    ) -> None:
        self.rows = rows
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.window, self.segments = window, segments
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by processes that load already
        self.names, self.subjects = list(rows["name"]), list(rows["subject"])
        affect = read_affect_labels(rows, tasks, optional_labels)
        self.labels = read_labels(rows) | affect
        if votes:
            self.labels[VOTES] = torch.from_numpy(
                vote_shares(read_votes(self.names, rows["attributes"], class_names(rows)))
            )
        self.affect_names = list(affect)
        self.frame_labels = {"face_boxes", "face_landmarks", "face_found"}
        self.frame_labels |= {label_key(task) for task in affect_tasks(tasks) if task.per == "frame"}
        self.crop = crop
        store = None if cache is None else FrameCache(cache, size, None if crop is None else asdict(crop))
        known = {} if store is None or crop is None else store.clips()
        self.crops: list[FaceCrop | None] = [None] * len(rows) if crop is None else self._crop_to_faces(crop, known)
        # Kept frames are the same whether in memory or in files: frames[index] is uint8 (T, 3, H, W).
        self.frames: torch.Tensor | CachedFrames | None = None
        if store is not None:
            self.frames = store.frames_of(self._describe_clips(), self._read)
        elif keep_frames:
            with ThreadPoolExecutor(READING_THREADS) as readers:
                clips = readers.map(self._read, range(len(self)))
                self.frames = torch.stack(list(tqdm(clips, total=len(self), desc="Reading clips", unit="clip")))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's windows and changes."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One clip: frames uint8 (T, 3, H, W), labels, face_boxes (T, 4), face_landmarks (T, 5, 2), face_found (T,)."""
        return self._clip(index, self._drawn_epoch())

    def changes(self, indices: Sequence[int]) -> list[ClipChange]:
        """The random changes of clips in the present epoch, for `change_batch`."""
        return [self._change(index, self._drawn_epoch()) for index in indices]

    def views(self, chosen: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """A batch of fixed views (clip, view): view 0 is the clip as it is, view v that of epoch v - 1, changed."""
        drawn = [(index, view - 1 if view and self.augmentation is not None else None) for index, view in chosen]
        clips = default_collate([self._clip(index, epoch) for index, epoch in drawn])
        return change_batch(clips, [self._change(index, epoch) for index, epoch in drawn])

    def view_labels(self, index: int, view: int) -> dict[str, torch.Tensor]:
        """The labels of a fixed view's frames, before its changes move them."""
        return self._labels(index, view - 1 if view else None)[0]

    def _drawn_epoch(self) -> int | None:
        """The epoch by which windows and changes are drawn; None where clips stay as they are."""
        return None if self.augmentation is None else int(self.epoch)

    def _clip(self, index: int, epoch: int | None) -> dict[str, torch.Tensor]:
        labels, places = self._labels(index, epoch)
        frames = self._read(index) if self.frames is None else self.frames[index]
        return labels | {"frames": frames if places is None else frames[places], "index": torch.tensor(index)}

    def _change(self, index: int, epoch: int | None) -> ClipChange:
        if epoch is None or self.augmentation is None:
            return ClipChange()
        generator = seeded_generator(self.seed, epoch, index)
        if self.window is not None:
            self.window.draw(self.labels["face_found"].shape[1], generator)  # drawn first, in `_labels`
        return draw_change(self.augmentation, generator)

    def _labels(self, index: int, epoch: int | None) -> tuple[dict[str, torch.Tensor], list[int] | None]:
        """The labels of the model's frames, and the places of these among the labelled frames; None: all of them."""
        labels = {name: values[index] for name, values in self.labels.items()}
        if self.window is None:
            return labels, None
        count = self.labels["face_found"].shape[1]
        if epoch is None:
            places = self.window.spread(count, self.segments)
        else:
            places = self.window.draw(count, seeded_generator(self.seed, epoch, index))
        return {name: value[places] if name in self.frame_labels else value for name, value in labels.items()}, places

    def _read(self, index: int) -> torch.Tensor:
        row = self.rows[index]
        # The labels belong to exactly these frames, however the clip would be sampled today.
        size = self.size if self.crops[index] is None else None
        frames = read_clip(clip_bytes(row), size=size, frame_indices=row["frame_indices"]).frames
        crop = self.crops[index]
        return frames if crop is None else crop.cut(frames, self.size)

    def _describe_clips(self) -> list[CachedClip]:
        """The clips by all that decides their frames."""
        columns = (self.names, self.rows["sha256"], self.rows["frame_indices"], self.crops)
        described = []
        for name, digest, indices, crop in zip(*columns, strict=True):
            window = "" if crop is None else hashlib.sha256(crop.boxes.tobytes()).hexdigest()[:16]
            size = None if crop is None else list(crop.frame_size)
            described.append(CachedClip(name, digest, [int(index) for index in indices], window, size))
        return described

    def _crop_to_faces(self, config: FaceCropConfig, known: Mapping[str, CachedClip]) -> list[FaceCrop | None]:
        """The crop of every clip, None where it has no face; boxes and points become those of the crops.

        Args:
            config: of the crop.
            known: clips of a cache, which tells the size of a video without opening it.
        """
        digests = self.rows["sha256"]
        boxes, landmarks = self.labels["face_boxes"], self.labels["face_landmarks"]

        def find(index: int) -> FaceCrop | None:
            # A crop is a square of the source video's pixels.
            cached = known.get(self.names[index])
            if cached is not None and cached.sha256 == digests[index] and cached.source_size is not None:
                size = (cached.source_size[0], cached.source_size[1])
            else:
                info = probe_video(clip_bytes(self.rows[index]))
                size = (info.height, info.width)
            return face_crop(boxes[index], landmarks[index], size, config.margin, rise=config.rise)

        with ThreadPoolExecutor(READING_THREADS) as readers:
            crops = list(readers.map(find, range(len(self))))
        for index, crop in enumerate(crops):
            if crop is not None:
                moved = map_to_crop(boxes[index], landmarks[index], torch.from_numpy(crop.boxes))
                boxes[index], landmarks[index] = moved
        return crops

    @property
    def clips_without_face(self) -> int:
        """How many clips have no face in any frame; a crop leaves them whole."""
        return int((~self.labels["face_found"].any(dim=1)).sum())


def change_batch(batch: dict[str, torch.Tensor], changes: Sequence[ClipChange]) -> dict[str, torch.Tensor]:
    """A batch whose clips are changed, on the device on which it lies.

    Args:
        batch: of `ClipDataset`, collated: B clips. Labels of affect are the same in a mirrored or cropped clip.
        changes: B of them.
    """
    if all(change == ClipChange() for change in changes):
        return batch
    clips = LabelledFrames(batch["frames"], batch["face_boxes"], batch["face_landmarks"])
    return batch | vars(change_clips(clips, changes))


def read_labels(rows: datasets.Dataset) -> dict[str, torch.Tensor]:
    """All labels of N clips: labels (N,), face_boxes (N, T, 4), face_landmarks (N, T, 5, 2), face_found (N, T)."""
    told = labels_from_rows(rows, ("face_boxes", "face_landmarks", "face_found"))
    return {
        "labels": torch.tensor(rows["expression"], dtype=torch.long),
        **{name: torch.from_numpy(values) for name, values in told.items()},
    }


def frames_in_memory(rows: datasets.Dataset, size: tuple[int, int]) -> int:
    """Bytes that the decoded frames of these rows take."""
    return len(rows) * rows.features["frame_indices"].length * 3 * size[0] * size[1]


def class_names(rows: datasets.Dataset) -> list[str]:
    """Names of the expressions in the order of their ids."""
    return list(rows.features["expression"].names)
