"""Faces cut from pictures: labels stand where the pixels went."""

import numpy as np
import pytest
import torch

from mtcae_dfer.training.data.faces import FaceAugmentation, FaceCut, FaceSet, face_squares, make_batch

SIDE = 96
POINTS = np.array([[0.38, 0.42], [0.60, 0.40], [0.48, 0.52], [0.40, 0.66], [0.58, 0.65]], np.float32)


def dotted_faces(count: int = 6, frames: int = 2) -> FaceSet:
    """Black pictures in which every landmark is a small blob of its own brightness."""
    pictures = np.zeros((count, frames, SIDE, SIDE, 3), np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    for number, (x, y) in enumerate(POINTS * SIDE):
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) * (250 - 40 * number)
        pictures[:] = np.maximum(pictures, blob[..., None].astype(np.uint8))
    return FaceSet(
        pictures=pictures,
        labels=np.arange(count) % 7,
        face_boxes=np.tile(np.array([0.3, 0.25, 0.7, 0.75], np.float32), (count, frames, 1)),
        face_landmarks=np.tile(POINTS, (count, frames, 1, 1)),
        subjects=np.array(["a"] * count),
    )


def test_the_square_is_measured_from_eyes_to_mouth() -> None:
    landmarks = np.tile(
        np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]], np.float32), (1, 3, 1, 1)
    )
    landmarks[0, 2] = np.nan  # a frame without a face does not count
    (square,) = face_squares(landmarks, FaceCut(margin=0.25, rise=0.1))
    side = 1.5 * 2.48 * 0.2
    np.testing.assert_allclose(square, (0.5, 0.5 - 0.1 * side, side), atol=1e-6)
    (whole,) = face_squares(np.full_like(landmarks, np.nan), FaceCut())
    np.testing.assert_allclose(whole, (0.5, 0.5, 1.0))


@pytest.mark.parametrize("seed", range(4))
def test_labels_follow_the_pixels_through_every_change_of_place(seed: int) -> None:
    faces = dotted_faces()
    still_light = FaceAugmentation(contrast=0, tint=0, light=0, grey=0, erase=0)
    squares = face_squares(faces.face_landmarks, FaceCut())
    batch = make_batch(faces, squares, np.arange(6), 128, still_light, np.random.default_rng(seed))
    assert batch.pixel_values.shape == (6, 2, 3, 128, 128)
    grey = batch.pixel_values[:, :, 0] / 4 + 0.5
    for clip in range(6):
        for x, y in (batch.face_landmarks[clip, 1] * 128).tolist():
            around = grey[clip, 1, max(int(y) - 3, 0) : int(y) + 4, max(int(x) - 3, 0) : int(x) + 4]
            assert around.numel() and around.max() > 0.3  # a blob is there
    # After mirroring, the left eye is still the one with the smaller x.
    assert (batch.face_landmarks[:, :, 0, 0] < batch.face_landmarks[:, :, 1, 0]).all()
    centres = (batch.face_boxes[..., :2] + batch.face_boxes[..., 2:]) / 2
    assert (batch.face_boxes[..., 2:] > batch.face_boxes[..., :2]).all() and ((centres > 0.2) & (centres < 0.9)).all()


def test_without_augmentation_the_cut_is_the_square_itself() -> None:
    faces = dotted_faces(count=1)
    batch = make_batch(faces, np.array([[0.5, 0.5, 1.0]], np.float32), np.array([0]), SIDE)
    expected = torch.from_numpy(faces.pictures[0]).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(batch.pixel_values[0] / 4 + 0.5, expected)
    np.testing.assert_allclose(batch.face_landmarks[0], faces.face_landmarks[0], atol=1e-6)
    np.testing.assert_allclose(batch.face_boxes[0], faces.face_boxes[0], atol=1e-6)


def test_a_clip_without_a_face_has_no_label_and_the_same_generator_gives_the_same_batch() -> None:
    faces = dotted_faces()
    faces.face_boxes[2], faces.face_landmarks[2] = np.nan, np.nan
    squares = face_squares(faces.face_landmarks, FaceCut())
    first, second = (
        make_batch(faces, squares, np.arange(6), 64, FaceAugmentation(), np.random.default_rng(3)) for _ in range(2)
    )
    assert first.face_found.all(dim=1).tolist() == [True, True, False, True, True, True]
    assert torch.equal(first.pixel_values, second.pixel_values)
