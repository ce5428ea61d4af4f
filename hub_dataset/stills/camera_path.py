"""A drawn camera path over a still: the picture shifts, grows, turns and changes its light, its labels move with it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np

from mtcae_dfer.hub_dataset.clips import CameraPath, ClipLabels
from mtcae_dfer.hub_dataset.synthetic.acting import drift

# How far the camera goes from the middle frame, which shows the still as it is.
SHIFT = 0.05  # of the frame's width and height
ZOOM = 0.10
TURN = np.deg2rad(6.0)
LIGHT = 0.15
WALK_RATES = (0.2, 0.9)  # of its waves, in cycles per half of the clip


def draw_camera_path(name: str, seed: int, frame_count: int, aspect: float) -> CameraPath:
    """The path of one still; the same name and seed give the same path on every machine.

    Args:
        name: of the still.
        seed: chooses all paths.
        frame_count: F, number of frames.
        aspect: width of the still divided by its height.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    time = np.linspace(-1.0, 1.0, frame_count)
    walks = [drift(random, time, 0.5, WALK_RATES) for _ in range(5)]  # each within -0.5..0.5
    still = (frame_count - 1) // 2  # this frame shows the picture as it is: a clip of one sampled frame is read at it
    shift_x, shift_y, zoom, turn, light = (
        reach * (walk - walk[still]) for reach, walk in zip((SHIFT, SHIFT, ZOOM, TURN, LIGHT), walks, strict=True)
    )
    scale, cosine, sine = np.exp(zoom), np.cos(turn), np.sin(turn)
    # A turn of pixels, in coordinates that are divided by width and height.
    linear = np.stack(
        [np.stack([cosine, -sine / aspect], axis=-1), np.stack([sine * aspect, cosine], axis=-1)], axis=-2
    )
    linear *= scale[:, None, None]  # (F, 2, 2)
    middle = np.array([0.5, 0.5])
    offset = middle - linear @ middle + np.stack([shift_x, shift_y], axis=-1)  # (F, 2): about the picture's middle
    return CameraPath(np.concatenate([linear, offset[..., None]], axis=-1), np.exp(light))


def film(picture: np.ndarray, path: CameraPath) -> np.ndarray:
    """Frames (F, H, W, 3) of a still (H, W, 3), both uint8 RGB. What lies beyond its edges mirrors the picture."""
    height, width = picture.shape[:2]
    size = np.array([width, height], dtype=np.float64)
    frames = []
    for matrix, gain in zip(path.matrices, path.gains, strict=True):
        linear = matrix[:, :2] * size[:, None] / size  # from and to pixels
        # OpenCV counts from the centre of the first pixel, which lies half a pixel from the edge.
        offset = matrix[:, 2] * size + (linear.sum(axis=1) - 1) / 2
        moved = cv2.warpAffine(
            picture,
            np.column_stack([linear, offset]),
            (width, height),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        frames.append(np.clip(np.round(moved * gain), 0, 255).astype(np.uint8))
    return np.stack(frames)


def move_labels(labels: ClipLabels, path: CameraPath) -> ClipLabels:
    """Labels of the F frames of a path out of those of its still (T = 1).

    Points move with the pixels; a box becomes the smallest upright one round its moved corners. What leaves the frame
    keeps saying where it is, outside of [0, 1].
    """
    frames = len(path.matrices)
    x1, y1, x2, y2 = labels.face_boxes[0].astype(np.float64)
    corners = _move(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), path)  # (F, 4, 2)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)  # (F, 4)
    return replace(
        labels,
        frame_indices=np.arange(frames, dtype=np.int64),
        face_boxes=boxes.astype(np.float32),
        face_landmarks=_move(labels.face_landmarks[0].astype(np.float64), path).astype(np.float32),
        face_found=np.repeat(labels.face_found, frames),
        face_confidence=np.repeat(labels.face_confidence, frames),
        face_count=np.repeat(labels.face_count, frames),
        face_interpolated=np.repeat(labels.face_interpolated, frames),
    )


def _move(points: np.ndarray, path: CameraPath) -> np.ndarray:
    """Points (N, 2) of the still in the F frames, (F, N, 2)."""
    return points @ path.matrices[:, :, :2].transpose(0, 2, 1) + path.matrices[:, None, :, 2]
