"""The one rule by which frames are cropped to a face, in training and in prediction alike.

boxes and points of the frames ─► centre and size of the face in each ─► square windows ─► crops of one size
                                                            │
           one window for the whole clip, unless it would cut the face off: then the window follows the head
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .video_reading import resize_frames

# Sides of MTCNN's box per distance from the middle of the eyes to the middle of the mouth. Of one face this distance
# varies less from clip to clip than the box does (1.5 % against 3.2 %).
SIDES_PER_EYE_TO_MOUTH = 2.48
FACE_CROP_MARGIN = 0.125  # added on every side of the face, as a share of its size: the window is 1.25 faces wide

CUT_OFF = 0.1  # share of a window's side by which a face reaches out of it before it counts as cut off …
CUT_OFF_FRAMES = 0.1  # … in more than this share of the frames with a face
STEADY = 3  # frames over which a moving window's place and size are a running median, and then a running mean


@dataclass(frozen=True)
class FaceCrop:
    """Where the frames of one clip are cut.

    Attributes:
        windows: int64 (T, 4), left, top, right, bottom in whole pixels of the frame, right and bottom exclusive; all
            squares inside the frame. One window for all frames unless `follows`.
        frame_size: (height, width) of the frame in pixels.
    """

    windows: np.ndarray
    frame_size: tuple[int, int]

    @property
    def follows(self) -> bool:
        """Whether the window moves from frame to frame."""
        return bool((self.windows != self.windows[0]).any())

    @property
    def boxes(self) -> np.ndarray:
        """float64 (T, 4): the windows divided by the frame's width and height, for `face_geometry.map_to_crop`."""
        height, width = self.frame_size
        return self.windows / np.array([width, height, width, height], dtype=np.float64)

    def cut(self, frames: torch.Tensor | Sequence[torch.Tensor], size: tuple[int, int] | None = None) -> torch.Tensor:
        """Cuts the windows out of frames.

        Args:
            frames: uint8 (T, 3, H, W) of the size `frame_size`, or T frames (3, H, W).
            size: (height, width) of the result; None: as they are, which windows that follow make the largest's size.

        Returns:
            uint8 (T, 3, height, width).
        """
        parts = zip(frames, self.windows.tolist(), strict=True)
        cuts = [frame[:, top:bottom, left:right] for frame, (left, top, right, bottom) in parts]
        if not self.follows:  # all cuts have one size
            crops = torch.stack(cuts)
            return crops if size is None else resize_frames(crops, size)
        side = int((self.windows[:, 2] - self.windows[:, 0]).max())
        # T × (3, h, w) -> (T, 3, height, width)
        return torch.stack([resize_frames(cut, size or (side, side)) for cut in cuts])


def face_crop(
    boxes: np.ndarray | torch.Tensor,
    landmarks: np.ndarray | torch.Tensor | None,
    frame_size: tuple[int, int],
    margin: float = FACE_CROP_MARGIN,
    follow: bool = True,
    rise: float = 0.0,
) -> FaceCrop | None:
    """The square windows to which a clip is cropped around one person's face.

    The face's size in a frame is 2.48 times the distance from the middle of the eyes to the middle of the mouth, its
    centre lies between these two; where a frame has no points, the longer side and the centre of its box are taken. A
    window's side is (1 + 2 · margin) face sizes. One window, of the median centre and the median size over the clip,
    serves all frames. Where this would cut the face off in some frames (the head moves through the picture), the window
    follows it: its centre is steadied over neighbouring frames, and so is its side where the face would still be cut
    off (the head comes closer). Frames without a face lie on the straight way between their neighbours.

    Windows are moved to lie inside the frame, and made smaller where they are larger than the frame.

    Args:
        boxes: (T, 4) of one person, x1, y1, x2, y2 divided by the frame's width and height; NaN where the face is not
            found. Labels of a data set and detections alike.
        landmarks: (T, 5, 2) in the order of `face_geometry.LANDMARK_NAMES`, divided likewise; NaN or None: unknown.
        frame_size: (height, width) of the frames in pixels: a window is a square of pixels. Give the size of the source
            video also where boxes were found on squashed frames.
        margin: added on every side of the face, as a share of its size; the processor's `face_crop_margin`.
        follow: whether the window may move; False: one window, whatever happens.
        rise: how far the window's centre stands above the face's, in sides of the window; the processor's
            `face_crop_rise`. Pictures of corpora often show more of the forehead than of the neck.

    Returns:
        The windows of all T frames; None where no frame has a face: the clip then stays whole.

    Raises:
        ValueError: the arrays do not fit each other, or the margin is negative.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or (landmarks is not None and len(landmarks) != len(boxes)):
        raise ValueError(f"boxes of shape {boxes.shape} must be (T, 4), and landmarks (T, 5, 2) of the same frames")
    if margin < 0:
        raise ValueError(f"margin={margin}: must not be negative")
    height, width = frame_size
    boxes = boxes * [width, height, width, height]
    centres, sizes = _faces_in_frames(boxes, landmarks, frame_size)
    found = np.flatnonzero(np.isfinite(sizes) & (sizes > 0))
    if len(found) == 0:
        return None
    # What the window of each frame by itself cuts off is what the margin wants cut off, and no reason to move.
    own = _windows(centres[found], sizes[found] * (1 + 2 * margin), len(found), frame_size)
    still = np.median(centres[found], axis=0), np.median(sizes[found])
    moving = _steadied(centres, found), _steadied(sizes, found)
    candidates = [still, (moving[0], still[1]), moving] if follow else [still]
    for centre, size in candidates:
        side = size * (1 + 2 * margin)
        windows = _windows(centre, side, len(boxes), frame_size)
        if not _cut_off(boxes[found], windows[found], own, frame_size):
            break
    # (2,) or (T, 2): a window that stands above the face cuts something off in every frame, which is no reason to move.
    raised = centre - np.stack([np.zeros_like(side), rise * side], axis=-1)
    return FaceCrop(_windows(raised, side, len(boxes), frame_size), frame_size)


def box_crop(boxes: Sequence[float] | np.ndarray | torch.Tensor, frame_size: tuple[int, int], count: int) -> FaceCrop:
    """The square windows around given boxes, without a margin: one (4,) for all frames, or one for each, (T, 4).

    Args:
        boxes: x1, y1, x2, y2 divided by the frame's width and height, all of them numbers.
        frame_size: (height, width) of the frames in pixels.
        count: T, number of frames.

    Raises:
        ValueError: the boxes have another shape, or one has no area.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.shape not in ((4,), (count, 4)):
        raise ValueError(f"a crop box is (x1, y1, x2, y2), or {count} of them, but here is one of shape {array.shape}")
    if not (array[..., 2:] > array[..., :2]).all():
        raise ValueError(f"crop box {array.tolist()} has no area: it must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2")
    pixels = array * [frame_size[1], frame_size[0], frame_size[1], frame_size[0]]
    sides = (pixels[..., 2:] - pixels[..., :2]).max(axis=-1)
    return FaceCrop(_windows((pixels[..., :2] + pixels[..., 2:]) / 2, sides, count, frame_size), frame_size)


