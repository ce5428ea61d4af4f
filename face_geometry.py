"""The one place for coordinates of faces.

Convention: boxes are (x1, y1, x2, y2) and points are (x, y), divided by the frame's width and height, with the origin
in the upper left corner. A coordinate that is not known is NaN, and NaN passes through every function here. All
functions take torch tensors and numpy arrays alike and return the kind that they were given.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", torch.Tensor, np.ndarray)

# MTCNN's order. "Left" is the side with the smaller x in an upright frontal picture: the viewer's left.
LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")

# Position i of a mirrored face holds what stood at position MIRRORED_LANDMARK_ORDER[i] before.
MIRRORED_LANDMARK_ORDER = (1, 0, 2, 4, 3)


def boxes_to_pixels(boxes: Array, width: float, height: float) -> Array:
    """Scale normalised boxes (..., 4) to pixels of a frame `width` × `height`."""
    _check_last_axis(boxes, 4, "boxes")
    return boxes * _like(boxes, (width, height, width, height))


def boxes_from_pixels(boxes: Array, width: float, height: float) -> Array:
    """Normalise boxes (..., 4) given in pixels of a frame `width` × `height`."""
    _check_last_axis(boxes, 4, "boxes")
    return boxes / _like(boxes, (width, height, width, height))


def points_to_pixels(points: Array, width: float, height: float) -> Array:
    """Scale normalised points (..., 2) to pixels of a frame `width` × `height`."""
    _check_last_axis(points, 2, "points")
    return points * _like(points, (width, height))


def points_from_pixels(points: Array, width: float, height: float) -> Array:
    """Normalise points (..., 2) given in pixels of a frame `width` × `height`."""
    _check_last_axis(points, 2, "points")
    return points / _like(points, (width, height))


def box_intersection_over_union(first: Array, second: Array) -> Array:
    """Overlap of boxes, pair by pair.

    Args:
        first: boxes (..., 4).
        second: boxes (..., 4), broadcast against `first`. Both in the same unit.

    Returns:
        (...) values in [0, 1]; NaN where either box is NaN, 0 where both boxes have no area. A box whose corners are
        in the wrong order has no area.
    """
    _check_last_axis(first, 4, "boxes")
    _check_last_axis(second, 4, "boxes")
    library = torch if isinstance(first, torch.Tensor) else np
    upper_left = library.maximum(first[..., :2], second[..., :2])
    lower_right = library.minimum(first[..., 2:], second[..., 2:])
    intersection = _area(upper_left, lower_right)
    union = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - intersection
    # Where there is no area at all, 0 / 1 instead of 0 / 0; a NaN union is not equal to 0 and stays NaN.
    return intersection / library.where(union == 0, library.ones_like(union), union)


def best_pairs(merit: np.ndarray) -> list[tuple[int, int]]:
    """Greedy match of two groups: pairs (row, column) of `merit` (N, M), the best ones first, each row and column once.

    Pairs that must not be have a merit of -inf; of equals the earlier row and column come first.
    """
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = set(range(merit.shape[0])), set(range(merit.shape[1]))
    for flat in np.argsort(-merit, axis=None, kind="stable").tolist():
        row, column = divmod(flat, merit.shape[1])
        if merit[row, column] > -np.inf and row in free_rows and column in free_columns:
            pairs.append((row, column))
            free_rows.remove(row)
            free_columns.remove(column)
    return pairs


def on_the_straight_way(first: Array, second: Array, share: float) -> Array:
    """Where a face is between two places: boxes or points of one shape, `share` 0 (the first) to 1 (the second)."""
    return (1 - share) * first + share * second


def flip_horizontally(boxes: Array, landmarks: Array) -> tuple[Array, Array]:
    """Mirror the labels of a frame that is mirrored left to right.

    Args:
        boxes: normalised (..., 4).
        landmarks: normalised (..., 5, 2) in the order of LANDMARK_NAMES.

    Returns:
        Mirrored boxes, still with x1 <= x2, and mirrored landmarks with the two eyes and the two mouth corners
        swapped, so that "left" is the viewer's left again.
    """
    _check_last_axis(boxes, 4, "boxes")
    _check_last_axis(landmarks, 2, "landmarks")
    # (..., 4): the old right edge becomes the new left one
    boxes = boxes[..., [2, 1, 0, 3]] * _like(boxes, (-1, 1, -1, 1)) + _like(boxes, (1, 0, 1, 0))
    landmarks = landmarks[..., list(MIRRORED_LANDMARK_ORDER), :]
    return boxes, landmarks * _like(landmarks, (-1, 1)) + _like(landmarks, (1, 0))


def map_to_crop(boxes: Array, landmarks: Array, crop_box: Sequence[float] | Array) -> tuple[Array, Array]:
    """Express labels of a frame in the coordinates of a crop of that frame.

    Args:
        boxes: (..., 4), normalised by the frame.
        landmarks: (..., 5, 2), normalised by the frame.
        crop_box: (x1, y1, x2, y2) of the crop, normalised by the frame, with a width and a height above 0; or an array
            of them (..., 4) that broadcasts against `boxes`.

    Returns:
        Boxes and landmarks normalised by the crop; what lies outside of it is below 0 or above 1.

    Raises:
        ValueError: the crop box has no area.
    """
    origin, extent = _origin_and_extent(boxes, crop_box)
    return (boxes - origin) / extent, (landmarks - origin[..., None, :2]) / extent[..., None, :2]


def map_from_crop(boxes: Array, landmarks: Array, crop_box: Sequence[float] | Array) -> tuple[Array, Array]:
    """Undo `map_to_crop`: from coordinates of the crop to those of the whole frame. Same shapes and errors."""
    origin, extent = _origin_and_extent(boxes, crop_box)
    return boxes * extent + origin, landmarks * extent[..., None, :2] + origin[..., None, :2]


def _check_last_axis(values: Array, expected: int, name: str) -> None:
    if values.shape[-1] != expected:
        raise ValueError(f"{name} have shape {tuple(values.shape)}, but their last axis must hold {expected} numbers")


def _like(values: Array, numbers: Sequence[float] | Array) -> Array:
    """The numbers as an array of the same kind, type and device as `values`."""
    if isinstance(values, torch.Tensor):
        dtype = values.dtype if values.is_floating_point() else torch.float32
        return torch.as_tensor(numbers, dtype=dtype, device=values.device)
    return np.asarray(numbers, dtype=values.dtype if np.issubdtype(values.dtype, np.floating) else np.float32)


def _area(upper_left: Array, lower_right: Array) -> Array:
    """Areas (...) between corners (..., 2); 0 where they are in the wrong order, NaN where they are not known."""
    sides = (lower_right - upper_left).clip(min=0)
    return sides[..., 0] * sides[..., 1]


def _origin_and_extent(boxes: Array, crop_box: Sequence[float] | Array) -> tuple[Array, Array]:
    """Upper left corner (x, y, x, y) and size (width, height, width, height) of a crop, (..., 4) each."""
    crop = _like(boxes, crop_box)
    _check_last_axis(crop, 4, "crop boxes")
    extent = crop[..., 2:] - crop[..., :2]
    if not bool((extent > 0).all()):
        raise ValueError(f"crop_box {crop.tolist()} has no area: it must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2")
    return crop[..., [0, 1, 0, 1]], extent[..., [0, 1, 0, 1]]
