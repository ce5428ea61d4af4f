"""Videos without labels for masked pre-training: listed, sampled by a random window, cropped, and masked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm
from transformers.utils import logging

from mtcae_dfer.face_crop import FaceCrop, face_crop
from mtcae_dfer.face_geometry import boxes_to_pixels
from mtcae_dfer.hub_dataset.building.report import REPORT_FILE as BUILD_REPORT_FILE
from mtcae_dfer.hub_dataset.building.report import read_build_report
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.corpora.folder import VIDEO_SUFFIXES, file_names
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.hub_dataset.loading.load import clip_bytes
from mtcae_dfer.hub_dataset.loading.protocols import AS_BUILT, load_fold, resolve_protocol
from mtcae_dfer.hub_dataset.schema import labels_from_row
from mtcae_dfer.masked_tubelets import Grid, stratified_tube_mask
from mtcae_dfer.training.data.clip_dataset import FaceCropConfig
from mtcae_dfer.training.data.frame_cache import READING_THREADS
from mtcae_dfer.training.data.sampling import seeded_generator
from mtcae_dfer.video_reading import (
    VideoReadingError,
    probe_video,
    read_clip,
    resize_frames,
    uniform_frame_indices,
)

logger = logging.get_logger(__name__)

NAMED_PROBLEMS = 3  # how many unreadable videos a message names

# Where a crop stands, in quarters of the room around it: corners and middle, middles of the edges, and between them.
CROP_PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


class FolderVideos:
    """All videos below a folder, sorted by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(file_names(folder))

    def __getitem__(self, index: int) -> Path:
        return self.folder / self.names[index]


class DatasetVideos:
    """The training clips of a built data set; of their labels a crop looks at the faces, and nothing at the rest.

    Args:
        dataset_dir: folder of the data set.
        protocol: how its subjects are divided; None: as it was built.
        fold: name of a fold of the protocol; None: the first.
    """

    def __init__(self, dataset_dir: Path, protocol: str | None = None, fold: str | None = None) -> None:
        # Test clips stay unseen, even without their labels.
        self.rows = load_fold(dataset_dir, protocol, fold)["train"]
        self.names = list(self.rows["name"])

    def __getitem__(self, index: int) -> bytes:
        return clip_bytes(self.rows[index])

    def crop(self, index: int, frame_size: tuple[int, int], config: FaceCropConfig) -> FaceCrop | None:
        """One square for all frames of a clip, which need not be the labelled ones; None: it has no face."""
        labels = labels_from_row(self.rows[index])
        boxes, landmarks = labels.face_boxes, labels.face_landmarks
        return face_crop(boxes, landmarks, frame_size, config.margin, follow=False, rise=config.rise)


VideoCollection: TypeAlias = FolderVideos | DatasetVideos  # videos by number, as `read_clip` takes them


