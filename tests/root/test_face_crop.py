"""The rule of the face crop, against windows worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcae_dfer.face_crop import FaceCrop, box_crop, face_crop
from mtcae_dfer.video_reading import resize_frames

HEIGHT, WIDTH = 100, 200
SIZE = (HEIGHT, WIDTH)
NAN = float("nan")


def normalised(*boxes: tuple[float, float, float, float]) -> np.ndarray:
    """Boxes in pixels of the frame -> as labels hold them."""
    return (np.array(boxes) / [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)


def points(eyes_y: float, mouth_y: float, x: float = 100.0) -> np.ndarray:
    """A face straight from the front: its five points, as labels hold them."""
    middle = (eyes_y + mouth_y) / 2
    face = [(x - 10, eyes_y), (x + 10, eyes_y), (x, middle), (x - 8, mouth_y), (x + 8, mouth_y)]
    return (np.array(face) / [WIDTH, HEIGHT]).astype(np.float32)


def windows(crop: FaceCrop | None) -> list[list[int]]:
    assert crop is not None
    return crop.windows.tolist()


def test_without_points_the_box_is_the_face() -> None:
    # The longer side is 40 pixels, with an eighth of it on both sides 50; the centre is (100, 45).
    crop = face_crop(normalised((80, 30, 120, 60), (80, 30, 120, 60)), None, SIZE)
    assert windows(crop) == [[75, 20, 125, 70]] * 2
    assert crop is not None and crop.boxes[0].tolist() == [0.375, 0.2, 0.625, 0.7]


def test_five_points_tell_centre_and_size() -> None:
    # From eyes to mouth 20 pixels: the window is 3.1 times as wide, 62, around the place halfway, (100, 50).
    boxes = normalised((70, 10, 110, 60), (70, 10, 110, 60))
    crop = face_crop(boxes, np.stack([points(40, 60)] * 2), SIZE)
    assert windows(crop) == [[69, 19, 131, 81]] * 2


def test_frames_without_points_take_the_box_and_those_without_a_face_the_others_window() -> None:
    boxes = normalised((80, 30, 120, 60), (NAN,) * 4, (80, 30, 120, 60))
    unknown = np.full((3, 5, 2), NAN, np.float32)
    assert windows(face_crop(boxes, unknown, SIZE)) == [[75, 20, 125, 70]] * 3


@pytest.mark.parametrize(("margin", "expected"), [(0.0, [80, 25, 120, 65]), (0.5, [60, 5, 140, 85])])
def test_the_margin_is_added_on_every_side(margin: float, expected: list[int]) -> None:
    assert windows(face_crop(normalised((80, 30, 120, 60)), None, SIZE, margin)) == [expected]


def test_one_wrong_box_in_sixteen_changes_nothing() -> None:
    boxes = normalised(*[(80, 30, 120, 70)] * 15, (0, 0, 20, 20))
    assert windows(face_crop(boxes, None, SIZE)) == [[75, 25, 125, 75]] * 16


def test_small_movements_stay_in_one_window() -> None:
    # Five pixels to and fro; the window of 50 around faces of 40 leaves five on every side.
    boxes = normalised(*[(75 + 5 * (t % 3), 30, 115 + 5 * (t % 3), 70) for t in range(15)])
    crop = face_crop(boxes, None, SIZE)
    assert crop is not None and not crop.follows and crop.windows[0].tolist() == [75, 25, 125, 75]


def walk(count: int = 16) -> np.ndarray:
    """A head that walks from left to right, six pixels from frame to frame."""
    return normalised(*[(30 + 6 * t, 30, 70 + 6 * t, 70) for t in range(count)])


def test_the_window_follows_a_head_that_walks_through_the_picture() -> None:
    crop = face_crop(walk(), None, SIZE)
    assert crop is not None and crop.follows
    # A straight walk is its own running median and mean, but for the ends, which lean towards the middle.
    assert windows(crop)[2:-2] == [[25 + 6 * t, 25, 75 + 6 * t, 75] for t in range(2, 14)]
    assert {right - left for left, _, right, _ in windows(crop)} == {50}
    assert windows(face_crop(walk(), None, SIZE, follow=False)) == [[70, 25, 120, 75]] * 16


def test_over_a_gap_the_window_follows_the_straight_way() -> None:
    boxes = walk()
    boxes[7:9] = NAN
    assert windows(face_crop(boxes, None, SIZE))[7:9] == [[67, 25, 117, 75], [73, 25, 123, 75]]


def test_the_window_grows_with_a_face_that_comes_closer() -> None:
    boxes = normalised(*[(100 - 2 * t, 50 - 2 * t, 100 + 2 * t, 50 + 2 * t) for t in range(5, 21)])
    crop = face_crop(boxes, None, SIZE)
    assert crop is not None
    sides = crop.windows[:, 2] - crop.windows[:, 0]
    assert sides[2:14].tolist() == [5 * t for t in range(7, 19)]


def test_nobody_is_no_crop() -> None:
    assert face_crop(np.full((4, 4), NAN), np.full((4, 5, 2), NAN), SIZE) is None


def test_labels_are_taken_as_arrays_or_tensors() -> None:
    boxes, landmarks = walk(), np.stack([points(40, 60, 50 + 6 * t) for t in range(16)])
    tensors = face_crop(torch.from_numpy(boxes), torch.from_numpy(landmarks), SIZE)
    assert windows(face_crop(boxes, landmarks, SIZE)) == windows(tensors)


@pytest.mark.parametrize(
    ("boxes", "landmarks", "margin", "problem"),
    [
        (np.zeros((2, 3)), None, 0.1, "must be \\(T, 4\\)"),
        (np.zeros((2, 4)), np.zeros((3, 5, 2)), 0.1, "of the same frames"),
        (np.zeros((2, 4)), None, -0.1, "margin=-0.1: must not be negative"),
    ],
)
def test_what_does_not_fit_is_refused(boxes, landmarks, margin: float, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        face_crop(boxes, landmarks, SIZE, margin)


@given(
    places=st.lists(st.tuples(*[st.floats(-0.2, 1.2)] * 4), min_size=1, max_size=8),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
@settings(max_examples=100, deadline=None)
def test_windows_are_squares_inside_the_frame(places: list[tuple[float, ...]], width: int, height: int) -> None:
    corners = np.array(places)
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    crop = face_crop(boxes, None, (height, width))
    if crop is None:
        assert not ((boxes[:, 2:] - boxes[:, :2]) > 0).any()
        return
    assert crop.windows.shape == (len(places), 4)
    sides = crop.windows[:, 2:] - crop.windows[:, :2]
    assert (sides[:, 0] == sides[:, 1]).all() and (sides >= 1).all()
    assert (crop.windows[:, :2] >= 0).all() and (crop.windows[:, 2:] <= [width, height]).all()


def test_frames_are_cut_at_their_windows() -> None:
    frames = torch.randint(
        0, 256, (16, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    still = face_crop(normalised(*[(80, 30, 120, 60)] * 16), None, SIZE)
    moving = face_crop(walk(), None, SIZE)
    assert still is not None and moving is not None
    assert torch.equal(still.cut(frames), frames[:, :, 20:70, 75:125])
    assert torch.equal(still.cut(frames, (32, 24)), resize_frames(frames[:, :, 20:70, 75:125], (32, 24)))
    cut = moving.cut(frames, (32, 32))
    assert torch.equal(cut[5], resize_frames(frames[5, :, 25:75, 55:105], (32, 32)))
    assert moving.cut(frames).shape == (16, 3, 50, 50)


def test_given_boxes_become_squares_around_them() -> None:
    crop = box_crop((0.4, 0.3, 0.6, 0.6), SIZE, 3)
    assert crop.windows.tolist() == [[80, 25, 120, 65]] * 3
    each = box_crop(normalised((80, 30, 120, 60), (90, 30, 130, 60)), SIZE, 2)
    assert each.windows.tolist() == [[80, 25, 120, 65], [90, 25, 130, 65]]
    with pytest.raises(ValueError, match="or 3 of them"):
        box_crop(np.zeros((2, 4)), SIZE, 3)
    with pytest.raises(ValueError, match="has no area"):
        box_crop((0.5, 0.0, 0.2, 1.0), SIZE, 3)


def test_a_raised_window_shows_more_of_the_forehead() -> None:
    boxes, points = np.array([[0.4, 0.4, 0.6, 0.6]] * 2), None
    level = face_crop(boxes, points, (200, 200), margin=0.0)
    raised = face_crop(boxes, points, (200, 200), margin=0.0, rise=0.25)
    # A face of 40 pixels: a quarter of its window is 10 pixels.
    np.testing.assert_array_equal(level.windows[0], (80, 80, 120, 120))
    np.testing.assert_array_equal(raised.windows[0], (80, 70, 120, 110))


def test_a_window_that_is_tighter_than_the_box_on_purpose_stays_where_it_is() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([[0.35, 0.25, 0.65, 0.8]] * 12) + random.normal(0, 0.004, (12, 1))
    # Eyes and mouth 0.14 of the frame apart: a face of 139 pixels in a box of 220.
    points = np.array([[0.43, 0.45], [0.57, 0.45], [0.5, 0.52], [0.44, 0.59], [0.56, 0.59]])
    crop = face_crop(boxes, np.tile(points, (12, 1, 1)), (400, 400), margin=0.024, rise=0.1)
    assert crop is not None and not crop.follows
