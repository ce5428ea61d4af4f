"""Some corpora are handed out as folders of JPEG frames. This packs each folder into a video file of the same pixels.

SOURCE/Action/Happy/0267/00000.jpg …  →  OUT/Action/Happy/0267.avi

The JPEG files become the frames of a Motion JPEG stream as they are: nothing is decoded or compressed again. What a
video was made of stands beside it, in a hidden file: one whose frames or rate have changed is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from tqdm import tqdm

from mtcae_dfer.hub_dataset.clips import DatasetError, OptionError
from mtcae_dfer.hub_dataset.files import replacing, walk_folder, write_json

FASTEST = 1000  # frames per second
FINEST_RATE = 100_000  # largest denominator of a rate: a file holds it in two numbers of 32 bits
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg"})
# JPEG segments that tell the size of the frame (ITU-T T.81, table B.1: SOF0 to SOF15 without DHT, JPG and DAC).
SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # have no length behind them


@dataclass(frozen=True)
class PackReport:
    """What was packed."""

    packed: int  # folders that are videos now, those of earlier calls included
    failures: tuple[str, ...]  # folder and reason of every one that is not


def pack_frame_folders(
    source: str | os.PathLike, output_dir: str | os.PathLike, frame_rate: Fraction = Fraction(25), progress: bool = True
) -> PackReport:
    """Packs every folder of JPEG frames below a folder into a video file of the same name.

    Frames stand in the order of the numbers in their names. Videos that an earlier call made of the same files at the
    same rate are kept, others of an earlier call are made anew; a video that no call made is never touched.

    Args:
        source: the folder above the folders of frames.
        output_dir: where the videos go, in the same tree.
        frame_rate: frames per second to write into the files; the frames themselves do not tell it.
        progress: whether to show a progress bar.

    Raises:
        OptionError: there is no such rate.
        DatasetError: the source is no folder or holds no folders of frames.
    """
    source, output = Path(source), Path(output_dir)
    rate = frame_rate.limit_denominator(FINEST_RATE)
    if not 0 < rate <= FASTEST:
        raise OptionError("frame_rate", frame_rate, f"must be greater than 0 and at most {FASTEST} frames per second")
    if not source.is_dir():
        raise DatasetError(f"{source}: expected a folder with folders of JPEG frames, found none.")
    folders = []
    for parent, files in sorted(walk_folder(source)):
        names = [name for name in files if Path(name).suffix.lower() in FRAME_SUFFIXES]
        if names and parent != source and output not in (parent, *parent.parents):
            # Frame 9 comes before frame 10: numbers and the words between them alternate.
            words = {name: re.split(r"(\d+)", name) for name in names}
            names.sort(key=lambda name: [int(word) if word.isdecimal() else word for word in words[name]])
            folders.append((parent, names))
    if not folders:
        raise DatasetError(f"{source}: found no folders of JPEG frames below it.")
    failures = []
    for folder, names in tqdm(folders, desc="Packing frames", unit="clip", disable=not progress):
        relative = folder.relative_to(source)
        video = output / relative.parent / f"{relative.name}.avi"
        reason = _pack(folder, names, video, rate)
        if reason:
            failures.append(f"{relative.as_posix()}: {reason}")
    return PackReport(len(folders) - len(failures), tuple(failures))


def _pack(folder: Path, names: Sequence[str], video: Path, frame_rate: Fraction) -> str | None:
    """Writes one Motion JPEG video unless it is there; returns the reason where that is not possible."""
    note = video.with_name(f".{video.name}.json")
    files = [[name, (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns] for name in names]
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    made_of = {"frame_rate": str(frame_rate), "frames": f"{len(names)} files, {digest}"}
    if video.exists():
        if not note.exists():
            return f"{video} is there and was not packed by this command; delete it, or choose another folder"
        if json.loads(note.read_text(encoding="utf-8")) == made_of:
            return None
        video.unlink()
    note.unlink(missing_ok=True)
    frames = [(folder / name).read_bytes() for name in names]
    first: tuple[int, int] | None = None
    for name, frame in zip(names, frames, strict=True):
        size = jpeg_size(frame)
        if size is None:
            return f"{name} is no JPEG picture"
        first = first or size
        if size != first:
            return f"{name} has {size[0]}x{size[1]} pixels, but {names[0]} {first[0]}x{first[1]}"
    assert first is not None  # these are folders of frames
    video.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, made_of)  # before the video, which never stands beside a note of other frames, or without one
    with replacing(video) as temporary:
        with av.open(str(temporary), "w", format="avi") as container:
            stream = container.add_stream("mjpeg", rate=frame_rate)
            stream.width, stream.height = first
            stream.pix_fmt = "yuvj420p"  # for the header alone: readers take what the frames themselves tell
            stream.time_base = 1 / Fraction(frame_rate)
            for number, frame in enumerate(frames):
                packet = av.Packet(frame)
                packet.stream, packet.time_base = stream, stream.time_base
                packet.pts = packet.dts = number
                packet.is_keyframe = True
                container.mux(packet)
    return None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG file's header tells; None where it is no JPEG file."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in SIZE_MARKERS:
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        if marker == 0xFF:  # padding
            position += 1
        elif marker in LONE_MARKERS:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
