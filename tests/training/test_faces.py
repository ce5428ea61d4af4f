"""Faces cut from pictures: labels stand where the pixels went."""

import numpy as np
import pytest
import torch

from mtcae_dfer.training.data.faces import (
    FaceAugmentation,
    FaceCut,
    FaceSet,
    face_squares,
    join_faces,
    make_batch,
    measure_tones,
    middle_frames,
    smooth_targets,
)

SIDE = 96
POINTS = np.array([[0.38, 0.42], [0.60, 0.40], [0.48, 0.52], [0.40, 0.66], [0.58, 0.65]], np.float32)


def dotted_faces(count: int = 6, frames: int = 2) -> FaceSet:
    """Black pictures in which every landmark is a small blob of its own brightness."""
    pictures = np.zeros((count, frames, 3, SIDE, SIDE), np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    for number, (x, y) in enumerate(POINTS * SIDE):
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) * (250 - 40 * number)
        pictures[:] = np.maximum(pictures, blob.astype(np.uint8))
    return FaceSet(
        pictures=torch.from_numpy(pictures),
        labels=np.arange(count) % 7,
        targets=smooth_targets(np.arange(count) % 7, 7, 0.1),
        votes=np.zeros((count, 7), np.float32),
        face_boxes=np.tile(np.array([0.3, 0.25, 0.7, 0.75], np.float32), (count, frames, 1)),
        face_landmarks=np.tile(POINTS, (count, frames, 1, 1)),
        subjects=np.array(["a"] * count),
        tones=measure_tones(torch.from_numpy(pictures)),
    )


def test_stills_come_from_the_middle_half_of_clips_with_their_own_places_and_tones() -> None:
    clips = dotted_faces(count=2, frames=16)
    clips.pictures[:] = torch.arange(16, dtype=torch.uint8)[:, None, None, None] * 10  # a frame is its number
    clips.face_boxes[:] = np.arange(16)[:, None] / 100
    stills = middle_frames(clips, 2)
    # Two of the frames 4 to 11: the centres of their halves.
    assert stills.pictures.shape == (4, 1, 3, SIDE, SIDE)
    assert stills.pictures[:, 0, 0, 0, 0].tolist() == [60, 60, 100, 100]
    np.testing.assert_allclose(stills.face_boxes[:, 0, 0], [0.06, 0.06, 0.1, 0.1])
    np.testing.assert_allclose(stills.tones[:, 0], np.array([60, 60, 100, 100]) / 255)
    assert stills.labels.tolist() == [0, 1, 0, 1]


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
    still_light = FaceAugmentation(tone=0, contrast=0, tint=0, light=0, grey=0, erase=0)
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
    expected = faces.pictures[0].float() / 255
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


def test_targets_are_labels_with_a_share_spread_over_all_classes() -> None:
    np.testing.assert_allclose(
        smooth_targets(np.array([1, 0]), 4, 0.2), [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]]
    )


def test_a_selection_keeps_pictures_and_labels_together() -> None:
    faces = dotted_faces()
    faces.pictures[:] = torch.arange(6, dtype=torch.uint8)[:, None, None, None, None]
    chosen = faces.select(faces.labels > 3)
    assert chosen.labels.tolist() == [4, 5] and chosen.pictures[:, 0, 0, 0, 0].tolist() == [4, 5]
    joined = join_faces([chosen, faces.select(np.array([1]))])
    assert joined.labels.tolist() == [4, 5, 1] and joined.pictures[:, 0, 0, 0, 0].tolist() == [4, 5, 1]
    np.testing.assert_array_equal(joined.targets.argmax(axis=1), joined.labels)


def test_the_erased_rectangle_is_one_grey_value_of_stated_size() -> None:
    faces = dotted_faces()
    only_erased = FaceAugmentation(
        tone=0, smallest=1, largest=1, shift=0, degrees=0, aspect=0, contrast=0, tint=0, light=0, grey=0, erase=1.0
    )
    whole = np.tile(np.array([0.5, 0.5, 1.0], np.float32), (6, 1))
    batch = make_batch(faces, whole, np.arange(6), SIDE, only_erased, np.random.default_rng(1))
    for clip in range(6):
        pixels = batch.pixel_values[clip] / 4 + 0.5
        plain = faces.pictures[clip].float() / 255
        changed = (pixels - plain).abs().amax(dim=(0, 1)) > 1e-5
        changed &= (pixels - plain.flip(-1)).abs().amax(dim=(0, 1)) > 1e-5  # the clip may be mirrored
        rows, columns = changed.any(dim=1).nonzero()[:, 0], changed.any(dim=0).nonzero()[:, 0]
        assert 0.1 * SIDE < len(rows) < 0.37 * SIDE and 0.1 * SIDE < len(columns) < 0.37 * SIDE


def test_a_clip_takes_the_tone_of_another_one() -> None:
    random = np.random.default_rng(0)
    even = random.integers(0, 256, (64, 64))  # every grey value alike often
    dull = (90 + 60 * random.beta(2, 5, (64, 64))).astype(int)
    pictures = np.stack([np.broadcast_to(grey, (1, 3, 64, 64)) for grey in (even, dull)]).astype(np.uint8)
    faces = dotted_faces(2, 1)
    faces.pictures, faces.tones = torch.from_numpy(pictures), measure_tones(torch.from_numpy(pictures))
    np.testing.assert_allclose(faces.tones[0], np.linspace(0, 1, 17), atol=0.05)
    only_tone = FaceAugmentation(1, 1, 0, 0, 0, tone=1, contrast=0, tint=0, light=0, grey=0, erase=0)
    whole = np.tile(np.array([[0.5, 0.5, 1.0]], np.float32), (2, 1))
    quantiles, told = np.linspace(0.1, 0.9, 9), set()
    for seed in range(8):
        batch = make_batch(faces, whole, np.array([0]), 64, only_tone, np.random.default_rng(seed))
        grey = (batch.pixel_values[0, 0, 0] / 4 + 0.5).numpy() * 255
        # Mirrored or not, the place of every grey value stays, and their order too.
        places = np.argsort(np.argsort(even, axis=None, kind="stable"))
        mirrored = np.argsort(np.argsort(even[:, ::-1], axis=None, kind="stable"))
        fits = [np.corrcoef(np.argsort(np.argsort(grey, axis=None)), ranks)[0, 1] for ranks in (places, mirrored)]
        assert max(fits) > 0.99
        reached = np.quantile(grey, quantiles)
        fitting = [
            name
            for name, source in (("own", even), ("other", dull))
            if np.abs(reached - np.quantile(source, quantiles)).max() < 8
        ]
        told.update(fitting)
        assert fitting
    assert told == {"own", "other"}