def open_videos(
    source: str, needs_faces: bool = False, protocol: str | None = None, fold: str | None = None
) -> VideoCollection:
    """The videos of a folder tree, or of a data set that `mtcae dataset build` wrote.

    Args:
        source: the folder.
        needs_faces: whether a face crop is asked for.
        protocol: how the subjects of a data set are divided; None: as it was built.
        fold: name of a fold of the protocol, whose training clips are taken; None: the first.

    Raises:
        DatasetError: there is no such folder, it holds no video, a face crop or a fold is asked for and it is no data
            set, or the data set has no such protocol or fold.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise DatasetError(f"--videos {source}: is no folder; give a folder of videos or of a built data set")
    is_dataset = (folder / BUILD_REPORT_FILE).is_file()
    if not is_dataset and (protocol or fold):
        option = f"--protocol {protocol}" if protocol else f"--fold {fold}"
        raise DatasetError(f"{option}: {source} is no built data set and has no folds; leave it out")
    videos: VideoCollection = DatasetVideos(folder, protocol, fold) if is_dataset else FolderVideos(folder)
    if not videos.names:
        raise DatasetError(f"--videos {source}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    if needs_faces and isinstance(videos, FolderVideos):
        raise DatasetError(f"--face_crop true: {source} has no face boxes; build a data set of it, or leave it out")
    return videos


def warn_of_other_folds(source: str, protocol: str | None) -> None:
    """Warns of a data set of several folds: the training people of the first are tested in the others.

    Args:
        source: folder of the data set, whose first fold was taken because none is named.
        protocol: how its subjects are divided; None: as it was built.
    """
    if protocol in (None, AS_BUILT):
        names = [fold["name"] for fold in read_build_report(source).protocol["folds"]]
    else:
        names = [fold.name for fold in resolve_protocol(source, protocol).folds]
    if len(names) > 1:
        logger.warning(
            f"--videos {source}: the training clips of {names[0]} are watched, and those people are tested in others "
            f"of the {len(names)} folds: give the encoder to {names[0]} alone, and pre-train one for each --fold NAME"
        )


@dataclass(frozen=True)
class VideoEntry:
    """What is known of a video before it is read."""

    index: int  # number in its collection
    name: str
    frame_count: int  # 0 where the video cannot be read
    problem: str = ""  # why it cannot be read, one line


def index_videos(videos: VideoCollection, index_file: Path, source: str) -> list[VideoEntry]:
    """Counts the frames of every video once, and leaves out what cannot be read; the list is kept in `index_file`.

    Raises:
        DatasetError: no video can be read, or the file lists other videos.
    """
    if index_file.exists():
        entries = [VideoEntry(**json.loads(line)) for line in index_file.read_text(encoding="utf-8").splitlines()]
        if [entry.name for entry in entries] != videos.names:
            raise DatasetError(
                f"--videos {source}: holds other videos than when the run began (listed in {index_file}): bring them "
                f"back, or start again with --overwrite_output_dir"
            )
    else:
        count = len(videos.names)
        with ThreadPoolExecutor(READING_THREADS) as readers:
            found = readers.map(partial(_probe, videos), range(count))
            entries = list(tqdm(found, total=count, desc="Counting frames", unit="video"))
        # Who counted writes: other processes of the run read the file at this very time.
        with replacing(index_file) as temporary:
            temporary.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in entries), encoding="utf-8")
    readable = [entry for entry in entries if not entry.problem]
    problems = [entry.problem for entry in entries if entry.problem]
    told = "; ".join(problems[:NAMED_PROBLEMS]) + (f"; all in {index_file}" if len(problems) > NAMED_PROBLEMS else "")
    if not readable:
        raise DatasetError(f"--videos {source}: none of {len(entries)} videos can be read: {told}")
    if problems:
        logger.warning(f"{len(problems)} of {len(entries)} videos cannot be read and are left out: {told}")
    return readable


def _probe(videos: VideoCollection, index: int) -> VideoEntry:
    name = videos.names[index]
    try:
        return VideoEntry(index, name, probe_video(videos[index]).frame_count)
    except VideoReadingError as error:
        problem = " ".join(str(error).split())
        return VideoEntry(index, name, 0, problem if name in problem else f"{name}: {problem}")


def window_indices(
    frame_count: int, num_frames: int, frame_stride: int | None, generator: torch.Generator | None
) -> list[int]:
    """Which frames of a video a clip shows.

    Args:
        frame_count: frames of the video.
        num_frames: frames of the clip.
        frame_stride: frames from one to the next, of a window at a random place; a video that ends before its window
            repeats its last frame. None spreads the frames over the whole video.
        generator: draws the window's place; None takes the middle.
    """
    if frame_stride is None:
        return uniform_frame_indices(frame_count, num_frames)
    room = max(0, frame_count - 1 - (num_frames - 1) * frame_stride)
    start = room // 2 if generator is None else int(torch.randint(room + 1, (), generator=generator))
    return [min(start + step * frame_stride, frame_count - 1) for step in range(num_frames)]


def draw_multi_scale_crop(
    height: int, width: int, scales: Sequence[float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) in pixels: sides out of `scales`, at one of 13 fixed places.

    Both sides are shares of the frame's shorter side, and at most one step of the scales apart.
    """
    pairs = [(i, j) for i in range(len(scales)) for j in range(len(scales)) if abs(i - j) <= 1]
    rows, columns = pairs[int(torch.randint(len(pairs), (), generator=generator))]
    crop_height, crop_width = (max(1, int(min(height, width) * scales[step])) for step in (rows, columns))
    across, down = CROP_PLACES[int(torch.randint(len(CROP_PLACES), (), generator=generator))]
    return (height - crop_height) * down // 4, (width - crop_width) * across // 4, crop_height, crop_width


