"""Coordinates of faces: pixels, overlaps, mirrors and crops, against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcae_dfer.face_geometry import (
    LANDMARK_NAMES,
    best_pairs,
    box_intersection_over_union,
    boxes_from_pixels,
    boxes_to_pixels,
    flip_horizontally,
    map_from_crop,
    map_to_crop,
    on_the_straight_way,
    points_from_pixels,
    points_to_pixels,
)

NAN = float("nan")


@pytest.fixture(params=["torch", "numpy"])
def array(request: pytest.FixtureRequest):
    """Makes float32 arrays of one of the two kinds, and checks that results are of that kind."""
    if request.param == "torch":
        return lambda values: torch.tensor(values, dtype=torch.float32)
    return lambda values: np.array(values, dtype=np.float32)


def assert_same(result, expected) -> None:
    assert type(result) is type(expected) and result.dtype == expected.dtype
    np.testing.assert_allclose(np.asarray(result), np.asarray(expected), atol=1e-6, rtol=1e-6)


def test_boxes_and_points_go_to_pixels_and_back(array) -> None:
    boxes, points = array([[0.1, 0.25, 0.5, 1.0], [NAN] * 4]), array([[0.1, 0.25], [NAN, 0.5]])
    box_pixels, point_pixels = array([[64, 120, 320, 480], [NAN] * 4]), array([[64, 120], [NAN, 240]])
    assert_same(boxes_to_pixels(boxes, 640, 480), box_pixels)
    assert_same(points_to_pixels(points, 640, 480), point_pixels)
    assert_same(boxes_from_pixels(box_pixels, 640, 480), boxes)
    assert_same(points_from_pixels(point_pixels, 640, 480), points)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_whole_pixels_become_fractions(kind) -> None:
    boxes = boxes_from_pixels(kind([[64, 120, 320, 480]]), 640, 480)
    np.testing.assert_allclose(np.asarray(boxes), [[0.1, 0.25, 0.5, 1.0]], rtol=1e-6)


def test_overlap_of_boxes_is_intersection_over_union(array) -> None:
    first = array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 4, 4], [NAN] * 4, [1, 1, 1, 1], [0, 0, 1, 1]])
    second = array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 3, 3], [1, 1, 3, 2], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    # the same; corner on corner 1/(4+4-1); apart; inside 2/16; unknown; two points; corners in the wrong order
    assert_same(box_intersection_over_union(first, second), array([1, 1 / 7, 0, 1 / 8, NAN, 0, 0]))


def test_overlap_broadcasts(array) -> None:
    first, second = array(np.zeros((2, 1, 4)).tolist()), array([[0, 0, 1, 1]] * 3)
    assert box_intersection_over_union(first, second).shape == (2, 3)


def test_mirroring_swaps_left_and_right(array) -> None:
    assert LANDMARK_NAMES == ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    boxes = array([[0.1, 0.2, 0.5, 0.6], [NAN] * 4])
    landmarks = array([[[0.2, 0.3], [0.4, 0.31], [0.3, 0.4], [0.22, 0.5], [0.38, 0.51]], [[NAN] * 2] * 5])
    flipped_boxes, flipped_landmarks = flip_horizontally(boxes, landmarks)
    assert_same(flipped_boxes, array([[0.5, 0.2, 0.9, 0.6], [NAN] * 4]))
    expected = array([[[0.6, 0.31], [0.8, 0.3], [0.7, 0.4], [0.62, 0.51], [0.78, 0.5]], [[NAN] * 2] * 5])
    assert_same(flipped_landmarks, expected)
    for restored, original in zip(flip_horizontally(flipped_boxes, flipped_landmarks), (boxes, landmarks), strict=True):
        assert_same(restored, original)


def test_labels_are_expressed_in_a_crop(array) -> None:
    boxes, landmarks = array([[0.25, 0.5, 0.75, 1.0]]), array([[[0.5, 0.75]] * 4 + [[NAN, NAN]]])
    crop_box = (0.25, 0.5, 0.5, 1.0)  # as wide as a quarter of the frame and half as high
    cropped_boxes, cropped_landmarks = map_to_crop(boxes, landmarks, crop_box)
    assert_same(cropped_boxes, array([[0.0, 0.0, 2.0, 1.0]]))
    assert_same(cropped_landmarks, array([[[1.0, 0.5]] * 4 + [[NAN, NAN]]]))
    for restored, original in zip(
        map_from_crop(cropped_boxes, cropped_landmarks, crop_box), (boxes, landmarks), strict=True
    ):
        assert_same(restored, original)


def test_every_video_may_have_its_own_crop() -> None:
    random = np.random.default_rng(0)
    boxes = torch.from_numpy(random.uniform(0, 1, (2, 16, 4)))
    landmarks = torch.from_numpy(random.uniform(0, 1, (2, 16, 5, 2)))
    crops = torch.tensor([[[0.0, 0.0, 0.5, 0.5]], [[0.2, 0.1, 0.9, 0.8]]])  # (2, 1, 4)
    together = map_to_crop(boxes, landmarks, crops)
    for video in range(2):
        alone = map_to_crop(boxes[video], landmarks[video], crops[video, 0])
        assert torch.allclose(together[0][video], alone[0]) and torch.allclose(together[1][video], alone[1])


unit = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(unit, min_size=4, max_size=4), st.tuples(unit, unit), st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_a_crop_is_undone(box: list[float], origin: tuple[float, float], extent: tuple[float, float]) -> None:
    boxes = torch.tensor([box], dtype=torch.float64)
    landmarks = boxes.reshape(1, 2, 2).repeat(1, 3, 1)[:, :5]
    crop_box = (*origin, origin[0] + extent[0], origin[1] + extent[1])
    restored = map_from_crop(*map_to_crop(boxes, landmarks, crop_box), crop_box)
    assert torch.allclose(restored[0], boxes) and torch.allclose(restored[1], landmarks)


@pytest.mark.parametrize("crop_box", [(0.5, 0.0, 0.5, 1.0), (0.0, 0.6, 1.0, 0.4), (0.0, 0.0, NAN, 1.0)])
def test_a_crop_without_area_is_refused(crop_box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="has no area"):
        map_to_crop(torch.zeros(1, 4), torch.zeros(1, 5, 2), crop_box)


def test_a_wrong_last_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes have shape \(3, 2\), but their last axis must hold 4"):
        boxes_to_pixels(torch.zeros(3, 2), 10, 10)
    with pytest.raises(ValueError, match="points have shape"):
        points_from_pixels(np.zeros((3, 4)), 10, 10)


def test_the_best_pairs_come_first_and_nobody_twice() -> None:
    merit = np.array([[0.9, 0.8, -np.inf], [0.85, 0.1, 0.2], [-np.inf, -np.inf, -np.inf]])
    # 0.9 takes row 0 and column 0; of what is left 0.2 is best; row 2 may have nobody.
    assert best_pairs(merit) == [(0, 0), (1, 2)]
    assert best_pairs(np.zeros((0, 3))) == [] and best_pairs(np.zeros((3, 0))) == []


def test_of_equal_pairs_the_earlier_ones_are_taken() -> None:
    assert best_pairs(np.ones((2, 2))) == [(0, 0), (1, 1)]


def test_a_face_between_two_places_is_on_the_straight_way() -> None:
    first, second = np.array([0.0, 0.0, 0.2, 0.2]), np.array([0.4, 0.8, 0.6, 1.0])
    assert on_the_straight_way(first, second, 0.25).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    points = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, torch.nan]])
    halfway = on_the_straight_way(*points, 0.5)
    assert float(halfway[0, 0]) == 0.5 and bool(torch.isnan(halfway[0, 1]))
