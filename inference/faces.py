"""A picture of everybody's face, by which the people of a timeline are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from mtcae_dfer.face_crop import face_crop
from mtcae_dfer.inference.timeline_files import Timeline
from mtcae_dfer.video_reading import FrameStream

FACE_MARGIN = 0.3  # on every side, as a share of the face's longer side
SAME_TIME = 1e-3  # seconds; a timeline's times are rounded


def face_pictures(video: str, timeline: Timeline, side: int = 96) -> dict[int, Image.Image]:
    """Everybody's largest face in the video.

    Args:
        video: path of the file that the timeline is of.
        timeline: of the pipeline.
        side: of the square pictures in pixels.

    Returns:
        Number of the track -> RGB picture. A person without a box, or whose frame does not decode, has none.

    Raises:
        VideoReadingError: the video cannot be read.
    """
    largest: dict[int, dict[str, Any]] = {}
    for person in timeline["people"]:
        frames = [frame for window in person["windows"] for frame in window["frames"] if frame["box"]]
        if frames:
            sides = [np.subtract(frame["box"][2:], frame["box"][:2]) for frame in frames]
            largest[person["track"]] = frames[int(np.argmax(np.abs(np.prod(sides, axis=1))))]
    pictures: dict[int, Image.Image] = {}
    if not largest:
        return pictures
    for streamed in FrameStream(video):
        for track, frame in largest.items():
            if abs(streamed.time - frame["time"]) > SAME_TIME or track in pictures:
                continue
            picture = streamed.picture().permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
            pictures[track] = _cut_out(picture, frame["box"], side)
        if len(pictures) == len(largest):
            break
    return pictures


def _cut_out(picture: np.ndarray, box: list[float], side: int) -> Image.Image:
    """The square around a box (x1, y1, x2, y2) in pixels, of a picture uint8 (H, W, 3)."""
    height, width = picture.shape[:2]
    # A predicted box may have its edges the wrong way round, or lie outside of the frame.
    xs, ys = np.clip(sorted(box[::2]), 0, width), np.clip(sorted(box[1::2]), 0, height)
    if xs[1] - xs[0] < 1 or ys[1] - ys[0] < 1:
        return Image.fromarray(picture).resize((side, side))
    place = np.array([[xs[0] / width, ys[0] / height, xs[1] / width, ys[1] / height]])
    crop = face_crop(place, None, (height, width), FACE_MARGIN)
    if crop is None:
        raise ValueError(f"box {box} has no area inside the picture")
    left, top, right, bottom = crop.windows[0].tolist()
    cut = picture[top:bottom, left:right]
    return Image.fromarray(np.ascontiguousarray(cut)).resize((side, side), Image.Resampling.LANCZOS)