def _faces_in_frames(boxes: np.ndarray, landmarks: Any, frame_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Centre (T, 2) and size (T,) of the face in pixels, from boxes (T, 4) in pixels; NaN where it is not found."""
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    if landmarks is None:
        return centres, sizes
    points = np.asarray(landmarks, dtype=np.float64) * [frame_size[1], frame_size[0]]
    eyes, mouth = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1)  # (T, 2)
    distance = np.linalg.norm(eyes - mouth, axis=1)
    known = np.isfinite(distance) & (distance > 0) & np.isfinite(sizes)
    return (
        np.where(known[:, None], (eyes + mouth) / 2, centres),
        np.where(known, SIDES_PER_EYE_TO_MOUTH * distance, sizes),
    )


def _steadied(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Values (T, …) of the frames with straight ways over gaps, then a running median, then a running mean."""
    columns = values.reshape(len(values), -1)  # (T, …) -> (T, n)
    frames = np.arange(len(values))
    filled = np.stack([np.interp(frames, found, column[found]) for column in columns.T], axis=1)
    for steady in (np.median, np.mean):
        padded = np.pad(filled, ((STEADY // 2, STEADY // 2), (0, 0)), mode="edge")
        neighbours = np.stack([padded[start : start + len(values)] for start in range(STEADY)])  # (STEADY, T, n)
        filled = steady(neighbours, axis=0)
    return filled.reshape(values.shape)


def _windows(centres: Any, sides: Any, count: int, frame_size: tuple[int, int]) -> np.ndarray:
    """Whole-pixel squares (T, 4) inside the frame, around centres (2,) or (T, 2) with sides () or (T,) in pixels."""
    height, width = frame_size
    side = np.clip(np.round(sides), 1, min(width, height)).reshape(-1, 1)
    corner = np.round(np.reshape(centres, (-1, 2)) - side / 2)
    corner = np.clip(corner, 0, np.array([width, height]) - side)
    return np.broadcast_to(np.concatenate([corner, corner + side], axis=1), (count, 4)).astype(np.int64)


def _cut_off(boxes: np.ndarray, windows: np.ndarray, own: np.ndarray, frame_size: tuple[int, int]) -> bool:
    """Whether faces (N, 4) in pixels reach further out of windows (N, 4) than out of those of their frames alone.

    In more than a few frames, that is.
    """
    height, width = frame_size
    visible = np.clip(boxes, 0, [width, height, width, height])
    overhang, wanted = (
        np.maximum(squares[:, :2] - visible[:, :2], visible[:, 2:] - squares[:, 2:]).max(axis=1).clip(min=0)
        for squares in (windows, own)
    )
    # A window that is as large as the frame can show no more.
    side = windows[:, 2] - windows[:, 0]
    cut = (overhang - wanted > CUT_OFF * side) & (side < min(frame_size))
    return bool(cut.mean() > CUT_OFF_FRAMES)