@dataclass(frozen=True)
class ViewConfig:
    """What of a video the model sees."""

    size: tuple[int, int]  # (height, width) of the model's frames
    num_frames: int  # frames of a clip
    token_grid: Grid  # (t, h, w) of the masks
    mask_region: Grid  # (t, h, w) of a mask's regions in tokens
    mask_ratio: float  # share of masked places in every region
    frame_stride: int | None = None  # frames from one sampled frame to the next; None: over the whole video
    crop_box: tuple[float, float, float, float] | None = None  # cut out first: x1, y1, x2, y2 / frame width and height
    crop_scales: tuple[float, ...] = (1.0,)  # sides of the random crops / shorter side of the frame
    flip_probability: float = 0.0  # share of clips that are mirrored left to right
    face_crop: FaceCropConfig | None = None  # cut out first, by the labels of a built data set


class UnlabelledClips(Dataset):
    """Clips of videos with their masks, before normalisation.

    Args:
        videos: where the entries are.
        entries: the videos to take clips from.
        view: what of them is seen.
        seed: with the epoch and the video it decides window, crop and mask, whatever process loads the clip.
        keep_frames: decode every video once and keep its frames; only without a stride, where they are always the same.
        fixed: take the middle window, no crop, and the same mask in every epoch.
    """

    def __init__(
        self,
        videos: VideoCollection,
        entries: Sequence[VideoEntry],
        view: ViewConfig,
        seed: int = 0,
        keep_frames: bool = False,
        fixed: bool = False,
    ) -> None:
        self.videos, self.entries, self.view = videos, list(entries), view
        self.seed, self.epoch, self.fixed = seed, 0, fixed
        self.names = [entry.name for entry in self.entries]
        self.frames: torch.Tensor | None = None
        if keep_frames and view.frame_stride is None:
            with ThreadPoolExecutor(READING_THREADS) as readers:
                clips = readers.map(lambda index: self._read_or_replace(index, torch.Generator()), range(len(self)))
                self.frames = torch.stack(list(tqdm(clips, total=len(self), desc="Reading videos", unit="video")))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's windows, crops and masks."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip: frames uint8 (T, 3, H, W), bool_masked_pos (N,) in raster order, index."""
        generator = seeded_generator(self.seed, 0 if self.fixed else self.epoch, index)
        view = self.view
        frames = self.frames[index] if self.frames is not None else self._read_or_replace(index, generator)
        if not self.fixed:
            rows, columns = frames.shape[-2:]
            top, left, height, width = draw_multi_scale_crop(rows, columns, view.crop_scales, generator)
            frames = transforms.resized_crop(frames, top, left, height, width, list(view.size), antialias=True)
            if torch.rand((), generator=generator) < view.flip_probability:
                frames = frames.flip(-1)
        mask = stratified_tube_mask(view.token_grid, view.mask_region, view.mask_ratio, generator=generator)
        return {"frames": frames, "bool_masked_pos": mask[0], "index": torch.tensor(index)}

    def _read_or_replace(self, index: int, generator: torch.Generator) -> torch.Tensor:
        """A video whose later frames turn out to be damaged must not end a run of days: the next one stands in."""
        for step in range(len(self.entries)):
            entry = self.entries[(index + step) % len(self.entries)]
            try:
                return self._read(entry, generator)
            except VideoReadingError as error:
                logger.warning_once(f"{entry.name}: {' '.join(str(error).split())} Another video stands in for it.")
        raise DatasetError(f"none of {len(self.entries)} videos can be read any more; the first is {self.names[0]}")

    def _read(self, entry: VideoEntry, generator: torch.Generator | None) -> torch.Tensor:
        view = self.view
        indices = window_indices(
            entry.frame_count, view.num_frames, view.frame_stride, None if self.fixed else generator
        )
        if view.face_crop is not None and isinstance(self.videos, DatasetVideos):
            frames = read_clip(self.videos[entry.index], frame_indices=indices).frames
            crop = self.videos.crop(entry.index, (frames.shape[-2], frames.shape[-1]), view.face_crop)
            return resize_frames(frames, view.size) if crop is None else crop.cut(frames, view.size)
        if view.crop_box is None:
            return read_clip(self.videos[entry.index], size=view.size, frame_indices=indices).frames
        frames = read_clip(self.videos[entry.index], frame_indices=indices).frames
        height, width = frames.shape[-2:]
        left, top, right, bottom = boxes_to_pixels(torch.tensor(view.crop_box), width, height).round().int().tolist()
        return resize_frames(frames[..., top : max(bottom, top + 1), left : max(right, left + 1)], view.size)


def count_short_videos(entries: Sequence[VideoEntry], view: ViewConfig) -> int:
    """How many videos end before their window does."""
    window = 1 + (view.num_frames - 1) * (view.frame_stride or 1)
    return sum(entry.frame_count < window for entry in entries)
