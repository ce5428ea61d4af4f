"""Decoded frames of a data set on the disk: every clip is decoded once, for all folds, seeds, runs and processes.

    FOLDER/mtcae-synthetic-64x64/cache.json    what the frames are: data set, size, crop
                                 0000.npy      uint8 (clips, T, 3, H, W), mapped into memory by whoever reads
                                 0000.json     its clips: name, hash of the video, frames, checksum of the pixels

A shard counts from the moment its JSON file is there, which is written last: what a stopped command or a full disk
leaves is made again. Pixels are those of decoding anew, to the last bit. Mapped files are kept in memory by the system,
once for all processes, as far as there is room.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tqdm import tqdm

from mtcae_dfer.hub_dataset.files import replacing, write_json

DESCRIPTION_FILE, LOCK_FILE = "cache.json", ".writing"
SHARD_BYTES = 256 << 20
READING_THREADS = 4  # of everything that decodes many clips
FORMAT = 1


class FrameCacheError(ValueError):
    """A cache cannot be used. The message is one line for the user: what, where, what to do."""


@dataclass(frozen=True)
class FrameCacheConfig:
    """Where the frames of a data set are kept."""

    folder: Path  # of all caches
    dataset: str  # name of the data set


@dataclass(frozen=True)
class CachedClip:
    """A clip by all that decides its frames; a cache holds it once more for the checksum and the place."""

    name: str
    sha256: str  # of the video file
    frame_indices: list[int]  # the T frames
    window: str = ""  # digest of the face crop's corners; empty: the whole frame
    source_size: list[int] | None = None  # (height, width) of the video that the crop is cut from
    checksum: int = 0  # CRC-32 of the pixels
    shard: str = ""  # name of the file
    position: int = 0  # in the file

    def refuse_unlike(self, wanted: CachedClip, folder: Path) -> None:
        """Raises a FrameCacheError where these are not the frames that are wanted."""
        way_out = "choose another folder for the cache, or remove this one"
        if self.sha256 != wanted.sha256:
            raise FrameCacheError(
                f"{folder}: was made of another data set: the video of {self.name} differs; {way_out}"
            )
        if self.frame_indices != wanted.frame_indices:
            raise FrameCacheError(f"{folder}: was made with another sampling: of {self.name} other frames; {way_out}")
        if self.window != wanted.window:
            raise FrameCacheError(f"{folder}: was made with other face labels: those of {self.name} moved; {way_out}")


class CachedFrames:
    """The frames of N clips in a cache, by their numbers; processes share the mapped files."""

    def __init__(self, folder: Path, clips: Sequence[CachedClip]) -> None:
        self.folder, self.clips = folder, list(clips)
        self.shards: dict[str, np.ndarray] = {}
        self.checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.clips)

    def __getstate__(self) -> dict[str, Any]:
        # A mapped file would travel to a loading process as its content.
        return {"folder": self.folder, "clips": self.clips, "shards": {}, "checked": set()}

    def __getitem__(self, index: int) -> torch.Tensor:
        """uint8 (T, 3, H, W), checked when it is read for the first time.

        Raises:
            FrameCacheError: the pixels are not those that were written.
        """
        clip = self.clips[index]
        if clip.shard not in self.shards:
            # "c": tensors want memory that may be written; the file never is.
            self.shards[clip.shard] = np.load(self.folder / clip.shard, mmap_mode="c")
        frames = self.shards[clip.shard][clip.position]
        if index not in self.checked:
            if zlib.crc32(frames) != clip.checksum:
                raise FrameCacheError(
                    f"{self.folder / clip.shard}: is damaged (checksum of {clip.name}); remove it and its .json file, "
                    "and its clips are decoded again"
                )
            self.checked.add(index)
        return torch.from_numpy(frames)


class FrameCache:
    """The frames of one data set at one size.

    Args:
        config: where.
        size: (height, width) of the frames.
        crop: how they are cropped to the face, as plain values; None: whole frames.

    Raises:
        FrameCacheError: what is there was made otherwise.
    """

    def __init__(self, config: FrameCacheConfig, size: tuple[int, int], crop: dict[str, float] | None) -> None:
        name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', config.dataset)}-{size[0]}x{size[1]}"
        name += "".join(f"-{part}{value:g}" for part, value in (crop or {}).items())
        self.folder, self.size = config.folder / name, size
        self.description = {"format": FORMAT, "dataset": config.dataset, "size": list(size), "crop": crop}
        file = self.folder / DESCRIPTION_FILE
        if file.is_file():
            there = json.loads(file.read_text(encoding="utf-8"))
            unlike = [
                f"{part} {there.get(part)}, and now it is {value}"
                for part, value in self.description.items()
                if there.get(part) != value
            ]
            if unlike:
                raise FrameCacheError(f"{self.folder}: was made for {'; '.join(unlike)}; choose another folder")

    def clips(self) -> dict[str, CachedClip]:
        """What is there, by the clips' names."""
        found = {}
        for file in sorted(self.folder.glob("[0-9]*.json")):
            for clip in json.loads(file.read_text(encoding="utf-8")):
                found[clip["name"]] = CachedClip(**clip)
        return found

    def frames_of(self, wanted: Sequence[CachedClip], read: Callable[[int], torch.Tensor]) -> CachedFrames:
        """The frames of clips; those that are not there yet are read and written first.

        Several processes may ask at once: one writes, the others wait.

        Args:
            wanted: the clips.
            read: from a clip's number to its frames, uint8 (T, 3, H, W).

        Raises:
            FrameCacheError: what is there was made of other clips, or what is missing cannot be written.
        """
        there = self._checked_clips(wanted)
        missing = [index for index, clip in enumerate(wanted) if clip.name not in there]
        if missing:
            try:
                lock = lock_folder(self.folder)
            except OSError as error:
                raise FrameCacheError(
                    f"{self.folder}: lacks {len(missing)} of {len(wanted)} clips and cannot be written "
                    f"({error.strerror}); choose another folder, or make the cache where it can be written (mtcae "
                    "dataset cache-frames)"
                ) from error
            with lock:
                there = self._checked_clips(wanted)
                missing = [index for index, clip in enumerate(wanted) if clip.name not in there]
                self._write(wanted, missing, read)
            there = self.clips()
        return CachedFrames(self.folder, [there[clip.name] for clip in wanted])

    def _checked_clips(self, wanted: Sequence[CachedClip]) -> dict[str, CachedClip]:
        there = self.clips()
        for clip in wanted:
            if clip.name in there:
                there[clip.name].refuse_unlike(clip, self.folder)
        return there

    def _write(self, wanted: Sequence[CachedClip], missing: Sequence[int], read: Callable[[int], torch.Tensor]) -> None:
        if not missing:
            return
        clip_bytes = len(wanted[0].frame_indices) * 3 * self.size[0] * self.size[1]
        needed, free = len(missing) * clip_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise FrameCacheError(
                f"{self.folder}: needs {needed / 1e9:.1f} GB for {len(missing)} clips, and the disk has "
                f"{free / 1e9:.1f} GB; make room, or choose a folder on another disk"
            )
        together = max(1, SHARD_BYTES // clip_bytes)
        number = max((int(file.stem) for file in self.folder.glob("[0-9]*.json")), default=-1) + 1
        try:
            write_json(self.folder / DESCRIPTION_FILE, self.description)
            with (
                ThreadPoolExecutor(READING_THREADS) as readers,
                tqdm(total=len(missing), desc="Decoding clips", unit="clip") as bar,
            ):
                for start in range(0, len(missing), together):
                    chosen = missing[start : start + together]
                    frames = np.stack([clip.numpy() for clip in readers.map(read, chosen)])
                    self._write_shard(number, [wanted[index] for index in chosen], frames)
                    number += 1
                    bar.update(len(chosen))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FrameCacheError(
                f"{self.folder}: the disk is full; make room and start again (what is written is kept), or choose a "
                "folder on another disk"
            ) from error

    def _write_shard(self, number: int, clips: Sequence[CachedClip], frames: np.ndarray) -> None:
        file = self.folder / f"{number:04}.npy"
        with replacing(file) as temporary, open(temporary, "wb") as stream:
            np.save(stream, frames)
            stream.flush()
            os.fsync(stream.fileno())  # before the JSON file says that it is there
        described = [
            asdict(clip) | {"checksum": zlib.crc32(pixels), "shard": file.name, "position": position}
            for position, (clip, pixels) in enumerate(zip(clips, frames, strict=True))
        ]
        write_json(file.with_suffix(".json"), described)


def lock_folder(folder: Path) -> TextIO:
    """Makes a folder of a cache, waits until no other process writes to it, and keeps others out.

    Returns:
        An open file: the others are let in when it is closed, or when the process ends.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / LOCK_FILE, "a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
