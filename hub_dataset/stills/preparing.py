"""Stills to clips: every picture read, brought to a stated size and kept as a file that the video reader reads."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtcae_dfer.hub_dataset.clips import CameraPath, Clip, DatasetError, Findings, OptionError
from mtcae_dfer.hub_dataset.files import replacing
from mtcae_dfer.hub_dataset.folds import SPLITS, name_part
from mtcae_dfer.hub_dataset.stills.camera_path import draw_camera_path, film
from mtcae_dfer.hub_dataset.stills.duplicates import copies_across_splits
from mtcae_dfer.hub_dataset.stills.pictures import Picture, PictureError, PictureOptions, prepare_picture
from mtcae_dfer.hub_dataset.stills.sources import StillsSource
from mtcae_dfer.hub_dataset.synthetic.corpus import encode_clip

FRAME_RATE = 25  # of filmed stills, per second
COMPRESSION = 18  # x264's constant rate factor: no loss that is seen


@dataclass(frozen=True)
class StillsOptions:
    """How stills become clips."""

    pictures: PictureOptions = field(default_factory=PictureOptions, metadata={"help": "In which sizes."})
    camera_frames: int = field(
        default=0, metadata={"help": "Frames of a drawn camera path over each still; 0 keeps the still itself."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the camera paths."})

    def __post_init__(self) -> None:
        if self.camera_frames < 0 or self.camera_frames == 1:
            raise OptionError("camera_frames", self.camera_frames, "must be 0, or at least 2 frames")


def prepare_stills(
    source: StillsSource, folder: Path, options: StillsOptions | None = None, progress: bool = True
) -> tuple[list[Clip], Findings]:
    """Writes the picture (or the filmed clip) of every still and lists them as clips.

    Pictures that cannot be used are left out with the reason. Where the source tells splits, a training picture of
    which another split has a near copy is left out as well; a validation picture with a copy in the test split stays,
    with a remark.

    Args:
        source: of `read_stills`.
        folder: of the files; those that an earlier call finished are kept. Names come from the contents.
        options: how stills become clips.
        progress: whether to show a progress bar.

    Returns:
        The clips, and what is left out or to be told.

    Raises:
        DatasetError: no picture can be used, a table is damaged, or a file cannot be written.
    """
    options = options or StillsOptions()
    clips: list[Clip] = []
    fingerprints: list[np.ndarray] = []
    left_out = dict(source.left_out)
    pairs = zip(source.stills, source.contents(), strict=True)
    for still, content in tqdm(
        pairs, total=len(source.stills), desc="Preparing stills", unit="still", disable=not progress
    ):
        try:
            file = content if isinstance(content, bytes) else content.read_bytes()
        except OSError as error:
            left_out[still.name] = f"cannot be read ({error.strerror or error})"
            continue
        try:
            picture = prepare_picture(file, options.pictures)
        except PictureError as error:
            left_out[still.name] = str(error)
            continue
        camera_path = None
        if options.camera_frames:
            camera_path = draw_camera_path(
                still.name, options.seed, options.camera_frames, picture.image.width / picture.image.height
            )
        try:
            path = _write(picture, camera_path, folder)
        except OSError as error:
            raise DatasetError(
                f"{error.filename or folder} cannot be written ({error.strerror}): mend that and start again; finished "
                "pictures are kept."
            ) from error
        clips.append(
            Clip(
                path=path,
                expression=still.expression,
                subject=still.subject,
                name=still.name,
                attributes=still.attributes,
                part=still.split,
                camera_path=camera_path,
            )
        )
        fingerprints.append(picture.fingerprint)
    if not clips:
        raise DatasetError(f"None of {len(left_out)} pictures can be used; the first {next(iter(left_out.values()))}.")
    copies = copies_across_splits(np.stack(fingerprints), [clip.part for clip in clips])
    remarks: dict[str, str] = {}
    for position, other in copies.items():
        clip, copy = clips[position], clips[other]
        told = f"shows the same photograph as {copy.name} of the {copy.part} pictures"
        (left_out if clip.part == "train" else remarks)[clip.name] = told
    kept = [clip for clip in clips if clip.name not in left_out]
    return assign_parts(kept), Findings(left_out, remarks)


def assign_parts(clips: list[Clip]) -> list[Clip]:
    """Clips whose part is their place in the division that the source tells.

    With pictures of all three splits that is the split. Where there are training pictures and those of one other split,
    that one is tested, and validation pictures will be drawn from the training pictures (see `folds.name_part`).
    """
    splits = Counter(clip.part for clip in clips)
    if set(splits) == set(SPLITS) or set(splits) <= {"", "train"}:
        return [replace(clip, part=clip.part if len(splits) == len(SPLITS) else "") for clip in clips]
    return [replace(clip, part=name_part(None if clip.part == "train" else "default", clip.name)) for clip in clips]


def _write(picture: Picture, camera_path: CameraPath | None, folder: Path) -> Path:
    """The file of a still under a name made of its content; written where it is not there yet."""
    digest = hashlib.sha256(picture.content)
    suffix = picture.suffix
    if camera_path is not None:
        digest.update(camera_path.matrices.tobytes() + camera_path.gains.tobytes())
        suffix = ".mp4"
    name = digest.hexdigest()[:32]
    file = folder / name[:2] / f"{name}{suffix}"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        if camera_path is None:
            temporary.write_bytes(picture.content)
        else:
            pixels = np.asarray(picture.image.convert("RGB"))
            # The video codec wants even sides.
            even = pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
            temporary.write_bytes(encode_clip(film(even, camera_path), FRAME_RATE, COMPRESSION))
    return file
